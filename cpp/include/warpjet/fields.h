// Field descriptors: each config struct lists its members once, in fields(), with the values that they take. That list
// drives validate(), JSON, Python, the command line, the server's OpenAPI document, printing and comparison.
#pragma once

#include <warpjet/error.h>

#include <cstddef>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <tuple>

namespace warpjet {

// The values that a field takes. low and high bound a number, the bytes of a text in a list, and each number in a list
// or map; every number is finite.
struct ValueRange {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  bool above = false;                            // low itself is refused
  std::span<const int> numbers = {};             // these alone
  std::span<const std::string_view> texts = {};  // these alone, or
  bool aliases = false;                          // other names of them as well, which validate() resolves
  std::size_t max_entries = 0;                   // of a list or map; 0: no limit
};

constexpr ValueRange between(double low, double high) {
  return {.low = low, .high = high};
}

constexpr ValueRange at_least(double low) {
  return {.low = low};
}

constexpr ValueRange above(double low, double high = std::numeric_limits<double>::infinity()) {
  return {.low = low, .high = high, .above = true};
}

constexpr ValueRange one_of(std::span<const int> numbers) {
  return {.numbers = numbers};
}

constexpr ValueRange one_of(std::span<const std::string_view> texts) {
  return {.texts = texts};
}

constexpr ValueRange named(std::span<const std::string_view> texts) {
  return {.texts = texts, .aliases = true};
}

constexpr ValueRange entries(std::size_t most, ValueRange each = {}) {
  each.max_entries = most;
  return each;
}

// The range in words, with its unit: "from 1 to 128", "above 0 seconds", "one of a, b"; "" without a limit.
WJ_API std::string to_string(const ValueRange& range, std::string_view unit = {});

template <class Class, class Member>
struct Field {
  std::string_view name;
  Member Class::*member;
  ValueRange range = {};
  std::string_view unit = {};
  std::string_view doc = {};

  constexpr Field(std::string_view called, Member Class::*at, std::string_view text = {})
      : name(called), member(at), doc(text) {}
  constexpr Field(std::string_view called, Member Class::*at, const ValueRange& takes, std::string_view text)
      : name(called), member(at), range(takes), doc(text) {}
  constexpr Field(std::string_view called, Member Class::*at, const ValueRange& takes, std::string_view in,
                  std::string_view text)
      : name(called), member(at), range(takes), unit(in), doc(text) {}
};

template <class Class>
inline constexpr auto kFields = Class::fields();

// Calls visit(field) for every field of Class, in order.
template <class Class, class Visitor>
constexpr void for_each_field(Visitor&& visit) {
  std::apply([&](const auto&... field) { (visit(field), ...); }, kFields<Class>);
}

}  // namespace warpjet
