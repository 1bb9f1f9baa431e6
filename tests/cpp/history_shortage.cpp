#include "history_shortage.h"

#include <algorithm>
#include <cstdlib>
#include <new>

namespace warpjet::history {

Shortage& shortage() {
  thread_local Shortage shortage;
  return shortage;
}

namespace {

bool fails() {
  Shortage& s = shortage();
  if (!s.armed) return false;
  const std::int64_t number = s.count++;
  return s.fail_at >= 0 && number >= s.fail_at && number < s.fail_at + s.failures;
}

void* try_allocate(std::size_t bytes, std::size_t alignment) {
  const std::size_t size = (std::max<std::size_t>(bytes, 1) + alignment - 1) / alignment * alignment;
  return fails() ? nullptr : std::aligned_alloc(alignment, size);
}

void* allocate(std::size_t bytes, std::size_t alignment) {
  void* const memory = try_allocate(bytes, alignment);
  if (!memory) throw std::bad_alloc();
  return memory;
}

}  // namespace
}  // namespace warpjet::history

void* operator new(std::size_t bytes) {
  return warpjet::history::allocate(bytes, __STDCPP_DEFAULT_NEW_ALIGNMENT__);
}
void* operator new[](std::size_t bytes) {
  return warpjet::history::allocate(bytes, __STDCPP_DEFAULT_NEW_ALIGNMENT__);
}
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return warpjet::history::allocate(bytes, static_cast<std::size_t>(alignment));
}
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  return warpjet::history::try_allocate(bytes, __STDCPP_DEFAULT_NEW_ALIGNMENT__);
}
void operator delete(void* memory, const std::nothrow_t&) noexcept {
  std::free(memory);
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete[](void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}
void operator delete[](void* memory, std::size_t) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  std::free(memory);
}
