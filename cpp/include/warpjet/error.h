// Errors: one exception type, a short list of codes, and messages written for the person who must fix the cause.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

#if defined(__GNUC__)
#define WJ_API __attribute__((visibility("default")))
#else
#define WJ_API
#endif

namespace warpjet {

enum class ErrorCode : std::uint8_t {
  invalid_argument,  // the caller's mistake
  unsupported,       // a valid wish that this build cannot fulfil
  overloaded,        // a queue limit; try again later
  out_of_memory,
  io,       // a file is missing, unreadable or unwritable
  corrupt,  // a file or a checkpoint is malformed
  device,   // the GPU or its driver failed
  peer,     // another rank was lost
  deadline_exceeded,
  closed,    // the engine is shutting down or has failed
  internal,  // a bug in Warpjet
};

WJ_API std::string_view to_string(ErrorCode code);

// what() reads "<code>: <message>"; for a bug, and in a debug build, then " [<file>:<line>]".
class WJ_API Error : public std::runtime_error {
 public:
  Error(ErrorCode code, std::string message, const char* file, int line);

  ErrorCode code() const noexcept { return code_; }
  const std::string& message() const noexcept { return message_; }  // without code and place

 private:
  ErrorCode code_;
  std::string message_;
};

}  // namespace warpjet
