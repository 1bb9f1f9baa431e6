// Every object of this program on memory that the GPU can address: one piece of pinned memory, given out in powers of
// two. Tests are small and short, so nothing is ever returned to it but to the list of its size.
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>

namespace {

constexpr std::size_t kBytes = std::size_t{3} << 30;
constexpr int kSizes = 40;

struct Pool {
  std::mutex mutex;
  std::byte* begin = nullptr;
  std::size_t used = 0;
  void* free[kSizes] = {};
  bool failed = false;
};

Pool& pool() {
  static Pool* made = new (std::malloc(sizeof(Pool))) Pool;
  return *made;
}

int size_class(std::size_t bytes) {
  int c = 6;  // 64 bytes
  while ((std::size_t{1} << c) < bytes) ++c;
  return c;
}

thread_local bool inside = false;  // the runtime allocates too

void* allocate(std::size_t bytes) {
  Pool& p = pool();
  if (inside || p.failed) return std::malloc(bytes);
  const std::lock_guard lock(p.mutex);
  if (!p.begin) {
    inside = true;
    void* memory = nullptr;
    p.failed = cudaHostAlloc(&memory, kBytes, cudaHostAllocMapped | cudaHostAllocPortable) != cudaSuccess;
    inside = false;
    if (p.failed) return std::malloc(bytes);
    p.begin = static_cast<std::byte*>(memory);
  }
  const int c = size_class(bytes);
  if (void* again = p.free[c]) {
    p.free[c] = *static_cast<void**>(again);
    return again;
  }
  const std::size_t size = std::size_t{1} << c;
  if (p.used + size > kBytes) return nullptr;
  p.used += size;
  return p.begin + p.used - size;
}

void release(void* data, std::size_t) {
  Pool& p = pool();
  auto* at = static_cast<std::byte*>(data);
  if (p.begin && at >= p.begin && at < p.begin + kBytes) return;  // sizes are not known here: what is freed stays
  std::free(data);
}

}  // namespace

[[gnu::noinline]] void* operator new(std::size_t bytes) {
  if (void* data = allocate(bytes)) return data;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* data) noexcept {
  if (data) release(data, 0);
}
[[gnu::noinline]] void operator delete(void* data, std::size_t bytes) noexcept {
  if (!data) return;
  Pool& p = pool();
  auto* at = static_cast<std::byte*>(data);
  if (!p.begin || at < p.begin || at >= p.begin + kBytes) return std::free(data);
  const std::lock_guard lock(p.mutex);
  void*& list = p.free[size_class(bytes)];
  *static_cast<void**>(data) = list;
  list = data;
}
