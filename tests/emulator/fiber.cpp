// Switching stacks: by hand on x86-64 and aarch64, because ucontext makes a system call each time.
#include "emulator/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <new>

#if !defined(__x86_64__) && !defined(__aarch64__)
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#define EMU_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMU_ASAN 1
#endif
#endif
#if defined(EMU_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__) || defined(__aarch64__)
// Saves the registers that a callee must keep, stores the stack pointer in *from, and returns on the stack `to`.
extern "C" void emu_switch_stack(void** from, void* to);
#endif

#if defined(__x86_64__)
asm(R"(
.text
.globl emu_switch_stack
.type emu_switch_stack, @function
emu_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emu_switch_stack, .-emu_switch_stack
)");
#elif defined(__aarch64__)
asm(R"(
.text
.globl emu_switch_stack
.type emu_switch_stack, %function
emu_switch_stack:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size emu_switch_stack, .-emu_switch_stack
)");
#endif

namespace emu {
namespace {

// Kernels keep accumulators in local arrays and sanitizers pad every one. Untouched pages cost nothing.
constexpr std::size_t kStackBytes = 256 << 10;

thread_local Fiber* entering = nullptr;

std::size_t page_bytes() {
  return static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace

Fiber::Fiber() {
  void* mapping = mmap(nullptr, page_bytes() + kStackBytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) throw std::bad_alloc();
  mapping_ = static_cast<char*>(mapping);
  mprotect(mapping_, page_bytes(), PROT_NONE);  // an overflow faults instead of eating the neighbour
  stack_ = mapping_ + page_bytes();
#if !defined(__x86_64__) && !defined(__aarch64__)
  own_ = new ucontext_t;
  caller_ = new ucontext_t;
#endif
}

Fiber::~Fiber() {
#if !defined(__x86_64__) && !defined(__aarch64__)
  delete static_cast<ucontext_t*>(own_);
  delete static_cast<ucontext_t*>(caller_);
#endif
#if defined(EMU_ASAN)
  __asan_unpoison_memory_region(stack_, kStackBytes);
#endif
  munmap(mapping_, page_bytes() + kStackBytes);
}

void Fiber::start(Entry entry, void* argument) {
  entry_ = entry;
  argument_ = argument;
  own_shadow_ = nullptr;
#if defined(EMU_ASAN)
  __asan_unpoison_memory_region(stack_, kStackBytes);  // an abandoned fiber leaves its red zones
#endif
#if defined(__x86_64__)
  // Six registers, the address to return to, and a zero where run()'s own return address would be: it ends a backtrace
  // and leaves the stack as a call would, eight bytes off a multiple of sixteen.
  void** top = reinterpret_cast<void**>(stack_ + kStackBytes);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(&Fiber::run);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  own_ = top;
#elif defined(__aarch64__)
  constexpr int kSaved = 20, kLink = 11;  // registers saved, and which of them is x30
  void** top = reinterpret_cast<void**>(stack_ + kStackBytes) - kSaved;
  for (int i = 0; i < kSaved; ++i) top[i] = nullptr;
  top[kLink] = reinterpret_cast<void*>(&Fiber::run);
  own_ = top;
#else
  auto* context = static_cast<ucontext_t*>(own_);
  getcontext(context);
  context->uc_stack.ss_sp = stack_;
  context->uc_stack.ss_size = kStackBytes;
  context->uc_link = nullptr;
  makecontext(context, &Fiber::run, 0);
#endif
}

void Fiber::run() {
  Fiber* self = entering;
#if defined(EMU_ASAN)
  __sanitizer_finish_switch_fiber(nullptr, &self->caller_stack_, &self->caller_bytes_);
#endif
  self->entry_(self->argument_);
  self->switch_out(true);
  __builtin_unreachable();
}

void Fiber::resume() {
  entering = this;
  switch_in();
}

void Fiber::suspend() {
  switch_out(false);
}

void Fiber::switch_in() {
#if defined(EMU_ASAN)
  __sanitizer_start_switch_fiber(&caller_shadow_, stack_, kStackBytes);
#endif
#if defined(__x86_64__) || defined(__aarch64__)
  emu_switch_stack(&caller_, own_);
#else
  swapcontext(static_cast<ucontext_t*>(caller_), static_cast<ucontext_t*>(own_));
#endif
#if defined(EMU_ASAN)
  __sanitizer_finish_switch_fiber(caller_shadow_, nullptr, nullptr);
#endif
}

void Fiber::switch_out([[maybe_unused]] bool for_ever) {
#if defined(EMU_ASAN)
  __sanitizer_start_switch_fiber(for_ever ? nullptr : &own_shadow_, caller_stack_, caller_bytes_);
#endif
#if defined(__x86_64__) || defined(__aarch64__)
  emu_switch_stack(&own_, caller_);
#else
  swapcontext(static_cast<ucontext_t*>(own_), static_cast<ucontext_t*>(caller_));
#endif
#if defined(EMU_ASAN)
  __sanitizer_finish_switch_fiber(own_shadow_, &caller_stack_, &caller_bytes_);
#endif
}

}  // namespace emu
