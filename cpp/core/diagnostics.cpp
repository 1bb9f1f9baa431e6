#include <warpjet/log.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <numeric>
#include <optional>

#include "core/core.h"

namespace warpjet {
namespace {

constexpr std::array<std::string_view, 4> kLevelNames{"error", "warn", "info", "debug"};

void write_to_stderr(LogLevel level, std::string_view line) {
  const std::string text = cat("warpjet ", kLevelNames[static_cast<std::size_t>(level)], ": ", line, "\n");
  std::fwrite(text.data(), 1, text.size(), stderr);
}

std::optional<LogLevel> level_named(std::string_view name) {
  if (name == "warning") return LogLevel::warn;  // Python's word
  const auto found = std::find(kLevelNames.begin(), kLevelNames.end(), name);
  if (found == kLevelNames.end()) return std::nullopt;
  return static_cast<LogLevel>(found - kLevelNames.begin());
}

// An unknown word must not be ignored, so it is reported once, here.
LogLevel level_from_environment() {
  const char* given = std::getenv("WARPJET_LOG");
  if (given == nullptr || *given == '\0') return LogLevel::warn;
  if (const auto level = level_named(given)) return *level;
  write_to_stderr(LogLevel::warn, cat("WARPJET_LOG=", given, " is not one of error, warn, info, debug; using warn"));
  return LogLevel::warn;
}

// WARPJET_DEBUG_SYNC: 0 or 1.
bool debug_sync_from_environment() {
  const char* given = std::getenv("WARPJET_DEBUG_SYNC");
  const std::string_view value = given ? given : "";
  if (value == "1") return true;
  if (!value.empty() && value != "0")
    write_to_stderr(LogLevel::warn, cat("WARPJET_DEBUG_SYNC=", value, " is not 0 or 1; using 0"));
  return false;
}

struct Log {
  std::mutex mutex;
  LogSink sink = write_to_stderr;
  std::atomic<LogLevel> level = level_from_environment();
};

// The process has one log, made when it is first used. Never destroyed: threads may log while statics go away.
Log& the_log() {
  static Log* log = new Log;
  return *log;
}

// A place in our sources helps nobody whose file or argument is at fault; it helps with a bug, and in a debug build.
std::string place([[maybe_unused]] ErrorCode code, const char* file, int line) {
#ifdef NDEBUG
  if (code != ErrorCode::internal) return {};
#endif
  return cat(" [", file, ":", line, "]");
}

}  // namespace

std::string_view to_string(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid_argument:
      return "invalid_argument";
    case ErrorCode::unsupported:
      return "unsupported";
    case ErrorCode::overloaded:
      return "overloaded";
    case ErrorCode::out_of_memory:
      return "out_of_memory";
    case ErrorCode::io:
      return "io";
    case ErrorCode::corrupt:
      return "corrupt";
    case ErrorCode::device:
      return "device";
    case ErrorCode::peer:
      return "peer";
    case ErrorCode::deadline_exceeded:
      return "deadline_exceeded";
    case ErrorCode::closed:
      return "closed";
    case ErrorCode::internal:
      return "internal";
  }
  return "internal";
}

Error::Error(ErrorCode code, std::string message, const char* file, int line)
    : std::runtime_error(cat(to_string(code), ": ", message, place(code, file, line))),
      code_(code),
      message_(std::move(message)) {}

void set_log_sink(LogSink sink) {
  Log& log = the_log();
  const std::lock_guard lock(log.mutex);
  log.sink = sink ? std::move(sink) : write_to_stderr;
}

bool debug_sync() {
  static const bool on = debug_sync_from_environment();
  return on;
}

bool log_enabled(LogLevel level) {
  return level <= the_log().level.load(std::memory_order_relaxed);
}

void set_log_level(std::string_view level) {
  const auto named = level_named(level);
  WJ_REQUIRE(named, invalid_argument, "the log level must be error, warn, info or debug, got ", quote(level));
  the_log().level.store(*named, std::memory_order_relaxed);
}

void log_line(LogLevel level, std::string_view line) {
  Log& log = the_log();
  LogSink sink;
  {
    const std::lock_guard lock(log.mutex);
    sink = log.sink;
  }
  // Called without the lock: a sink may wait for a lock of its own (Python's) that another logging thread holds.
  try {
    sink(level, line);
  } catch (...) {
    write_to_stderr(level, line);  // a broken sink must not fail what is being logged
  }
}

std::string nearest_name(std::string_view name, std::span<const std::string_view> names) {
  constexpr std::size_t kLongestName = 64;  // bounds the work on hostile input
  if (name.size() > kLongestName) return "";
  std::string_view best;
  std::size_t best_distance = std::max<std::size_t>(2, name.size() / 3) + 1;  // farther is not "close"
  for (const std::string_view candidate : names) {
    std::vector<std::size_t> row(candidate.size() + 1);  // Levenshtein distances of the prefixes
    std::iota(row.begin(), row.end(), std::size_t{0});
    for (std::size_t i = 0; i < name.size(); ++i) {
      std::size_t diagonal = row[0];
      row[0] = i + 1;
      for (std::size_t j = 0; j < candidate.size(); ++j) {
        const std::size_t replaced = diagonal + (name[i] == candidate[j] ? 0 : 1);
        diagonal = row[j + 1];
        row[j + 1] = std::min({replaced, row[j] + 1, row[j + 1] + 1});
      }
    }
    if (row.back() < best_distance) {
      best_distance = row.back();
      best = candidate;
    }
  }
  return std::string(best);
}

bool is_utf8(std::string_view text) {
  std::size_t i = 0;
  while (i < text.size()) {
    const auto lead = static_cast<unsigned char>(text[i++]);
    if (lead < 0x80) continue;
    const int tail = lead < 0xe0 ? 1 : lead < 0xf0 ? 2 : 3;
    if (lead < 0xc2 || lead > 0xf4 || text.size() - i < static_cast<std::size_t>(tail)) return false;
    // The second byte's range rules out overlong forms, surrogates and code points above U+10FFFF.
    const auto second = static_cast<unsigned char>(text[i]);
    const unsigned char low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    const unsigned char high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    if (second < low || second > high) return false;
    for (int k = 1; k < tail; ++k) {
      if ((static_cast<unsigned char>(text[i + k]) & 0xc0) != 0x80) return false;
    }
    i += tail;
  }
  return true;
}

std::string quote(std::string_view text) {
  constexpr std::size_t kLongest = 80;
  std::string out = "\"";
  for (const char c : text.substr(0, kLongest)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte >= 0x7f) {
      constexpr std::string_view kHex = "0123456789abcdef";
      out.append("\\x").append(1, kHex[byte >> 4]).append(1, kHex[byte & 15]);
    } else {
      out += c;
    }
  }
  if (text.size() > kLongest) out += cat("... (", text.size(), " bytes)");
  return out + "\"";
}

}  // namespace warpjet
