// y_b = Σ_j c_bj u_bj: one thread per pack (V elements of one sample), grid-stride over all packs of all samples.
//
// Reads each array once and writes y once: (arrays + 1)·B·D elements; noise moves no memory. Coefficients come from the
// parameters or from device memory. The chain of fused multiply-adds is in operand order, the first term is a product.
#pragma once

#include "../cuda/operands.cuh"
#include "../cuda/plan.h"

namespace scorefusion::cuda {

// ---- Constants ---------------------------------------------------------------------------------------------------

constexpr int combine_threads = 256;  // 8 warps; the kernels need 30 to 110 registers: 2 to 8 blocks per processor

template <int V, int M>  // M operands in one group; M = 0: any number, group by group
struct CombineArguments {
  static constexpr int capacity = M ? M : max_operands;
  Sources<capacity> u;
  CoefficientsOf<Element<V>, capacity> c;
  Output y;
  int64_t samples, size, packs;          // packs per sample
  int64_t stride_samples, stride_packs;  // the grid's threads, as that many samples and packs
};

// ---- Helpers -----------------------------------------------------------------------------------------------------

// Where a thread is: a pack of a sample. Steps by the whole grid, with one division at the start and none after.
struct GridWalk {
  int64_t sample, pack;

  template <class Arguments>
  __device__ explicit GridWalk(const Arguments& a) {
    const int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    sample = thread / a.packs;
    pack = thread % a.packs;
  }
  template <class Arguments>
  __device__ void advance(const Arguments& a) {
    sample += a.stride_samples;
    pack += a.stride_packs;
    if (pack >= a.packs) pack -= a.packs, ++sample;
  }
};

// ---- Kernel ------------------------------------------------------------------------------------------------------

template <int V, int M>
__global__ void __launch_bounds__(combine_threads) combine_kernel(GRID_CONSTANT CombineArguments<V, M> a) {
  constexpr int G = M ? M : group_capacity;
  for (GridWalk at(a); at.sample < a.samples; at.advance(a)) {
    const int64_t d = at.pack * V;
    const int n = a.size - d < V ? int(a.size - d) : V;
    Element<V> y[V];
    for (int g = 0; g < (M ? 1 : a.u.groups); ++g) {
      const Group group = M ? Group{0, M, a.u.group[0].noise} : a.u.group[g];
      Element<V> c[G];
      read_coefficients(a.c, group.first, group.count, at.sample, c);
      const Pack<V, G> pack(a.u, group, at.sample, d, n);
#pragma unroll
      for (int j = 0; j < G; ++j) {
        if (j >= group.count) break;
        Element<V> u[V];
        pack.convert(j, 0, u);
#pragma unroll
        for (int v = 0; v < V; ++v) add_term(c[j], u[v], g == 0 && j == 0, y[v]);
      }
    }
    write(a.y, at.sample, d, n, a.u.vectors, y);
  }
}

// ---- Launcher ----------------------------------------------------------------------------------------------------

template <int V, int M>
void launch_combine(const Batch& given, const Coefficients& c, const Output& given_y, void* stream) {
  // Samples that follow one another are one long sample: vectors cross their borders.
  Batch batch = given;
  Output y = given_y;
  merge_samples(batch, c, y);
  using Arguments = CombineArguments<V, M>;
  static_assert(sizeof(Arguments) <= parameter_bytes);
  Arguments a;
  a.u = sources_of<Arguments::capacity>(batch, y, V, group_capacity);
  a.c = coefficients_of<Element<V>, Arguments::capacity>(c, batch.m);
  a.y = y;
  a.samples = batch.samples;
  a.size = batch.size;
  a.packs = (batch.size + V - 1) / V;
  const int resident = resident_blocks<combine_kernel<V, M>>(combine_threads);
  const int64_t grid = blocks_for(a.samples * a.packs, combine_threads, resident);
  a.stride_samples = grid * combine_threads / a.packs;
  a.stride_packs = grid * combine_threads % a.packs;
  launch(combine_kernel<V, M>, grid, combine_threads, 0, stream, a);
}

// combine in float64 whatever the types: the r of more operands than one pass of residual takes.
void combine_in_float64(const Batch& batch, const Coefficients& c /* not per sample on the host */, const Output& y,
                        void* stream);

}  // namespace scorefusion::cuda
