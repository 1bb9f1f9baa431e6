// The emulator's face, on a GPU: the tests of tests/emulator that walk the catalogue run there as they are. All of
// their memory can be addressed by the GPU (heap.cpp), and every kernel is waited for (on_gpu.cpp).
#pragma once

#include <cstddef>
#include <cstdint>

namespace emu {

constexpr bool kOnGpu = true;

// Memory between guard bands, which are looked at when it goes: a changed one ends the program.
class GlobalBuffer {
 public:
  explicit GlobalBuffer(std::size_t bytes, std::uint8_t fill = 0xff);
  ~GlobalBuffer();
  GlobalBuffer(const GlobalBuffer&) = delete;
  GlobalBuffer& operator=(const GlobalBuffer&) = delete;

  template <class T = std::byte>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }
  std::size_t bytes() const { return bytes_; }

 private:
  std::byte* data_;
  std::size_t bytes_;
};

// What only the emulator can do.
struct Counters {
  std::int64_t global_read_bytes = 0, global_written_bytes = 0, global_sectors = 0, shared_bank_conflicts = 0;
};
inline Counters counters() {
  return {};
}
inline void set_seed(std::uint64_t) {}
inline void set_multiprocessors(int) {}
int multiprocessors();

}  // namespace emu
