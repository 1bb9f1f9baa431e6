// Native objects as Python holds them, and values that several parts of the module convert.
#pragma once

#include "bindings.h"

#include <unistd.h>

#include <chrono>
#include <list>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace warpjet::python {

// A native object that owns threads or locks. A forked child has neither: there it may be neither used nor destroyed.
template <class T>
class ProcessBound {
 public:
  explicit ProcessBound(std::unique_ptr<T> object) : object_(std::move(object)), process_(getpid()) {}
  ~ProcessBound() {
    if (getpid() != process_) {
      object_.release();
    } else {
      const nb::gil_scoped_release release;
      object_.reset();
    }
  }
  ProcessBound(ProcessBound&&) = delete;

  T& get() const {
    if (getpid() != process_)
      throw Error(ErrorCode::closed,
                  "this engine belongs to process " + std::to_string(process_) + ", but this is its fork, process " +
                      std::to_string(getpid()) + "; open the model after forking, or use the 'spawn' start method",
                  __FILE__, __LINE__);
    return *object_;
  }

 private:
  std::unique_ptr<T> object_;
  pid_t process_;
};

// A queue, and the batches that were taken from it and are not Python's yet: memory may be short in between.
struct PolledQueue {
  OutputQueue queue;
  std::list<std::vector<Output>> taken;
};
using EngineHandle = ProcessBound<Engine>;
using QueueHandle = ProcessBound<PolledQueue>;

// Seconds as Python gives them, for waits and deadlines; what no clock can count, infinity too, is kMostSeconds.
// Raises ValueError unless they are `at_least` or more: NaN is not.
inline std::chrono::nanoseconds to_duration(double seconds, double at_least, const char* range) {
  constexpr double kMostSeconds = 1e9;  // three decades
  if (!(seconds >= at_least))
    raise_value_error(std::string("timeout must be ") + range + " (seconds), got " + std::to_string(seconds));
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
      std::chrono::duration<double>(std::min(seconds, kMostSeconds)));
}

inline nb::str text_of(std::string_view text) {
  return nb::str(text.data(), text.size());
}

// A struct with fields() as a dict.
template <class C>
requires requires {
  C::fields();
}
nb::dict dict_of(const C& values) {
  nb::dict out;
  for_each_field<C>([&](const auto& field) { out[text_of(field.name)] = nb::cast(values.*(field.member)); });
  return out;
}

}  // namespace warpjet::python
