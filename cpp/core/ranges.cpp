#include "core/ranges.h"

#include "core/core.h"

#include <algorithm>
#include <cmath>

namespace warpjet {
namespace {

// 1048576 rather than 1.04858e+06.
std::string number(double value) {
  const bool whole = std::floor(value) == value && std::abs(value) < 1e15;
  return whole ? cat(static_cast<std::int64_t>(value)) : cat(value);
}

// "a, b, c", or "a, b or c" with `last`.
std::string listed(const auto& names, std::string_view last) {
  std::string out;
  std::size_t left = names.size();
  for (const auto& name : names) {
    const bool first = left == names.size();
    out += cat(first ? std::string_view() : left == 1 ? last : std::string_view(", "), name);
    --left;
  }
  return out;
}

// NaN fails every comparison, so it is refused by every range.
bool takes(const ValueRange& range, double value) {
  if (!range.numbers.empty()) return std::ranges::find(range.numbers, value) != range.numbers.end();
  return (range.above ? value > range.low : value >= range.low) && value <= range.high && std::isfinite(value);
}

[[noreturn]] void refuse(const Rule& rule, std::string_view must_be, const auto& got) {
  WJ_FAIL(invalid_argument, rule.field, rule.is_entry ? ": each entry" : "", " must be ", must_be, ", got ", got);
}

std::string limits(const ValueRange& range) {
  const bool low = std::isfinite(range.low), high = std::isfinite(range.high);
  if (low && high && !range.above) return cat("from ", number(range.low), " to ", number(range.high));
  const std::string lowest = low ? cat(range.above ? "above " : "at least ", number(range.low)) : std::string();
  const std::string highest = high ? cat("at most ", number(range.high)) : std::string();
  return cat(lowest, low && high ? " and " : "", highest);
}

}  // namespace

std::string to_string(const ValueRange& range, std::string_view unit) {
  if (!range.texts.empty()) return cat("one of ", listed(range.texts, ", "));
  std::string words = range.numbers.empty() ? limits(range) : listed(range.numbers, " or ");
  if (!words.empty() && !unit.empty()) words += cat(" ", unit);
  return words;
}

void check(const Rule& rule, std::int64_t value) {
  if (!takes(rule.range, static_cast<double>(value))) refuse(rule, to_string(rule.range, rule.unit), value);
}

void check(const Rule& rule, double value) {
  if (takes(rule.range, value)) return;
  const std::string words = to_string(rule.range, rule.unit);
  const bool bounded = std::isfinite(rule.range.low) && std::isfinite(rule.range.high);
  refuse(rule, bounded ? words : cat("finite", words.empty() ? "" : " and ", words), value);
}

void check(const Rule& rule, const std::string& value) {
  if (rule.is_entry) {
    const auto size = static_cast<std::int64_t>(value.size());
    if (!takes(rule.range, static_cast<double>(size))) refuse(rule, to_string(rule.range, "bytes long"), size);
    WJ_REQUIRE(is_utf8(value), invalid_argument, rule.field, ": each entry must be UTF-8, got ", quote(value));
  } else if (!rule.range.texts.empty() && !rule.range.aliases) {
    const bool known = std::ranges::find(rule.range.texts, value) != rule.range.texts.end();
    WJ_REQUIRE(known, invalid_argument, rule.field, " must be ", to_string(rule.range), "; got ", quote(value));
  }
}

void check_count(const Rule& rule, std::size_t count) {
  const std::size_t most = rule.range.max_entries;
  WJ_REQUIRE(most == 0 || count <= most, invalid_argument, rule.field, " takes at most ", most, " entries, got ",
             count);
}

// The upper end is the vocabulary, which is known when the request is submitted.
void check_key(const Rule& rule, std::int32_t token) {
  WJ_REQUIRE(token >= 0, invalid_argument, rule.field, " takes token ids from 0, got ", token);
}

}  // namespace warpjet
