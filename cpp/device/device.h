// Devices: where memory lives and where work runs. The CPU device is here; a GPU backend adds its own.
#pragma once

#include <warpjet/tensor.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

namespace warpjet {

struct DeviceInfo {
  std::string name;
  std::string id;  // as in EngineConfig::device: "cpu", "cuda:0"
  int sm = 0;      // compute capability times ten; 0 is the CPU
  int cores = 1;   // of a CPU; multiprocessors of a GPU
  std::int64_t memory_bytes = 0;
  std::int64_t free_bytes = 0;  // when the device was opened
};

// A point in a stream's work.
class Event {
 public:
  virtual ~Event() = default;
  virtual bool done() const = 0;                                    // never blocks; throws device when the work failed
  virtual void wait() const = 0;                                    // blocks until done
  virtual double microseconds_since(const Event& start) const = 0;  // of the device's time; both are done
};

// Recorded work, which costs one call to start again. It reads and writes the addresses that it was captured with.
class Graph {
 public:
  virtual ~Graph() = default;
};

// An in-order queue of work. Calls return before the work is done, except on the CPU, where they run at once. Host
// memory of a copy must stay as it is until the copy is done; only copies from and to Device::allocate_host() are sure
// not to block.
class Stream {
 public:
  virtual ~Stream() = default;
  virtual void copy(void* to, const void* from, std::size_t bytes) = 0;
  virtual void synchronize() = 0;  // throws device when any work before failed
  virtual void record(Event& event) = 0;

  // Work that is given to the stream between begin_capture() and end_capture() is not done but kept as a graph. A
  // device without graphs returns false: it does the work then.
  virtual bool begin_capture() { return false; }
  virtual std::unique_ptr<Graph> end_capture() { return nullptr; }
  virtual void launch(Graph&) {}
  virtual bool capturing() const { return false; }
};

// Owns device memory; freed with the object, which must not outlive its device.
class Buffer {
 public:
  using Free = void (*)(void* data, std::size_t bytes);

  Buffer() = default;
  Buffer(void* data, std::size_t bytes, Free free) : data_(data), bytes_(bytes), free_(free) {}
  ~Buffer() { reset(); }
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }

  void* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  std::byte* at(std::int64_t offset) const { return static_cast<std::byte*>(data_) + offset; }

 private:
  void reset() {
    if (data_) free_(data_, bytes_);
    data_ = nullptr;
  }
  void swap(Buffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(free_, other.free_);
  }
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
  Free free_ = nullptr;
};

class Device {
 public:
  virtual ~Device() = default;
  virtual const DeviceInfo& info() const = 0;
  virtual Buffer allocate(std::size_t bytes) = 0;  // zeroed, 256-byte aligned; throws out_of_memory. Never in a step.
  // Zeroed host memory that the device copies fast from and to, and that its kernels can address. Never in a step.
  virtual Buffer allocate_host(std::size_t bytes) = 0;
  virtual Stream& stream() = 0;  // the one that steps run on
  virtual std::unique_ptr<Event> make_event() = 0;
  virtual std::unique_ptr<Stream> make_stream() = 0;  // another one, for loading beside it
  virtual void use_on_this_thread() {}  // before any other call from a thread that did not open the device
};

// A callable of (begin, end) that is only borrowed for the duration of a call; never allocates.
class RangeFunction {
 public:
  template <class F>
  requires(!std::is_same_v<std::remove_cvref_t<F>, RangeFunction>)
      RangeFunction(F&& function)  // NOLINT: implicit by design
      : object_(const_cast<void*>(static_cast<const void*>(&function))),
        call_([](void* object, std::int64_t begin, std::int64_t end) {
          (*static_cast<std::remove_reference_t<F>*>(object))(begin, end);
        }) {}
  void operator()(std::int64_t begin, std::int64_t end) const { call_(object_, begin, end); }

 private:
  void* object_;
  void (*call_)(void*, std::int64_t, std::int64_t);
};

// The CPU's stream: runs at once, on a team of threads that spin briefly between calls and then sleep.
class CpuStream : public Stream {
 public:
  // Calls body on disjoint ranges that cover [0, count), each a multiple of `grain` long except the last; returns when
  // all are done. The caller's thread takes part. body must not throw. One caller at a time.
  virtual void parallel_for(std::int64_t count, std::int64_t grain, RangeFunction body) = 0;
};

// Threads that wait for each other without a lock: who has news rings, who waits looks at what it waits for between
// seen() and wait(). Waiters spin briefly and then sleep; a ring costs a system call only when somebody sleeps.
class Doorbell {
 public:
  std::uint32_t seen() const { return rings_.load(std::memory_order_seq_cst); }
  void ring();
  // Returns when the bell has been rung since `seen`, at the latest after `timeout`; may also return early.
  void wait(std::uint32_t seen, std::chrono::nanoseconds timeout);

 private:
  std::atomic<std::uint32_t> rings_{0}, sleepers_{0};
};

// num_threads 0 means one per core that this process may use.
std::unique_ptr<Device> make_cpu_device(int num_threads);

}  // namespace warpjet
