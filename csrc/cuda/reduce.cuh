// Sums over the elements of a sample, in a shape that D alone decides.
//
// A sample is cut into pieces; a piece is summed by a team of 1, 2, 4, ... 32 threads of a warp or by a whole block.
// Each thread of a team owns every lanes-th octet (8 consecutive elements) and adds its elements in order; a fixed tree
// adds the threads. Where a sample has several pieces, their sums go to a workspace and finish_kernel adds them,
// again by teams of a fixed shape. Neither the grid, nor the batch, nor the element types, nor alignment change a bit.
#pragma once

#include <algorithm>
#include <cstdint>

#include "portable.cuh"

namespace scorefusion::cuda {

// ---- Constants ---------------------------------------------------------------------------------------------------

constexpr int octet = 8;           // elements: one vector load of a 16-bit type, two of float32, four of float64
constexpr int slice = 2;           // elements converted and multiplied at a time: what is wide lives briefly
constexpr int team_threads = 128;  // per block: 128 × 200 registers still leave two blocks to a processor
constexpr int team_warps = team_threads / warp_size;

// A piece of a long sample has so many octets per thread: at least 4, so that a tree of 36 sums costs less than what
// it adds up, and more for a long sample, so that there are about 2048 pieces: several per processor, and few
// partial sums.
constexpr int64_t least_octets = 4, most_octets = 32, wanted_pieces = 2048;

// ---- Shape -------------------------------------------------------------------------------------------------------

struct Shape {
  int lanes;       // threads in a team
  int64_t piece;   // elements, a multiple of 8
  int64_t pieces;  // per sample
};

constexpr int team_for(int64_t parts, int most) {
  int lanes = 1;
  while (lanes < parts && lanes < most) lanes *= 2;
  return lanes;
}

inline Shape shape_of(int64_t size) {
  const int64_t octets = (size + octet - 1) / octet;
  if (octets <= least_octets * warp_size) return {team_for(octets, warp_size), octets * octet, 1};
  int64_t each = octets / (team_threads * wanted_pieces);
  each = each < least_octets ? least_octets : each > most_octets ? most_octets : each;
  const int64_t in_piece = each * team_threads;
  return {team_threads, in_piece * octet, (octets + in_piece - 1) / in_piece};
}

// ---- Teams -------------------------------------------------------------------------------------------------------

// A thread's place in its team, and the team's items: item, item + stride, ... Every thread of a warp (of a block, if
// teams are blocks) takes the same number of turns, so that all meet in shuffles and barriers; who has no item in the
// last turn is idle.
struct Team {
  int lanes, lane;
  int64_t item, stride, items;

  __device__ Team(int lanes, int64_t items) : lanes(lanes), items(items) {
    const int teams = blockDim.x / lanes;
    lane = threadIdx.x % lanes;
    item = int64_t(blockIdx.x) * teams + threadIdx.x / lanes;
    stride = int64_t(gridDim.x) * teams;
  }
  __device__ bool idle() const { return item >= items; }
  __device__ bool any() const {  // has the first team of this warp an item?
    const int ahead = lanes < warp_size ? int(threadIdx.x) % warp_size / lanes : 0;
    return item - ahead < items;
  }
  __device__ void advance() { item += stride; }
};

// The part of a sample that a team sums. part: item of the kinds (sample, piece), pieces fastest; idle: nothing.
struct Piece {
  int64_t sample = 0, index = 0, begin = 0, end = 0;  // elements begin .. end − 1

  __device__ Piece(const Shape& shape, int64_t size, int64_t part, bool idle) {
    if (idle) return;
    sample = shape.pieces == 1 ? part : part / shape.pieces;
    index = shape.pieces == 1 ? 0 : part % shape.pieces;
    begin = index * shape.piece;
    end = begin + shape.piece < size ? begin + shape.piece : size;
  }
};

// A thread's packs of a piece, in order: elements d .. d + n − 1.
template <int V>
struct PackWalk {
  int64_t d, end, skip;
  int n;

  __device__ PackWalk(const Piece& piece, const Team& team)
      : d(piece.begin + team.lane * octet), end(piece.end), skip((team.lanes - 1) * octet) {
    count();
  }
  __device__ bool inside() const { return d < end; }
  __device__ void advance() {
    d += V;
    if (d % octet == 0) d += skip;  // pieces begin at whole octets
    count();
  }
  __device__ void count() { n = end - d < V ? int(end - d) : V; }
};

template <int N>
using Scratch = double[team_warps][N];

// store(i, total of sums[i] over the team) for every i, once per team.
template <int N, class Store>
__device__ __forceinline__ void reduce(const Team& team, double (&sums)[N], Scratch<N>& scratch, const Store& store) {
  const int width = team.lanes < warp_size ? team.lanes : warp_size;
#pragma unroll 1
  for (int offset = width / 2; offset > 0; offset /= 2) {
#pragma unroll
    for (int i = 0; i < N; ++i) sums[i] += __shfl_xor_sync(0xFFFFFFFFu, sums[i], offset);
  }
  if (team.lanes <= warp_size) {
    if (team.lane != 0 || team.idle()) return;
#pragma unroll
    for (int i = 0; i < N; ++i) store(i, sums[i]);
    return;
  }
  if (threadIdx.x % warp_size == 0) {
#pragma unroll
    for (int i = 0; i < N; ++i) scratch[threadIdx.x / warp_size][i] = sums[i];
  }
  __syncthreads();  // every warp has written its sums before they are added
  for (int i = threadIdx.x; i < N; i += blockDim.x) {
    double total = scratch[0][i];
    for (int warp = 1; warp < team_warps; ++warp) total += scratch[warp][i];
    store(i, total);
  }
  __syncthreads();  // all are added before the next item's sums overwrite them
}

// ---- Where totals go ---------------------------------------------------------------------------------------------

// Straight into the result where a sample has one piece, else to the workspace: (samples, sums, pieces).
template <class Result>
struct Sink {
  Result result;  // result(b, i, total) puts sum i of sample b in its place
  double* partials;
  int64_t pieces;
  int sums;  // per sample

  __device__ void put(int64_t b, int64_t piece, int i, double total) const {
    if (pieces == 1)
      result(b, i, total);
    else
      partials[(b * sums + i) * pieces + piece] = total;
  }
};

// ---- Second stage ------------------------------------------------------------------------------------------------

template <class Result>
struct FinishArguments {
  Sink<Result> sink;
  int64_t samples;
  int lanes;
};

// One team per sum: reads each partial sum once.
template <class Result>
__global__ void __launch_bounds__(team_threads) finish_kernel(GRID_CONSTANT FinishArguments<Result> a) {
  SHARED(scratch, Scratch<1>);
  const Sink<Result>& sink = a.sink;
  for (Team team(a.lanes, a.samples * sink.sums); team.any(); team.advance()) {
    double total[1] = {0.0};
    const double* partial = sink.partials + team.item * sink.pieces;
    for (int64_t piece = team.idle() ? sink.pieces : team.lane; piece < sink.pieces; piece += team.lanes)
      total[0] += partial[piece];
    reduce(team, total, scratch,
           [&](int, double sum) { sink.result(team.item / sink.sums, int(team.item % sink.sums), sum); });
  }
}

// ---- Launchers ---------------------------------------------------------------------------------------------------

inline int64_t partial_sums(const Shape& shape, int64_t samples, int64_t sums) {
  return shape.pieces == 1 ? 0 : samples * sums * shape.pieces;
}

// Blocks for so many items, by teams of so many lanes.
inline int64_t team_grid(int64_t items, int lanes, int resident) {
  return std::clamp<int64_t>((items * lanes + team_threads - 1) / team_threads, 1, resident);
}

template <class Result>
void launch_finish(const Sink<Result>& sink, int64_t samples, void* stream) {
  if (sink.pieces == 1) return;
  FinishArguments<Result> a = {sink, samples, team_for(sink.pieces, warp_size)};
  if (sink.pieces > least_octets * team_threads) a.lanes = team_threads;
  const int resident = resident_blocks<finish_kernel<Result>>(team_threads);
  launch(finish_kernel<Result>, team_grid(samples * sink.sums, a.lanes, resident), team_threads, 0, stream, a);
}

}  // namespace scorefusion::cuda
