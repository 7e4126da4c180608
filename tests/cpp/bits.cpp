// What the CPU kernels make of operands that are noise themselves: raw results on the standard output.
//
// tests/test_portable.py compiles this file with the kernels for other compilers and processors, and holds what it
// writes against the module's: the same calls, in the same order.
#include <cstdio>
#include <initializer_list>
#include <utility>
#include <vector>

#include "../../csrc/ops/combine.h"
#include "../../csrc/ops/gram.h"
#include "../../csrc/ops/resample.h"
#include "../../csrc/ops/residual.h"

using namespace scorefusion;

struct Array {
  DType dtype;
  int64_t size;  // elements per sample
  std::vector<char> bytes;

  Array(DType dtype, int64_t samples, int64_t size)
      : dtype(dtype), size(size), bytes(size_t(samples * size * size_of(dtype))) {}
  Operand operand() const { return {.data = bytes.data(), .stride = size, .dtype = dtype}; }
  Output output() { return {bytes.data(), size, dtype}; }
  double* doubles() { return reinterpret_cast<double*>(bytes.data()); }
  void write() const { std::fwrite(bytes.data(), 1, bytes.size(), stdout); }
};

Batch batch_of(std::initializer_list<Operand> u, int64_t samples, int64_t size) {
  Batch batch;
  batch.samples = samples, batch.size = size;
  for (const Operand& operand : u) batch.u[batch.m++] = operand;
  return batch;
}

// Noise(seed) stored.
Array normal(uint64_t seed, DType dtype, int64_t samples, int64_t size) {
  Array z(dtype, samples, size);
  Coefficients one;
  one.values[0] = 1;
  combine_cpu(batch_of({{.seed = seed}}, samples, size), one, z.output(), Work{});
  return z;
}

void operations(int64_t samples, int64_t size, DType first, DType second) {
  constexpr int m = 3;
  const Array u_0 = normal(1, first, samples, size), u_1 = normal(2, second, samples, size);
  const Batch batch = batch_of({u_0.operand(), u_1.operand(), {.seed = 3, .stream = 4, .first = 5}}, samples, size);
  const Array rows = normal(6, DType::float64, samples, m);
  const Coefficients c{.data = rows.bytes.data(), .stride = m};

  Array y(widest(first, second), samples, size), G(DType::float64, samples, m * m);
  Array loss(DType::float64, samples, 1), grad(DType::float64, samples, m);
  combine_cpu(batch, c, y.output(), Work{});
  y.write();
  gram_cpu(batch, c, Output{}, G.doubles(), Work{});
  G.write();
  residual_cpu(batch, c, y.output(), loss.doubles(), grad.doubles(), Work{});
  loss.write(), grad.write(), y.write();
}

void ancestors(int64_t groups, int64_t n, ResampleMethod method) {
  const Array l = normal(7, DType::float64, groups, n);
  std::vector<int64_t> a(size_t(groups * n));
  Resampling r{.log_weights = l.bytes.data(), .groups = groups, .n = n, .group_stride = n, .method = method};
  r.threshold = double(n) + 1;  // each group
  r.ancestors = a.data();
  resample_cpu(r, Work{});
  std::fwrite(a.data(), sizeof(int64_t), a.size(), stdout);
}

int main() {
  for (const auto& [samples, size] :
       {std::pair<int64_t, int64_t>{1, 1}, {7, 1}, {33, 9}, {50, 33}, {3, 513}, {2, 16389}}) {
    operations(samples, size, DType::float32, DType::float32);
    operations(samples, size, DType::bfloat16, DType::float16);
    operations(samples, size, DType::bfloat16, DType::bfloat16);
    operations(samples, size, DType::float64, DType::float32);
  }
  for (int method = 0; method < 4; ++method) ancestors(7, 1001, ResampleMethod(method));
}
