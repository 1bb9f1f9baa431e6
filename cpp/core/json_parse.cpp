// The JSON reader. Recursion is bounded by kMaxDepth, memory by kMaxValues; every byte is looked at once.
#include "core/core.h"

#include <algorithm>
#include <charconv>
#include <limits>

namespace warpjet {
namespace {

constexpr int kMaxDepth = 128;
constexpr std::int64_t kMaxValues = std::int64_t{1} << 24;

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

void append_utf8(std::uint32_t code, std::string& out) {
  const auto put = [&](std::uint32_t byte) { out += static_cast<char>(byte); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xc0 | code >> 6), put(0x80 | (code & 63));
  } else if (code < 0x10000) {
    put(0xe0 | code >> 12), put(0x80 | (code >> 6 & 63)), put(0x80 | (code & 63));
  } else {
    put(0xf0 | code >> 18), put(0x80 | (code >> 12 & 63)), put(0x80 | (code >> 6 & 63)), put(0x80 | (code & 63));
  }
}

class Parser {
 public:
  Parser(std::string_view text, const Json::ParseOptions& options) : text_(text), options_(options) {}

  Json document() {
    Json json = value(0);
    skip_space();
    if (at_ < text_.size()) fail(at_, "text after the end of the document");
    return json;
  }

 private:
  template <class... Parts>
  [[noreturn]] void fail(std::size_t offset, const Parts&... parts) const {
    const std::string_view before = text_.substr(0, offset);
    const auto line = std::count(before.begin(), before.end(), '\n') + 1;
    const std::size_t line_start = before.rfind('\n') + 1;  // npos + 1 is 0: the first line
    WJ_FAIL(corrupt, options_.source, ":", line, ":", offset - line_start + 1, ": ", parts...);
  }

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  void skip_space() {
    while (at_ < text_.size() && std::string_view(" \t\r\n").find(text_[at_]) != std::string_view::npos) ++at_;
  }

  bool accept(std::string_view token) {
    if (text_.substr(at_, token.size()) != token) return false;
    at_ += token.size();
    return true;
  }

  void expect(char token, std::string_view place) {
    skip_space();
    if (at_ >= text_.size()) fail(at_, "the text ends inside ", place);
    if (text_[at_] != token) fail(at_, "expected '", token, "' in ", place);
    ++at_;
  }

  Json value(int depth) {
    skip_space();
    if (++values_ > kMaxValues) fail(at_, "more than ", kMaxValues, " values");
    switch (peek()) {
      case '{':
        return object(depth + 1);
      case '[':
        return array(depth + 1);
      case '"':
        return string();
      default:
        break;
    }
    if (accept("true")) return true;
    if (accept("false")) return false;
    if (accept("null")) return nullptr;
    if (options_.allow_non_finite) {
      if (accept("NaN")) return std::numeric_limits<double>::quiet_NaN();
      if (accept("Infinity")) return std::numeric_limits<double>::infinity();
      if (accept("-Infinity")) return -std::numeric_limits<double>::infinity();
    }
    return number();
  }

  void check_depth(int depth) const {
    if (depth > kMaxDepth) fail(at_, "nested deeper than ", kMaxDepth);
  }

  Json array(int depth) {
    check_depth(depth);
    ++at_;
    Json::Array items;
    skip_space();
    if (accept("]")) return items;
    while (true) {
      items.push_back(value(depth));
      skip_space();
      if (accept("]")) return items;
      expect(',', "an array");
    }
  }

  Json object(int depth) {
    check_depth(depth);
    ++at_;
    Json::Object members;
    std::vector<std::size_t> key_offsets;
    skip_space();
    if (accept("}")) return members;
    while (true) {
      skip_space();
      if (at_ < text_.size() && peek() != '"') fail(at_, "expected a key in quotes");
      key_offsets.push_back(at_);
      std::string key = string();
      expect(':', "an object");
      members.emplace_back(std::move(key), value(depth));
      skip_space();
      if (accept("}")) break;
      expect(',', "an object");
    }
    check_duplicates(members, key_offsets);
    return members;
  }

  // Sorting keeps a million keys, also chosen by an enemy, at n log n.
  void check_duplicates(const Json::Object& members, const std::vector<std::size_t>& key_offsets) const {
    std::vector<std::pair<std::string_view, std::size_t>> keys;
    keys.reserve(members.size());
    for (std::size_t i = 0; i < members.size(); ++i) keys.emplace_back(members[i].first, key_offsets[i]);
    std::sort(keys.begin(), keys.end());
    for (std::size_t i = 1; i < keys.size(); ++i) {
      if (keys[i].first == keys[i - 1].first) fail(keys[i].second, "duplicate key ", quote(keys[i].first));
    }
  }

  std::string string() {
    const std::size_t start = at_;
    expect('"', "a document");
    std::string out;
    while (true) {
      const auto special = [](char c) { return c == '"' || c == '\\' || static_cast<unsigned char>(c) < 0x20; };
      const auto end = std::find_if(text_.begin() + static_cast<std::ptrdiff_t>(at_), text_.end(), special);
      if (end == text_.end()) fail(start, "the string has no end");
      const std::string_view run = text_.substr(at_, static_cast<std::size_t>(end - text_.begin()) - at_);
      if (!is_utf8(run)) fail(at_, "the string is not UTF-8");
      out += run;
      at_ += run.size();
      if (accept("\"")) return out;
      if (!accept("\\")) fail(at_, "control character in a string; it must be escaped");
      escape(out);
    }
  }

  void escape(std::string& out) {
    constexpr std::string_view kNames = "\"\\/bfnrt", kValues = "\"\\/\b\f\n\r\t";
    const std::size_t named = kNames.find(peek());
    if (named != std::string_view::npos && at_ < text_.size()) {
      out += kValues[named];
      ++at_;
      return;
    }
    const std::size_t start = at_ - 1;
    if (!accept("u")) fail(start, "unknown escape in a string");
    std::uint32_t code = hex4(start);
    if (code >= 0xd800 && code < 0xdc00 && accept("\\u")) {
      const std::uint32_t low = hex4(start);
      if (low < 0xdc00 || low > 0xdfff) fail(start, "lone surrogate in a string");
      code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    }
    if (code >= 0xd800 && code < 0xe000) fail(start, "lone surrogate in a string");
    append_utf8(code, out);
  }

  std::uint32_t hex4(std::size_t escape_start) {
    const std::string_view digits = text_.substr(at_, 4);
    std::uint32_t code = 0;
    const auto result = std::from_chars(digits.data(), digits.data() + digits.size(), code, 16);
    if (digits.size() != 4 || result.ptr != digits.data() + 4) fail(escape_start, "\\u needs four hexadecimal digits");
    at_ += 4;
    return code;
  }

  void skip_digits() {
    if (!is_digit(peek())) fail(at_, "expected a digit");
    while (is_digit(peek())) ++at_;
  }

  Json number() {
    const std::size_t start = at_;
    if (at_ >= text_.size()) fail(at_, "the text ends where a value should be");
    accept("-");
    if (!is_digit(peek())) fail(start, "expected a value");
    if (accept("0")) {
      if (is_digit(peek())) fail(start, "a number must not begin with 0");
    } else {
      skip_digits();
    }
    bool real = accept(".");
    if (real) skip_digits();
    if (accept("e") || accept("E")) {
      real = true;
      if (!accept("+")) accept("-");
      skip_digits();
    }
    const std::string_view token = text_.substr(start, at_ - start);
    return real ? parse<double>(token, start) : parse<std::int64_t>(token, start);
  }

  template <class T>
  Json parse(std::string_view token, std::size_t start) const {
    T number{};
    const auto result = std::from_chars(token.data(), token.data() + token.size(), number);
    if (result.ec != std::errc()) fail(start, "number out of range: ", quote(token));
    return number;
  }

  std::string_view text_;
  const Json::ParseOptions& options_;
  std::size_t at_ = 0;
  std::int64_t values_ = 0;
};

}  // namespace

Json Json::parse(std::string_view text, const ParseOptions& options) {
  return Parser(text, options).document();
}

Json Json::load(const std::filesystem::path& path) {
  return parse(read_text_file(path), {.source = path.string(), .allow_non_finite = true});
}

}  // namespace warpjet
