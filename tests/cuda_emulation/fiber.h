// A stack of its own, entered and left by hand: 20 instructions on x86-64, ucontext elsewhere.
//
// The sanitizers are told of every switch: AddressSanitizer which stack is in use, ThreadSanitizer that fibers are
// threads which nothing orders but what says so (release, acquire).
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <new>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(EMULATION_TSAN)
#include <sanitizer/tsan_interface.h>
#endif

namespace emulation {

#if defined(EMULATION_TSAN)
constexpr bool has_tsan = true;
inline void release(void* address) { __tsan_release(address); }
inline void acquire(void* address) { __tsan_acquire(address); }
#else
constexpr bool has_tsan = false;
inline void release(void*) {}
inline void acquire(void*) {}
#endif

#if defined(__x86_64__)
// Saves the callee's registers on this stack and its top in *from, then goes on where `to` was left.
extern "C" void emulation_switch(void** from, void* to);
asm(R"(
.text
.weak emulation_switch
.type emulation_switch, @function
emulation_switch:
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
.size emulation_switch, . - emulation_switch
)");
#endif

class Fiber {
 public:
  Fiber() {
    stack_ = mmap(nullptr, stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack_ == MAP_FAILED) throw std::bad_alloc();
#if defined(EMULATION_TSAN)
    thread_ = __tsan_create_fiber(0);
#endif
  }
  ~Fiber() {
#if defined(EMULATION_TSAN)
    __tsan_destroy_fiber(thread_);
#endif
    munmap(stack_, stack_bytes);
  }
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // The next resume() calls body(context) on this stack.
  void start(void (*body)(void*), void* context) {
    body_ = body;
    context_ = context;
    ended_ = false;
#if defined(__SANITIZE_ADDRESS__)
    inner_shadow_ = nullptr;
#endif
#if defined(EMULATION_TSAN)
    __tsan_destroy_fiber(thread_);  // another thread's past is none of the next one's
    thread_ = __tsan_create_fiber(0);
#endif
#if defined(__x86_64__)
    void** top = reinterpret_cast<void**>(static_cast<char*>(stack_) + stack_bytes);
    *--top = nullptr;  // enter() is entered as by a call: rsp ≡ 8 (mod 16)
    *--top = reinterpret_cast<void*>(&Fiber::enter);
    for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
    inside_ = top;
#else
    getcontext(&inside_);
    inside_.uc_stack.ss_sp = stack_;
    inside_.uc_stack.ss_size = stack_bytes;
    inside_.uc_link = nullptr;
    makecontext(&inside_, &Fiber::enter, 0);
#endif
  }

  // Runs until pause() or the end; true at the end.
  bool resume() {
    running = this;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&outer_shadow_, stack_, stack_bytes);
#endif
#if defined(EMULATION_TSAN)
    outer_thread_ = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(thread_, __tsan_switch_to_fiber_no_sync);
#endif
    go(outside_, inside_);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(outer_shadow_, nullptr, nullptr);
#endif
    return ended_;
  }

  // Back to resume(), from inside.
  void pause() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(ended_ ? nullptr : &inner_shadow_, outer_stack_, outer_bytes_);
#endif
#if defined(EMULATION_TSAN)
    __tsan_switch_to_fiber(outer_thread_, __tsan_switch_to_fiber_no_sync);
#endif
    go(inside_, outside_);
    entered();
  }

 private:
#if defined(__SANITIZE_ADDRESS__) || defined(EMULATION_TSAN)
  static constexpr size_t stack_bytes = 1 << 20;  // sanitizers make frames several times larger
#else
  static constexpr size_t stack_bytes = 1 << 17;
#endif

#if defined(__x86_64__)
  using Place = void*;
  static void go(Place& from, Place& to) { emulation_switch(&from, to); }
#else
  using Place = ucontext_t;
  static void go(Place& from, Place& to) { swapcontext(&from, &to); }
#endif

  static void enter() {
    Fiber* self = running;
    self->entered();
    self->body_(self->context_);
    self->ended_ = true;
    self->pause();
    __builtin_trap();
  }

  void entered() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(inner_shadow_, &outer_stack_, &outer_bytes_);
#endif
  }

  static inline Fiber* running = nullptr;

  void* stack_;
  Place inside_{}, outside_{};
  void (*body_)(void*) = nullptr;
  void* context_ = nullptr;
  bool ended_ = false;
#if defined(__SANITIZE_ADDRESS__)
  void* outer_shadow_ = nullptr;
  void* inner_shadow_ = nullptr;
  const void* outer_stack_ = nullptr;
  size_t outer_bytes_ = 0;
#endif
#if defined(EMULATION_TSAN)
  void* thread_ = nullptr;
  void* outer_thread_ = nullptr;
#endif
};

}  // namespace emulation
