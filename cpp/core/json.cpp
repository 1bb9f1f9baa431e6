#include "core/core.h"

#include <array>
#include <charconv>
#include <cmath>

namespace warpjet {
namespace {

template <class T>
const T& get(const auto& value, Json::Kind found, Json::Kind expected) {
  const T* held = std::get_if<T>(&value);
  WJ_REQUIRE(held != nullptr, corrupt, "expected ", to_string(expected), ", got ", to_string(found));
  return *held;
}

void dump_string(std::string_view text, std::string& out) {
  out += '"';
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\t':
        out += "\\t";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          constexpr std::string_view kHex = "0123456789abcdef";
          out.append("\\u00").append(1, kHex[c >> 4]).append(1, kHex[c & 15]);
        } else {
          out += c;
        }
    }
  }
  out += '"';
}

void dump_real(double value, std::string& out) {
  if (!std::isfinite(value)) {
    out += "null";
    return;
  }
  std::array<char, 32> digits;
  const auto result = std::to_chars(digits.data(), digits.data() + digits.size(), value);  // shortest that reads back
  const std::string_view text(digits.data(), static_cast<std::size_t>(result.ptr - digits.data()));
  out += text;
  if (text.find_first_of(".e") == std::string_view::npos) out += ".0";  // stays a real when read back
}

void new_line(int indent, int depth, std::string& out) {
  if (indent < 0) return;
  out += '\n';
  out.append(static_cast<std::size_t>(indent) * static_cast<std::size_t>(depth), ' ');
}

// One value of a container, on a line of its own when indenting.
void dump_separator(bool first, int indent, int depth, std::string& out) {
  if (!first) out += indent < 0 ? ", " : ",";
  new_line(indent, depth + 1, out);
}

void dump_value(const Json& json, int indent, int depth, std::string& out) {
  switch (json.kind()) {
    case Json::Kind::null:
      out += "null";
      break;
    case Json::Kind::boolean:
      out += json.as_bool() ? "true" : "false";
      break;
    case Json::Kind::integer:
      out += std::to_string(json.as_int());
      break;
    case Json::Kind::real:
      dump_real(json.as_double(), out);
      break;
    case Json::Kind::string:
      dump_string(json.as_string(), out);
      break;
    case Json::Kind::array: {
      out += '[';
      bool first = true;
      for (const Json& item : json.as_array()) {
        dump_separator(std::exchange(first, false), indent, depth, out);
        dump_value(item, indent, depth + 1, out);
      }
      if (!first) new_line(indent, depth, out);
      out += ']';
      break;
    }
    case Json::Kind::object: {
      out += '{';
      bool first = true;
      for (const auto& [key, value] : json.as_object()) {
        dump_separator(std::exchange(first, false), indent, depth, out);
        dump_string(key, out);
        out += ": ";
        dump_value(value, indent, depth + 1, out);
      }
      if (!first) new_line(indent, depth, out);
      out += '}';
      break;
    }
  }
}

}  // namespace

std::string_view to_string(Json::Kind kind) {
  constexpr std::array<std::string_view, 7> kNames{"null",     "true or false", "an integer", "a number",
                                                   "a string", "an array",      "an object"};
  return kNames[static_cast<std::size_t>(kind)];
}

bool Json::as_bool() const {
  return get<bool>(value_, kind(), Kind::boolean);
}

std::int64_t Json::as_int() const {
  if (const double* real = std::get_if<double>(&value_)) {
    constexpr double kLimit = 9223372036854775808.0;  // 2^63
    WJ_REQUIRE(*real >= -kLimit && *real < kLimit && std::floor(*real) == *real, corrupt, "expected an integer, got ",
               *real);
    return static_cast<std::int64_t>(*real);
  }
  return get<std::int64_t>(value_, kind(), Kind::integer);
}

double Json::as_double() const {
  if (const std::int64_t* integer = std::get_if<std::int64_t>(&value_)) return static_cast<double>(*integer);
  return get<double>(value_, kind(), Kind::real);
}

const std::string& Json::as_string() const {
  return get<std::string>(value_, kind(), Kind::string);
}
const Json::Array& Json::as_array() const {
  return get<Array>(value_, kind(), Kind::array);
}
const Json::Object& Json::as_object() const {
  return get<Object>(value_, kind(), Kind::object);
}

const Json* Json::find(std::string_view key) const {
  const Object* object = std::get_if<Object>(&value_);
  if (object == nullptr) return nullptr;
  for (const auto& [name, value] : *object) {
    if (name == key) return &value;
  }
  return nullptr;
}

const Json& Json::at(std::string_view key) const {
  const Json* value = find(key);
  WJ_REQUIRE(value != nullptr, corrupt, is_object() ? "missing key " : "expected an object with key ", quote(key));
  return *value;
}

void Json::set(std::string key, Json value) {
  if (is_null()) value_ = Object{};
  Object* object = std::get_if<Object>(&value_);
  WJ_CHECK(object != nullptr, "set ", key, " on ", to_string(kind()));
  for (auto& [name, old] : *object) {
    if (name != key) continue;
    old = std::move(value);
    return;
  }
  object->emplace_back(std::move(key), std::move(value));
}

void Json::push(Json value) {
  if (is_null()) value_ = Array{};
  Array* array = std::get_if<Array>(&value_);
  WJ_CHECK(array != nullptr, "push on ", to_string(kind()));
  array->push_back(std::move(value));
}

std::string Json::dump(int indent) const {
  std::string out;
  dump_value(*this, indent, 0, out);
  return out;
}

}  // namespace warpjet
