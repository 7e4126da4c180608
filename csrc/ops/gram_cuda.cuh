// G_bij = <u_bi, u_bj> in float64, and on request y_b = Σ_j c_bj u_bj from the same read.
//
// Up to 8 operands: one pass. A team sums a piece of one sample (csrc/cuda/reduce.cuh), each thread holding all
// m(m+1)/2 sums in registers. Reads arrays·B·D elements, writes B·m² doubles, and B·D elements of y.
// More operands: one team per piece and tile of pairs, a tile being two groups of at most 6 operands: of T = ⌈m/6⌉
// groups each is read T + 1 times, mostly from the second-level cache, as the tiles of a piece run side by side.
#pragma once

#include "../cuda/operands.cuh"
#include "../cuda/plan.h"
#include "../cuda/reduce.cuh"
#include "reductions.h"

namespace scorefusion::cuda {

// ---- Constants ---------------------------------------------------------------------------------------------------

constexpr int tile_rows = 6;  // 36 sums are 72 registers, as at 8 operands in one pass

// ---- Helpers -----------------------------------------------------------------------------------------------------

// The pair (i, j), j <= i, with pair_index(i, j) == index.
struct Pair {
  int i = 0, j;
  __device__ explicit Pair(int index) {
    while (int(pair_count(i + 1)) <= index) ++i;
    j = index - int(pair_count(i));
  }
};

struct GramResult {
  double* G;  // (samples, m, m)
  int m;

  __device__ void operator()(int64_t b, int index, double total) const {
    const Pair pair(index);
    double* of_sample = G + b * m * m;
    of_sample[pair.i * m + pair.j] = total;
    of_sample[pair.j * m + pair.i] = total;
  }
};

// G_ij += u_i u_j of one element of every operand.
template <int M>
__device__ __forceinline__ void add_products(const double (&u)[M], double (&G)[pair_count(M)]) {
#pragma unroll
  for (int i = 0; i < M; ++i) {
#pragma unroll
    for (int j = 0; j <= i; ++j) G[pair_index(i, j)] = fused(u[i], u[j], G[pair_index(i, j)]);
  }
}

// The same for the rows and columns of a tile.
__device__ __forceinline__ void add_tile_products(const double (&rows)[tile_rows], const double (&columns)[tile_rows],
                                                  double (&G)[tile_rows * tile_rows]) {
#pragma unroll
  for (int i = 0; i < tile_rows; ++i) {
#pragma unroll
    for (int j = 0; j < tile_rows; ++j) G[i * tile_rows + j] = fused(rows[i], columns[j], G[i * tile_rows + j]);
  }
}

// u[j][i] = element first + i of operand j, 0 of those that the group does not have.
template <int V, int G>
__device__ __forceinline__ void convert_slice(const Pack<V, G>& pack, int first, Element<V> (&u)[G][slice]) {
#pragma unroll
  for (int j = 0; j < G; ++j) {
    if (j < pack.count)
      pack.convert(j, first, u[j]);
    else
      u[j][0] = u[j][1] = 0;
  }
}

// Element i of every operand of a slice, in float64.
template <int G, class T>
__device__ __forceinline__ void take(const T (&u)[G][slice], int i, double (&element)[G]) {
#pragma unroll
  for (int j = 0; j < G; ++j) element[j] = u[j][i];
}

template <int V, int M>  // M operands in one group; M = 0: any number, tile by tile
struct GramArguments {
  static constexpr int capacity = M ? M : max_operands;
  Sources<capacity> u;
  CoefficientsOf<Element<V>, capacity> c;
  Output y;
  Sink<GramResult> sink;
  Shape shape;
  int64_t samples, size;
};

// ---- Kernels -----------------------------------------------------------------------------------------------------

template <int V, int M>
__global__ void __launch_bounds__(team_threads) gram_kernel(GRID_CONSTANT GramArguments<V, M> a) {
  SHARED(scratch, Scratch<pair_count(M)>);
  for (Team team(a.shape.lanes, a.samples * a.shape.pieces); team.any(); team.advance()) {
    const Piece piece(a.shape, a.size, team.item, team.idle());
    Element<V> c[M];
    if (a.y.data) read_coefficients(a.c, 0, M, piece.sample, c);
    double G[pair_count(M)] = {};
    for (PackWalk<V> at(piece, team); at.inside(); at.advance()) {
      const Pack<V, M> pack(a.u, Group{0, M, a.u.group[0].noise}, piece.sample, at.d, at.n);
      Element<V> y[V];
#pragma unroll
      for (int first = 0; first < V; first += slice) {
        Element<V> u[M][slice];
        convert_slice(pack, first, u);
#pragma unroll
        for (int i = 0; i < slice; ++i) {
#pragma unroll
          for (int j = 0; j < M; ++j)
            if (a.y.data) add_term(c[j], u[j][i], j == 0, y[first + i]);
          double element[M];
          take(u, i, element);
          if (first + i < at.n) add_products(element, G);
        }
      }
      if (a.y.data) write(a.y, piece.sample, at.d, at.n, a.u.vectors, y);
    }
    reduce(team, G, scratch, [&](int i, double total) { a.sink.put(piece.sample, piece.index, i, total); });
  }
}

// Tile (I, J), J <= I, holds the products of the operands of group I with those of group J.
template <int V>
__global__ void __launch_bounds__(team_threads) gram_tiles_kernel(GRID_CONSTANT GramArguments<V, 0> a) {
  constexpr int R = tile_rows;
  SHARED(scratch, Scratch<R * R>);
  const int tiles = int(pair_count(a.u.groups));
  for (Team team(a.shape.lanes, a.samples * a.shape.pieces * tiles); team.any(); team.advance()) {
    const Piece piece(a.shape, a.size, team.item / tiles, team.idle());
    const Pair tile(int(team.item % tiles));
    const Group row = a.u.group[tile.i], column = a.u.group[tile.j];
    double G[R * R] = {};
    for (PackWalk<V> at(piece, team); at.inside(); at.advance()) {
      const Pack<V, R> rows(a.u, row, piece.sample, at.d, at.n), columns(a.u, column, piece.sample, at.d, at.n);
#pragma unroll
      for (int first = 0; first < V; first += slice) {
        Element<V> of_rows[R][slice], of_columns[R][slice];
        convert_slice(rows, first, of_rows);
        convert_slice(columns, first, of_columns);
#pragma unroll
        for (int i = 0; i < slice; ++i) {
          double left[R], right[R];
          take(of_rows, i, left);
          take(of_columns, i, right);
          if (first + i < at.n) add_tile_products(left, right, G);
        }
      }
    }
    reduce(team, G, scratch, [&](int index, double total) {
      const int i = index / R, j = index % R;
      if (i >= row.count || j >= column.count || row.first + i < column.first + j) return;
      a.sink.put(piece.sample, piece.index, int(pair_index(row.first + i, column.first + j)), total);
    });
  }
}

// ---- Launchers ---------------------------------------------------------------------------------------------------

template <int V, int M>
GramArguments<V, M> gram_arguments(const Batch& batch, const Coefficients& c, const Output& y, double* G,
                                   double* partials) {
  GramArguments<V, M> a;
  a.u = sources_of<GramArguments<V, M>::capacity>(batch, y, V, M ? group_capacity : tile_rows);
  a.c = coefficients_of<Element<V>, GramArguments<V, M>::capacity>(c, batch.m);
  a.y = y;
  a.shape = shape_of(batch.size);
  a.sink = {{G, batch.m}, partials, a.shape.pieces, int(pair_count(batch.m))};
  a.samples = batch.samples;
  a.size = batch.size;
  static_assert(sizeof(a) <= parameter_bytes);
  return a;
}

template <int V, int M>
void launch_gram(const Batch& batch, const Coefficients& c, const Output& y, double* G, double* partials,
                 void* stream) {
  constexpr auto kernel = [] {
    if constexpr (M)
      return gram_kernel<V, M>;
    else
      return gram_tiles_kernel<V>;
  }();
  const auto a = gram_arguments<V, M>(batch, c, y, G, partials);
  const int64_t tiles = M ? 1 : pair_count(a.u.groups);
  const int64_t grid =
      team_grid(a.samples * a.shape.pieces * tiles, a.shape.lanes, resident_blocks<kernel>(team_threads));
  launch(kernel, grid, team_threads, 0, stream, a);
}

}  // namespace scorefusion::cuda
