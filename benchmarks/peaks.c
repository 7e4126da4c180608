// Yardsticks of a machine's memory: a copy that goes past the cache, and a loop that only reads, on n threads.
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX__)
#include <immintrin.h>
#endif

enum { max_threads = 256, vector_bytes = 32, unroll = 8, step = vector_bytes * unroll };
typedef int64_t Vector __attribute__((vector_size(vector_bytes)));

typedef struct {
  char* to;
  const char* from;
  size_t bytes;
  int64_t sum;
} Share;

static void* copy_share(void* argument) {
  Share* share = argument;
  size_t i = 0;
#if defined(__AVX__)
  for (; i + step <= share->bytes; i += step)
    for (int v = 0; v < unroll; ++v) {
      const size_t at = i + v * vector_bytes;
      _mm256_stream_si256((__m256i*)(share->to + at), _mm256_loadu_si256((const __m256i*)(share->from + at)));
    }
  _mm_sfence();
#endif
  memcpy(share->to + i, share->from + i, share->bytes - i);
  return NULL;
}

static void* read_share(void* argument) {
  Share* share = argument;
  Vector sum[unroll] = {{0}};
  for (size_t i = 0; i + step <= share->bytes; i += step)
    for (int v = 0; v < unroll; ++v) {
      Vector a;
      memcpy(&a, share->from + i + v * vector_bytes, sizeof(a));
      sum[v] += a;
    }
  for (int v = 0; v < unroll; ++v) share->sum += sum[v][0] + sum[v][1] + sum[v][2] + sum[v][3];
  return NULL;
}

static int64_t run(void* (*part)(void*), char* to, const char* from, size_t bytes, int threads) {
  Share share[max_threads] = {{0}};
  pthread_t id[max_threads];
  if (threads > max_threads) threads = max_threads;
  const size_t each = bytes / threads / step * step;
  for (int t = 0; t < threads; ++t) {
    const size_t first = t * each;
    share[t] = (Share){to ? to + first : NULL, from + first, t + 1 < threads ? each : bytes - first, 0};
    if (t > 0 && pthread_create(&id[t], NULL, part, &share[t]) != 0) return -1;
  }
  part(&share[0]);
  int64_t sum = share[0].sum;
  for (int t = 1; t < threads; ++t) {
    pthread_join(id[t], NULL);
    sum += share[t].sum;
  }
  return sum;
}

// to must be aligned to 32 bytes.
void streaming_copy(void* to, const void* from, size_t bytes, int threads) {
  run(copy_share, to, from, bytes, threads);
}

// Returns a sum of what was read, so that the reading cannot be left out.
int64_t read_all(const void* from, size_t bytes, int threads) { return run(read_share, NULL, from, bytes, threads); }
