// What glibc has renewed since version 2.28, by its older names: packaging/wheel.sh links this file into the module, so
// that a wheel made on a newer machine runs on every glibc from 2.28 on.
//
// The linker sends each call of f, by our objects and by the static libraries, to __wrap_f (--wrap=f; the names are
// read off this file). Functions that only moved between glibc's libraries, or whose version was raised for a detail
// that does not concern us (errno of exp), are asked for under the version that they had.
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define OLD(result, name, version, parameters, arguments)    \
  result old_##name parameters;                              \
  __asm__(".symver old_" #name "," #name "@GLIBC_" version); \
  result __wrap_##name parameters;                           \
  result __wrap_##name parameters { return old_##name arguments; }

OLD(double, exp, "2.2.5", (double x), (x))
OLD(double, log, "2.2.5", (double x), (x))
OLD(double, pow, "2.2.5", (double x, double y), (x, y))
OLD(double, hypot, "2.2.5", (double x, double y), (x, y))

OLD(int, pthread_create, "2.2.5",
    (pthread_t * thread, const pthread_attr_t* attributes, void* (*start)(void*), void* argument),
    (thread, attributes, start, argument))
OLD(int, pthread_detach, "2.2.5", (pthread_t thread), (thread))
OLD(int, pthread_join, "2.2.5", (pthread_t thread, void** result), (thread, result))
OLD(int, pthread_once, "2.2.5", (pthread_once_t * once, void (*first)(void)), (once, first))
OLD(int, pthread_mutex_trylock, "2.2.5", (pthread_mutex_t * mutex), (mutex))
OLD(int, pthread_key_create, "2.2.5", (pthread_key_t * key, void (*end)(void*)), (key, end))
OLD(int, pthread_key_delete, "2.2.5", (pthread_key_t key), (key))
OLD(void*, pthread_getspecific, "2.2.5", (pthread_key_t key), (key))
OLD(int, pthread_setspecific, "2.2.5", (pthread_key_t key, const void* value), (key, value))

OLD(void*, dlopen, "2.2.5", (const char* file, int mode), (file, mode))
OLD(void*, dlsym, "2.2.5", (void* library, const char* name), (library, name))
OLD(int, dlclose, "2.2.5", (void* library), (library))
OLD(char*, dlerror, "2.2.5", (void), ())

// Since 2.33; before, the kernel's layout of the structure had a number, and has it still.
int old_fxstat64(int layout, int file, void* status);
__asm__(".symver old_fxstat64,__fxstat64@GLIBC_2.2.5");
int __wrap_fstat64(int file, void* status);
int __wrap_fstat64(int file, void* status) { return old_fxstat64(1, file, status); }

// Since 2.36; libstdc++ has it for std::random_device, which nobody here asks.
uint32_t __wrap_arc4random(void);
uint32_t __wrap_arc4random(void) {
  uint32_t word;
  if (getentropy(&word, sizeof word)) abort();
  return word;
}

// Since 2.30; before, a condition variable's clock was chosen when it was made, and is the wall's.
int __wrap_pthread_cond_clockwait(pthread_cond_t* condition, pthread_mutex_t* mutex, clockid_t clock,
                                  const struct timespec* until);
int __wrap_pthread_cond_clockwait(pthread_cond_t* condition, pthread_mutex_t* mutex, clockid_t clock,
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
__attribute__((visibility("hidden"))) char __wrap___libc_single_threaded = 0;
