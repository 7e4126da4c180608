// What glibc has renewed since version 2.28, by its older names: packaging/wheel.sh links this file into the module, so
// that a wheel made on a newer machine runs on every glibc from 2.28 on.
//
// The linker sends each call of f, by our objects and by the static libraries, to __wrap_f (--wrap=f; the names are
// read off this file's symbols).
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

// Jumps to the function that had the name in that version.
#define OLD(name, version)                                                                                     \
  __asm__(".symver old_" #name ", " #name "@GLIBC_" version "\n.hidden __wrap_" #name "\n.globl __wrap_" #name \
          "\n.type __wrap_" #name                                                                              \
          ", @function"                                                                                        \
          "\n__wrap_" #name ": jmp old_" #name "@PLT\n");

// Their versions were raised for errno and rounding that do not concern us,
OLD(exp, "2.2.5")
OLD(hypot, "2.2.5")
OLD(log, "2.2.5")
OLD(pow, "2.2.5")

// and these only moved from one of glibc's libraries to another: what threads ask for,
OLD(pthread_create, "2.2.5")
OLD(pthread_detach, "2.2.5")
OLD(pthread_getspecific, "2.2.5")
OLD(pthread_join, "2.2.5")
OLD(pthread_key_create, "2.2.5")
OLD(pthread_key_delete, "2.2.5")
OLD(pthread_mutex_trylock, "2.2.5")
OLD(pthread_once, "2.2.5")
OLD(pthread_setspecific, "2.2.5")

// and CUDA's runtime.
OLD(dlclose, "2.2.5")
OLD(dlerror, "2.2.5")
OLD(dlmopen, "2.3.4")
OLD(dlopen, "2.2.5")
OLD(dlsym, "2.2.5")
OLD(dlvsym, "2.2.5")
OLD(pthread_condattr_setpshared, "2.2.5")
OLD(pthread_kill, "2.2.5")
OLD(pthread_mutexattr_destroy, "2.2.5")
OLD(pthread_mutexattr_init, "2.2.5")
OLD(pthread_mutexattr_setpshared, "2.2.5")
OLD(pthread_mutexattr_settype, "2.2.5")
OLD(pthread_rwlock_destroy, "2.2.5")
OLD(pthread_rwlock_init, "2.2.5")
OLD(pthread_rwlock_rdlock, "2.2.5")
OLD(pthread_rwlock_timedrdlock, "2.2.5")
OLD(pthread_rwlock_timedwrlock, "2.2.5")
OLD(pthread_rwlock_tryrdlock, "2.2.5")
OLD(pthread_rwlock_trywrlock, "2.2.5")
OLD(pthread_rwlock_unlock, "2.2.5")
OLD(pthread_rwlock_wrlock, "2.2.5")
OLD(pthread_rwlockattr_destroy, "2.2.5")
OLD(pthread_rwlockattr_init, "2.2.5")
OLD(pthread_rwlockattr_setpshared, "2.2.5")
OLD(pthread_spin_destroy, "2.2.5")
OLD(pthread_spin_init, "2.2.5")
OLD(pthread_spin_lock, "2.2.5")
OLD(pthread_spin_trylock, "2.2.5")
OLD(pthread_spin_unlock, "2.2.5")
OLD(sem_destroy, "2.2.5")
OLD(sem_init, "2.2.5")
OLD(sem_post, "2.2.5")
OLD(sem_timedwait, "2.2.5")
OLD(sem_trywait, "2.2.5")
OLD(sem_wait, "2.2.5")
OLD(shm_open, "2.2.5")
OLD(shm_unlink, "2.2.5")

#define OURS __attribute__((visibility("hidden")))

// Since 2.30; before, a condition variable's clock was chosen when it was made, and is the wall's.
OURS int __wrap_pthread_cond_clockwait(pthread_cond_t* condition, pthread_mutex_t* mutex, clockid_t clock,
                                       const struct timespec* until) {
  struct timespec here, wall;
  clock_gettime(clock, &here);
  clock_gettime(CLOCK_REALTIME, &wall);
  wall.tv_sec += until->tv_sec - here.tv_sec;
  wall.tv_nsec += until->tv_nsec - here.tv_nsec;
  if (wall.tv_nsec < 0) wall.tv_nsec += 1000000000, --wall.tv_sec;
  if (wall.tv_nsec >= 1000000000) wall.tv_nsec -= 1000000000, ++wall.tv_sec;
  return pthread_cond_timedwait(condition, mutex, &wall);
}

// Since 2.32, for libstdc++ to save atomics where there is one thread: here it never does.
OURS char __wrap___libc_single_threaded = 0;

// Since 2.33; before, the layout of the structure had a number.
int old_fxstat64(int layout, int file, void* status);
__asm__(".symver old_fxstat64, __fxstat64@GLIBC_2.2.5");
OURS int __wrap_fstat64(int file, void* status) { return old_fxstat64(1, file, status); }

// Since 2.36; libstdc++ has it for std::random_device, which nobody here asks.
OURS uint32_t __wrap_arc4random(void) {
  uint32_t word;
  if (getentropy(&word, sizeof word)) abort();
  return word;
}
