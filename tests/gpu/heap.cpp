// Every object of this program on memory that the GPU can address: one piece of pinned memory, given out in powers of
// two and taken back by size. What the CUDA runtime itself allocates while it makes the piece comes from malloc.
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdlib>
#include <mutex>
#include <new>

namespace {

constexpr std::size_t kBytes = std::size_t{3} << 30;
constexpr int kClasses = 40;

struct Pool {
  std::mutex mutex;
  std::byte* begin = nullptr;  // null until somebody allocates
  std::size_t used = 0;
  void* free[kClasses] = {};  // lists by size
  bool failed = false;        // there is no GPU: everything comes from malloc

  bool holds(const void* data) const {
    const auto* at = static_cast<const std::byte*>(data);
    return begin && at >= begin && at < begin + kBytes;
  }
};

Pool& pool() {
  static Pool* made = new (std::malloc(sizeof(Pool))) Pool;  // lives longer than any other static object
  return *made;
}

int class_of(std::size_t bytes) {
  int c = 6;  // 64 bytes
  while ((std::size_t{1} << c) < bytes) ++c;
  return c;
}

thread_local bool is_pinning = false;

bool pin(Pool& p) {
  is_pinning = true;
  void* memory = nullptr;
  p.failed = cudaHostAlloc(&memory, kBytes, cudaHostAllocMapped | cudaHostAllocPortable) != cudaSuccess;
  is_pinning = false;
  p.begin = static_cast<std::byte*>(memory);
  return !p.failed;
}

void* allocate(std::size_t bytes) {
  Pool& p = pool();
  if (is_pinning || p.failed) return std::malloc(bytes);
  const std::lock_guard lock(p.mutex);
  if (!p.begin && !pin(p)) return std::malloc(bytes);
  const int c = class_of(bytes);
  if (void* again = p.free[c]) {
    p.free[c] = *static_cast<void**>(again);
    return again;
  }
  const std::size_t size = std::size_t{1} << c;
  if (p.used + size > kBytes) return nullptr;
  p.used += size;
  return p.begin + p.used - size;
}

}  // namespace

[[gnu::noinline]] void* operator new(std::size_t bytes) {
  if (void* data = allocate(bytes)) return data;
  throw std::bad_alloc();
}

// Without a size there is no list to put it in: it stays lost.
[[gnu::noinline]] void operator delete(void* data) noexcept {
  if (!pool().holds(data)) std::free(data);
}

[[gnu::noinline]] void operator delete(void* data, std::size_t bytes) noexcept {
  Pool& p = pool();
  if (!p.holds(data)) return std::free(data);
  const std::lock_guard lock(p.mutex);
  void*& list = p.free[class_of(bytes)];
  *static_cast<void**>(data) = list;
  list = data;
}
