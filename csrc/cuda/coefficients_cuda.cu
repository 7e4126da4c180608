// Host coefficients travel as parameters of a kernel, slab by slab, so that no copy waits for the device.
#include "coefficients_cuda.cuh"

#include <algorithm>

#include "coefficients.h"
#include "operands.cuh"

namespace scorefusion::cuda {

namespace {

// Values first .. first + count − 1 of the (samples, m) coefficients in row order.
template <int capacity>
void store_slab(const Coefficients& c, int m, int64_t first, int count, double* workspace, void* stream) {
  Slab<capacity> slab;
  slab.count = count;
  slab.to = workspace + first;
  for (int i = 0; i < count; ++i) {
    const int64_t b = (first + i) / m, j = (first + i) % m;
    slab.values[i] = element_of(c.data, c.dtype, b * c.stride + j * c.step);
  }
  launch_store_slab(slab, stream);
}

}  // namespace

Coefficients on_device(const Coefficients& c, int64_t samples, int m, double* workspace, void* stream) {
  if (!lie_on_host(c)) return c;
  const int64_t total = samples * m;
  for (int64_t first = 0; first < total; first += large_slab) {
    const int count = int(std::min<int64_t>(large_slab, total - first));
    if (count <= small_slab)
      store_slab<small_slab>(c, m, first, count, workspace, stream);
    else
      store_slab<large_slab>(c, m, first, count, workspace, stream);
  }
  Coefficients moved;
  moved.data = workspace;
  moved.dtype = DType::float64;
  moved.stride = m;
  moved.step = 1;
  moved.on_host = false;
  return moved;
}

}  // namespace scorefusion::cuda
