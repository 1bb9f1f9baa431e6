// Counts the heap allocations of each thread in this module, so that "a steady step allocates nothing" is a number that
// anybody can read (bench engine). The functions are the standard's, with a counter.
#include "bindings.h"

#include <cstdlib>
#include <new>

namespace {

thread_local std::int64_t allocations = 0;

}  // namespace

namespace warpjet::python {

std::int64_t allocations_of_this_thread() {
  return allocations;
}

}  // namespace warpjet::python

// Not inlined: the compiler would see a malloc() that is freed by delete.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  ++allocations;
  if (void* data = std::malloc(bytes == 0 ? 1 : bytes)) return data;
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  ++allocations;
  return std::malloc(bytes == 0 ? 1 : bytes);
}
[[gnu::noinline]] void operator delete(void* data) noexcept {
  std::free(data);
}
[[gnu::noinline]] void operator delete(void* data, std::size_t) noexcept {
  std::free(data);
}
