// r_b = Σ_j c_bj u_bj, loss_b = |r_b|², grad_bj = 2 <u_bj, r_b>, all in float64.
//
// Up to 8 operands: one pass. A team sums a piece of one sample (csrc/cuda/reduce.cuh), each thread holding the
// m + 1 sums in registers. Reads arrays·B·D elements, writes B·(m + 1) doubles, and B·D elements of r where wanted.
// More operands: one team per piece and group of at most 8 operands; each makes r from all operands and takes the
// products of its own: every operand is read ⌈m/8⌉ + 1 times, mostly from the caches. r, where wanted, takes one
// more pass at the end: it may lie where an operand does.
#pragma once

#include "../cuda/operands.cuh"
#include "../cuda/plan.h"
#include "../cuda/reduce.cuh"

namespace scorefusion::cuda {

// ---- Helpers -----------------------------------------------------------------------------------------------------

// Sum 0 is |r|², sum 1 + j is <u_j, r>.
struct ResidualResult {
  double* loss;  // (samples,)
  double* grad;  // (samples, m)
  int m;

  __device__ void operator()(int64_t b, int index, double total) const {
    if (index == 0)
      loss[b] = total;
    else
      grad[b * m + index - 1] = 2.0 * total;
  }
};

template <int V, int M>  // M operands in one group; M = 0: any number, group by group
struct ResidualArguments {
  static constexpr int capacity = M ? M : max_operands;
  Sources<capacity> u;
  CoefficientsOf<double, capacity> c;
  Output r;
  Sink<ResidualResult> sink;
  Shape shape;
  int64_t samples, size;
};

// r[v] = Σ_j c_j u_j[v] over all groups.
template <int V>
__device__ __forceinline__ void make_residual(const ResidualArguments<V, 0>& a, int64_t b, int64_t d, int n,
                                              double (&r)[V]) {
  for (int g = 0; g < a.u.groups; ++g) {
    const Group group = a.u.group[g];
    double c[group_capacity];
    read_coefficients(a.c, group.first, group.count, b, c);
    const Pack<V, group_capacity> pack(a.u, group, b, d, n);
#pragma unroll
    for (int j = 0; j < group_capacity; ++j) {
      if (j >= group.count) break;
      Element<V> u[V];
      pack.convert(j, 0, u);
#pragma unroll
      for (int v = 0; v < V; ++v) add_term(c[j], double(u[v]), g == 0 && j == 0, r[v]);
    }
  }
}

// ---- Kernels -----------------------------------------------------------------------------------------------------

template <int V, int M>
__global__ void __launch_bounds__(team_threads, 1) residual_kernel(GRID_CONSTANT ResidualArguments<V, M> a) {
  SHARED(scratch, Scratch<1 + M>);
  for (Team team(a.shape.lanes, a.samples * a.shape.pieces); team.any(); team.advance()) {
    const Piece piece(a.shape, a.size, team.item, team.idle());
    double c[M];
    read_coefficients(a.c, 0, M, piece.sample, c);
    double sums[1 + M] = {};
    for (PackWalk<V> at(piece, team); at.inside(); at.advance()) {
      const Pack<V, M> pack(a.u, Group{0, M, a.u.group[0].noise}, piece.sample, at.d, at.n);
      double r[V];
#pragma unroll
      for (int first = 0; first < V; first += slice) {
        Element<V> u[M][slice];
#pragma unroll
        for (int j = 0; j < M; ++j) pack.convert(j, first, u[j]);
#pragma unroll
        for (int i = 0; i < slice; ++i) {
#pragma unroll
          for (int j = 0; j < M; ++j) add_term(c[j], double(u[j][i]), j == 0, r[first + i]);
          if (first + i >= at.n) continue;
          sums[0] = fused(r[first + i], r[first + i], sums[0]);
#pragma unroll
          for (int j = 0; j < M; ++j) sums[1 + j] = fused(double(u[j][i]), r[first + i], sums[1 + j]);
        }
      }
      if (a.r.data) write(a.r, piece.sample, at.d, at.n, a.u.vectors, r);
    }
    reduce(team, sums, scratch, [&](int i, double total) { a.sink.put(piece.sample, piece.index, i, total); });
  }
}

// One item per group of operands; the first group's also carries the loss.
template <int V>
__global__ void __launch_bounds__(team_threads, 1) residual_groups_kernel(GRID_CONSTANT ResidualArguments<V, 0> a) {
  constexpr int G = group_capacity;
  SHARED(scratch, Scratch<1 + G>);
  for (Team team(a.shape.lanes, a.samples * a.shape.pieces * a.u.groups); team.any(); team.advance()) {
    const Piece piece(a.shape, a.size, team.item / a.u.groups, team.idle());
    const Group group = a.u.group[team.item % a.u.groups];
    double sums[1 + G] = {};
    for (PackWalk<V> at(piece, team); at.inside(); at.advance()) {
      double r[V];
      make_residual(a, piece.sample, at.d, at.n, r);
#pragma unroll
      for (int v = 0; v < V; ++v)
        if (v < at.n) sums[0] = fused(r[v], r[v], sums[0]);
      const Pack<V, G> pack(a.u, group, piece.sample, at.d, at.n);
#pragma unroll
      for (int j = 0; j < G; ++j) {
        if (j >= group.count) break;
        Element<V> u[V];
        pack.convert(j, 0, u);
#pragma unroll
        for (int v = 0; v < V; ++v)
          if (v < at.n) sums[1 + j] = fused(double(u[v]), r[v], sums[1 + j]);
      }
    }
    reduce(team, sums, scratch, [&](int i, double total) {
      if (i > group.count || (i == 0 && group.first > 0)) return;
      a.sink.put(piece.sample, piece.index, i == 0 ? 0 : group.first + i, total);
    });
  }
}

// ---- Launchers ---------------------------------------------------------------------------------------------------

template <int V, int M>
void launch_residual(const Batch& batch, const Coefficients& c, const Output& r, const Sink<ResidualResult>& sink,
                     void* stream) {
  using Arguments = ResidualArguments<V, M>;
  static_assert(sizeof(Arguments) <= parameter_bytes);
  constexpr auto kernel = [] {
    if constexpr (M)
      return residual_kernel<V, M>;
    else
      return residual_groups_kernel<V>;
  }();
  Arguments a;
  a.u = sources_of<Arguments::capacity>(batch, r, V, group_capacity);
  a.c = coefficients_of<double, Arguments::capacity>(c, batch.m);
  a.r = r;
  a.sink = sink;
  a.shape = shape_of(batch.size);
  a.samples = batch.samples;
  a.size = batch.size;
  const int64_t items = a.samples * a.shape.pieces * (M ? 1 : a.u.groups);
  const int64_t grid = team_grid(items, a.shape.lanes, resident_blocks<kernel>(team_threads));
  launch(kernel, grid, team_threads, 0, stream, a);
}

}  // namespace scorefusion::cuda
