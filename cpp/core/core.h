// Core: checks, logging, JSON, files and hashes. Everything else stands on this layer; it includes nothing of ours but
// the public headers.
#pragma once

#include <warpjet/error.h>
#include <warpjet/fields.h>
#include <warpjet/tensor.h>

#include <atomic>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <map>
#include <optional>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace warpjet {

// --- Text ------------------------------------------------------------------------------------------------------------

// Concatenates anything that prints: cat("k=", 3, " of ", name).
template <class... Parts>
std::string cat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return std::move(out).str();
}

// The entry of `names` closest to `name` by edit distance, or "" when nothing is close.
std::string nearest_name(std::string_view name, std::span<const std::string_view> names);

// True when `text` is well-formed UTF-8.
bool is_utf8(std::string_view text);

// `text` for a message: in quotes, control and non-ASCII bytes as \xNN, cut to 80 bytes. For names out of files.
std::string quote(std::string_view text);

// --- Checks ----------------------------------------------------------------------------------------------------------

// WJ_FAIL(corrupt, "header of ", size, " bytes, expected at most ", limit) throws Error with file and line.
#define WJ_FAIL(code, ...) \
  throw ::warpjet::Error(::warpjet::ErrorCode::code, ::warpjet::cat(__VA_ARGS__), __FILE__, __LINE__)

// The caller's or the file's mistake: WJ_REQUIRE(k > 0, invalid_argument, "k must be positive, got ", k).
#define WJ_REQUIRE(condition, code, ...)          \
  do {                                            \
    if (!(condition)) WJ_FAIL(code, __VA_ARGS__); \
  } while (false)

// Our own invariant; failing is a bug in Warpjet.
#define WJ_CHECK(condition, ...) \
  WJ_REQUIRE(condition, internal, "check failed: " #condition " " __VA_OPT__(, ) __VA_ARGS__)

// --- Log -------------------------------------------------------------------------------------------------------------

enum class LogLevel : std::uint8_t { error, warn, info, debug };

// Receives finished lines without a newline. The default writes to stderr. WARPJET_LOG sets the level (default warn).
using LogSink = std::function<void(LogLevel, std::string_view)>;
void set_log_sink(LogSink sink);
bool log_enabled(LogLevel level);
void log_line(LogLevel level, std::string_view line);

// WJ_LOG(info, "engine ready", " kv_blocks=", n)
#define WJ_LOG(level, ...)                                                          \
  do {                                                                              \
    if (::warpjet::log_enabled(::warpjet::LogLevel::level))                         \
      ::warpjet::log_line(::warpjet::LogLevel::level, ::warpjet::cat(__VA_ARGS__)); \
  } while (false)

// Whether every kernel is waited for and named when it fails: WARPJET_DEBUG_SYNC=1. Read once.
bool debug_sync();

// --- Arithmetic ------------------------------------------------------------------------------------------------------

template <std::integral T>
constexpr T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}
template <std::integral T>
constexpr T align_up(T value, T alignment) {
  return ceil_div(value, alignment) * alignment;
}

// a * b of non-negative sizes that came from a file; throws corrupt on overflow.
std::int64_t checked_mul(std::int64_t a, std::int64_t b);

// --- Hash ------------------------------------------------------------------------------------------------------------

// 64-bit multiply-mix hash of bytes; not cryptographic. Streams: hash64(b, hash64(a)) depends on where it was cut.
std::uint64_t hash64(std::span<const std::byte> bytes, std::uint64_t seed = 0);

// The checksum of engine files: a streamed hash64 over fixed 64 KiB pieces, so it does not depend on write sizes.
class Checksum {
 public:
  void update(std::span<const std::byte> bytes);
  std::string hex() const;  // 16 digits

 private:
  std::uint64_t state_ = 0x6a09e667f3bcc908u;
  std::uint64_t length_ = 0;
  std::vector<std::byte> piece_;
};

// --- Faults ----------------------------------------------------------------------------------------------------------

// Tests: what can go wrong, by enumeration. Code asks hit() where the world may fail; production has no plan. Counts
// every question and says yes to the chosen one. Any thread.
class FaultPlan {
 public:
  explicit FaultPlan(std::int64_t fail_at = -1) : fail_at_(fail_at) {}
  bool hit() { return hits_.fetch_add(1, std::memory_order_relaxed) == fail_at_.load(std::memory_order_relaxed); }
  std::int64_t hits() const { return hits_.load(std::memory_order_relaxed); }
  void fail_next() { fail_at_.store(hits_.load()); }

 private:
  std::atomic<std::int64_t> hits_{0}, fail_at_;
};

// --- GPUs ------------------------------------------------------------------------------------------------------------

// What one can do, for estimates.
struct GpuSpec {
  std::string_view name;
  double gb_per_s;     // memory bandwidth
  double bf16_tflops;  // dense
  double memory_gib;
  std::string_view source;
};
const GpuSpec& find_gpu(std::string_view name);  // in any case; throws invalid_argument listing the names

// --- Concepts --------------------------------------------------------------------------------------------------------

template <class T>
concept Integer = std::integral<T> && !std::same_as<T, bool>;

// A config struct that lists its members (fields.h).
template <class T>
concept HasFields = requires {
  T::fields();
};

// An enum whose values have names: `constexpr auto names_of(E)` in its namespace is an array of them, in order.
// Printing and JSON follow.
template <class E>
concept NamedEnum = std::is_enum_v<E> && requires(E e) {
  names_of(e).size();
};

template <NamedEnum E>
constexpr std::string_view to_string(E value) {
  constexpr auto kNames = names_of(E{});
  const auto index = static_cast<std::size_t>(value);
  return index < kNames.size() ? kNames[index] : "unknown";
}

// --- JSON ------------------------------------------------------------------------------------------------------------

// A JSON value. Objects keep their order. The parser is strict (RFC 8259): duplicate keys, trailing text, invalid
// UTF-8, lone surrogates, numbers out of range, nesting beyond 128 and more than 2^24 values are corrupt, reported as
// <source>:line:column (bytes). A number without fraction and exponent is an integer and must fit 64 bits.
class Json {
 public:
  enum class Kind : std::uint8_t { null, boolean, integer, real, string, array, object };
  using Array = std::vector<Json>;
  using Object = std::vector<std::pair<std::string, Json>>;

  struct ParseOptions {
    std::string source = "json";
    bool allow_non_finite = false;  // Python writes NaN and Infinity into some config.json files
  };

  Json() = default;
  Json(std::nullptr_t) {}
  Json(bool value) : value_(value) {}
  template <Integer T>
  Json(T value) : value_(static_cast<std::int64_t>(value)) {}
  Json(double value) : value_(value) {}
  Json(std::string value) : value_(std::move(value)) {}
  Json(std::string_view value) : Json(std::string(value)) {}
  Json(const char* value) : Json(std::string(value)) {}
  Json(Array value) : value_(std::move(value)) {}
  Json(Object value) : value_(std::move(value)) {}

  static Json parse(std::string_view text, const ParseOptions& options);
  static Json parse(std::string_view text) { return parse(text, ParseOptions{}); }
  static Json load(const std::filesystem::path& path);  // whole file, at most 256 MiB; allows non-finite numbers

  // indent < 0: one line. Non-finite reals are written as null.
  std::string dump(int indent = -1) const;

  Kind kind() const { return static_cast<Kind>(value_.index()); }
  bool is_null() const { return kind() == Kind::null; }
  bool is_object() const { return kind() == Kind::object; }
  bool is_array() const { return kind() == Kind::array; }
  bool is_string() const { return kind() == Kind::string; }
  bool is_number() const { return kind() == Kind::integer || kind() == Kind::real; }
  bool is_integer() const { return kind() == Kind::integer; }
  bool is_bool() const { return kind() == Kind::boolean; }

  // Typed access; throws corrupt naming what was found. as_double takes integers; as_int takes 4.0 too.
  bool as_bool() const;
  std::int64_t as_int() const;
  double as_double() const;
  const std::string& as_string() const;
  const Array& as_array() const;
  const Object& as_object() const;

  const Json* find(std::string_view key) const;  // object member or nullptr (also when this is no object)
  const Json& at(std::string_view key) const;    // throws corrupt when missing
  void set(std::string key, Json value);         // adds or replaces; makes a null an object
  void push(Json value);                         // appends; makes a null an array

 private:
  std::variant<std::nullptr_t, bool, std::int64_t, double, std::string, Array, Object> value_;  // in Kind's order
};

std::string_view to_string(Json::Kind kind);

// --- Config structs <-> JSON -----------------------------------------------------------------------------------------

inline Json json_of(bool v) {
  return Json(v);
}
template <Integer T>
Json json_of(T v) {
  return Json(v);
}
inline Json json_of(double v) {
  return Json(v);
}
inline Json json_of(float v) {
  return Json(static_cast<double>(v));
}
template <NamedEnum E>
Json json_of(E v) {
  return Json(to_string(v));
}
inline Json json_of(DType v) {
  return Json(to_string(v));
}
inline Json json_of(const std::string& v) {
  return Json(v);
}
template <class T>
Json json_of(const std::optional<T>& v);
template <class T>
Json json_of(const std::vector<T>& v);

template <HasFields C>
Json json_of(const C& config) {
  Json out{Json::Object{}};
  for_each_field<C>([&](const auto& field) { out.set(std::string(field.name), json_of(config.*(field.member))); });
  return out;
}
template <class T>
Json json_of(const std::optional<T>& v) {
  return v ? json_of(*v) : Json();
}
template <class T>
Json json_of(const std::vector<T>& v) {
  Json out{Json::Array{}};
  for (const auto& item : v) out.push(json_of(item));
  return out;
}

inline void from_json(const Json& json, bool& v) {
  v = json.as_bool();
}
template <Integer T>
void from_json(const Json& json, T& v) {
  const std::int64_t wide = json.as_int();
  WJ_REQUIRE(std::in_range<T>(wide), corrupt, "number ", wide, " is out of range");
  v = static_cast<T>(wide);
}
inline void from_json(const Json& json, double& v) {
  v = json.as_double();
}
inline void from_json(const Json& json, float& v) {
  v = static_cast<float>(json.as_double());
}
template <NamedEnum E>
void from_json(const Json& json, E& v) {
  constexpr auto kNames = names_of(E{});
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] != json.as_string()) continue;
    v = static_cast<E>(i);
    return;
  }
  std::string names;
  for (const std::string_view name : kNames) names += cat(names.empty() ? "" : ", ", name);
  WJ_FAIL(corrupt, "unknown name ", quote(json.as_string()), "; there are ", names);
}
inline void from_json(const Json& json, DType& v) {
  const std::optional<DType> dtype = dtype_from_string(json.as_string());
  WJ_REQUIRE(dtype, corrupt, "unknown type ", quote(json.as_string()));
  v = *dtype;
}
inline void from_json(const Json& json, std::string& v) {
  v = json.as_string();
}
template <class T>
void from_json(const Json& json, std::optional<T>& v);
template <class T>
void from_json(const Json& json, std::vector<T>& v);

// Every key must be a field; an unknown one is corrupt, with the nearest name suggested. Missing keys keep defaults.
template <HasFields C>
void from_json(const Json& json, C& config) {
  for (const auto& [key, value] : json.as_object()) {
    bool known = false;
    std::vector<std::string_view> names;
    for_each_field<C>([&](const auto& field) {
      names.push_back(field.name);
      if (field.name != key) return;
      known = true;
      try {
        from_json(value, config.*(field.member));
      } catch (const Error& error) {
        WJ_FAIL(corrupt, field.name, ": ", error.message());
      }
    });
    WJ_REQUIRE(known, corrupt, "unknown key ", quote(key), "; nearest is ", quote(nearest_name(key, names)));
  }
}
template <class T>
void from_json(const Json& json, std::optional<T>& v) {
  if (json.is_null()) {
    v.reset();
  } else {
    from_json(json, v.emplace());
  }
}
template <class T>
void from_json(const Json& json, std::vector<T>& v) {
  v.clear();
  for (const Json& item : json.as_array()) from_json(item, v.emplace_back());
}

// --- Files -----------------------------------------------------------------------------------------------------------

// A file that several threads read, anywhere in it. Throws io. Files are never mapped: a mapping of a file that
// somebody truncates or writes to ends the process, or changes what was checked.
class FileReader {
 public:
  explicit FileReader(const std::filesystem::path& path);
  ~FileReader();
  FileReader(const FileReader&) = delete;
  FileReader& operator=(const FileReader&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::int64_t size() const { return size_; }                     // when it was opened
  void read(std::int64_t offset, std::span<std::byte> to) const;  // fills `to`; throws io when the file ends before
  // These bytes will be needed soon: the system reads them from the disk meanwhile.
  void prefetch(std::int64_t offset, std::int64_t bytes) const;

 private:
  std::filesystem::path path_;
  int fd_ = -1;
  std::int64_t size_ = 0;
};

// A file being written from front to back; write() throws io with the path and the system's reason.
class FileWriter {
 public:
  explicit FileWriter(const std::filesystem::path& path);
  ~FileWriter();
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;

  void write(std::span<const std::byte> bytes);
  void pad_to(std::int64_t offset);  // zeros up to this offset
  std::int64_t size() const { return size_; }
  void close();  // flushes to the disk (fsync); throws io

 private:
  std::filesystem::path path_;
  int fd_ = -1;
  std::int64_t size_ = 0;
};

// False only when nothing is there. What cannot be looked at counts as there: opening it will say why. Never throws.
bool path_exists(const std::filesystem::path& path) noexcept;

std::string read_text_file(const std::filesystem::path& path, std::int64_t max_bytes = 256ll << 20);
void write_text_file(const std::filesystem::path& path, std::string_view text);

}  // namespace warpjet
