// tokenizer.json -> the bytes behind each token id.
#include <warpjet/vocabulary.h>

#include <array>
#include <optional>

#include "core/core.h"

namespace warpjet {
namespace {

constexpr std::int64_t kMaxTokens = 1 << 24;

enum class Coding : std::uint8_t { byte_level, byte_fallback };

// Takes one code point off the front of well-formed UTF-8.
char32_t next_code_point(std::string_view& text) {
  const auto lead = static_cast<unsigned char>(text[0]);
  const std::size_t length = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  char32_t point = length == 1 ? lead : lead & (0x7f >> length);
  for (std::size_t i = 1; i < length; ++i) point = point << 6 | (static_cast<unsigned char>(text[i]) & 0x3f);
  text.remove_prefix(length);
  return point;
}

// Byte-level BPE (Radford et al. 2019) writes each byte as a printable character: itself where it is printable, else
// one of the characters from U+0100 on, in order.
std::array<std::int16_t, 512> make_byte_of_character() {
  std::array<std::int16_t, 512> table;
  table.fill(-1);
  int next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    table[printable ? byte : next++] = static_cast<std::int16_t>(byte);
  }
  return table;
}

std::string byte_level(std::string_view token) {
  static const std::array<std::int16_t, 512> byte_of = make_byte_of_character();
  std::string bytes;
  while (!token.empty()) {
    const std::string_view rest = token;
    const char32_t point = next_code_point(token);
    if (point < byte_of.size() && byte_of[point] >= 0) {
      bytes += static_cast<char>(byte_of[point]);
    } else {
      bytes += rest.substr(0, rest.size() - token.size());
    }
  }
  return bytes;
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

// "<0x0A>" is a byte; U+2581 stands for a space.
std::string byte_fallback(std::string_view token) {
  if (token.size() == 6 && token.starts_with("<0x") && token.ends_with('>')) {
    const int high = hex_digit(token[3]), low = hex_digit(token[4]);
    if (high >= 0 && low >= 0) return std::string(1, static_cast<char>(high * 16 + low));
  }
  constexpr std::string_view kSpace = "\u2581";
  std::string bytes;
  while (!token.empty()) {
    const std::string_view before = token.substr(0, token.find(kSpace));
    bytes += before;
    token.remove_prefix(before.size());
    if (token.empty()) break;
    bytes += ' ';
    token.remove_prefix(kSpace.size());
  }
  return bytes;
}

// Looks for the decoder's kind, at the top or inside a sequence.
std::optional<Coding> coding_of(const Json& decoder) {
  const Json* type = decoder.find("type");
  if (!type || !type->is_string()) return std::nullopt;
  if (type->as_string() == "ByteLevel") return Coding::byte_level;
  if (type->as_string() == "ByteFallback" || type->as_string() == "Metaspace") return Coding::byte_fallback;
  if (type->as_string() != "Sequence") return std::nullopt;
  for (const Json& inner : decoder.at("decoders").as_array()) {
    if (const auto coding = coding_of(inner)) return coding;
  }
  return std::nullopt;
}

}  // namespace

Vocabulary Vocabulary::load(const std::filesystem::path& directory) {
  const std::filesystem::path file = directory / "tokenizer.json";
  return parse(read_text_file(file), file.string());
}

Vocabulary Vocabulary::parse(std::string_view text, const std::string& source) {
  const Json json = Json::parse(text, {.source = source});
  const Json* decoder = json.find("decoder");
  const std::optional<Coding> coding = decoder ? coding_of(*decoder) : std::nullopt;
  WJ_REQUIRE(coding, unsupported, source, ": decoder is neither byte-level nor byte-fallback");

  Vocabulary vocabulary;
  const auto slot = [&](std::int64_t id) -> std::string& {
    WJ_REQUIRE(id >= 0 && id < kMaxTokens, corrupt, source, ": token id ", id, " is outside [0, ", kMaxTokens, ")");
    if (id >= vocabulary.size()) vocabulary.bytes_.resize(id + 1);
    return vocabulary.bytes_[id];
  };
  for (const auto& [token, id] : json.at("model").at("vocab").as_object()) {
    slot(id.as_int()) = *coding == Coding::byte_level ? byte_level(token) : byte_fallback(token);
  }
  if (const Json* added = json.find("added_tokens")) {
    for (const Json& token : added->as_array()) {
      slot(token.at("id").as_int()) = token.at("special").as_bool() ? "" : token.at("content").as_string();
    }
  }
  return vocabulary;
}

std::string Vocabulary::text(std::span<const std::int32_t> tokens) const {
  std::string out;
  for (std::int32_t token : tokens) {
    if (token >= 0 && token < size()) out += bytes_[token];
  }
  return out;
}

}  // namespace warpjet
