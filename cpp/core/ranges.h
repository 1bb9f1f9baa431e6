// Checks the fields of a config struct against the ranges in its fields().
#pragma once

#include <warpjet/config.h>

#include <concepts>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace warpjet {

// What a message says of a value: whose it is and what it should have been.
struct Rule {
  std::string_view field;
  const ValueRange& range;
  std::string_view unit;
  bool is_entry = false;  // the value is one of several in the field
};

// These throw invalid_argument with a message that begins with the field's name.
void check(const Rule& rule, std::int64_t value);
void check(const Rule& rule, double value);
void check(const Rule& rule, const std::string& value);
void check_count(const Rule& rule, std::size_t count);
void check_key(const Rule& rule, std::int32_t token);

inline void check(const Rule&, bool) {}
inline void check(const Rule&, const JsonText&) {}

inline void check(const Rule& rule, std::int32_t value) {
  check(rule, std::int64_t{value});
}

template <class T>
void check(const Rule& rule, const std::optional<T>& value) {
  if (value) check(rule, *value);
}

template <class T>
void check(const Rule& rule, const std::vector<T>& values) {
  if (!rule.is_entry) check_count(rule, values.size());
  for (const T& value : values) check({rule.field, rule.range, rule.unit, true}, value);
}

template <class T>
void check(const Rule& rule, const std::map<std::int32_t, T>& values) {
  check_count(rule, values.size());
  for (const auto& [token, value] : values) {
    check_key(rule, token);
    check({rule.field, rule.range, rule.unit, true}, value);
  }
}

template <class C>
void check_fields(const C& config) {
  for_each_field<C>([&](const auto& field) { check({field.name, field.range, field.unit}, config.*(field.member)); });
}

}  // namespace warpjet
