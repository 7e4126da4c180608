// One step of a superposition for one sample: from the Gram matrix of the operands to κ, the step's coefficients and
// what every log density gains. In y = x/α,
//
//     s_i = Σ_{j of i} a_j u_j + b_i x,   dy = η S + √ν z,   S = Σ_i κ_i ((1 − w) s_un + w s_i),
//     d log q_i = <dy, s_i> − q ‖s_i‖² − τ_i.
//
// Host and device, with the same bits. Letters as in python/scorefusion/superposition.py.
#pragma once

#include "exponential.h"

namespace scorefusion {

constexpr int max_superposed = 16;  // models, beside an unconditional one

// Of "and", in any direction: so many √h and so many times what the largest difference of scores makes in η.
constexpr double longest_step = 100, longest_detour = 2;

// What is the same for all samples.
struct Superposed {
  int k = 0;                     // models whose densities are followed
  int n = 0;                     // scores: k, or k + 1 with s_un last
  int m = 0;                     // operands
  int x = 0;                     // which of them is the state
  int z = -1;                    // which is the noise; −1: there is none, or it is a multiple of the state
  uint8_t row[64];               // of operand j: the score it is part of; n the state, n + 1 the noise
  double a[64];                  // of operand j: its coefficient there; 1 for the state, `noise` for the noise
  double b[max_superposed + 1];  // of the state in each score
  double noise = 0;              // z = noise·u_z, or noise·x where z is −1
  double eta = 0, root = 0, q = 0, w = 1;
  double base = 0, alpha = 1;   // y = base·x, and x′ = alpha·(y + dy)
  double temperature = 1;       // of "or"
  double each[max_superposed];  // "or": the bias; "and": β; fixed weights: κ
  double cut = 0, floor = 0;    // differences of scores below these are none: see equalise
};

// The inner products of t_i = s_i − b̄ x, b̄ the mean of the k b_i, x and z; of equal kinds t_i has no x left.
template <int most>
struct SuperposedGram {
  static constexpr int rows = most + 3;
  double T[rows][rows];
  double shift[most + 1];  // b_i − b̄
  double b = 0;            // b̄
  int x, z;                // rows

  SF_HOST_DEVICE SuperposedGram(const Superposed& p, const double* G /* (m, m) */) : x(p.n), z(p.n + 1) {
    for (int i = 0; i < p.k; ++i) b += p.b[i];
    b /= p.k;
    for (int i = 0; i < p.n; ++i) shift[i] = p.b[i] - b;
    for (int i = 0; i <= z; ++i)
      for (int j = 0; j <= z; ++j) T[i][j] = 0;
    for (int i = 0; i < p.m; ++i)
      for (int j = 0; j < p.m; ++j) {
        double& here = T[p.row[i]][p.row[j]];
        here = fused(p.a[i] * p.a[j], G[i * p.m + j], here);
      }
    if (p.z < 0) {
      for (int i = 0; i < z; ++i) T[z][i] = T[i][z] = p.noise * T[x][i];
      T[z][z] = p.noise * T[x][z];
    }
    for (int i = 0; i < p.n; ++i)
      for (int j = 0; j <= z; ++j) T[i][j] = fused(shift[i], T[x][j], T[i][j]);
    for (int i = 0; i < p.n; ++i)
      for (int j = 0; j <= z; ++j) T[j][i] = fused(shift[i], T[j][x], T[j][i]);
  }

  SF_INLINE double scores(int i, int j) const {  // <s_i, s_j>
    return T[i][j] + b * (T[i][x] + T[j][x] + b * T[x][x]);
  }
  SF_INLINE double with(int i, int v) const { return T[i][v] + b * T[x][v]; }  // <s_i, x> or <s_i, z>
};

// κ = softmax(temperature · log q + bias)
SF_HOST_DEVICE inline void softmax(const Superposed& p, const double* gained /* (k,) */, double* kappa /* (k,) */) {
  double top = p.temperature * gained[0] + p.each[0], total = 0;
  for (int i = 0; i < p.k; ++i) {
    kappa[i] = p.temperature * gained[i] + p.each[i];
    if (kappa[i] > top) top = kappa[i];
  }
  for (int i = 0; i < p.k; ++i) total += kappa[i] = exp_of_nonpositive(kappa[i] - top);
  for (int i = 0; i < p.k; ++i) kappa[i] /= total;
}

// The weight of score i in η S.
SF_HOST_DEVICE inline double drift(const Superposed& p, const double* kappa, int i) {
  if (i < p.k) return p.eta * p.w * kappa[i];
  double total = 0;
  for (int j = 0; j < p.k; ++j) total += kappa[j];
  return p.eta * (1 - p.w) * total;
}

// Those of x′ over the operands.
SF_HOST_DEVICE inline void step_coefficients(const Superposed& p, const double* kappa, double* c /* (m,) */) {
  double of_x = p.base;
  for (int j = 0; j < p.m; ++j) c[j] = 0;
  for (int i = 0; i < p.n; ++i) {
    const double share = drift(p, kappa, i);
    of_x = fused(share, p.b[i], of_x);
    for (int j = 0; j < p.m; ++j)
      if (p.row[j] == i) c[j] = p.alpha * (share * p.a[j]);
  }
  if (p.z >= 0)
    c[p.z] = p.alpha * p.root * p.noise;
  else
    of_x += p.root * p.noise;
  c[p.x] = p.alpha * of_x;
}

// Adds d log q_i to what was gained.
template <int most>
SF_HOST_DEVICE void advance(const Superposed& p, const SuperposedGram<most>& g, const double* kappa,
                            const double* tau /* (k,) or nullptr */, double* gained /* (k,) */) {
  for (int i = 0; i < p.k; ++i) {
    double gain = p.root * g.with(i, g.z);
    for (int j = 0; j < p.n; ++j) gain = fused(drift(p, kappa, j), g.scores(i, j), gain);
    gain -= p.q * g.scores(i, i);
    gained[i] += tau ? gain - tau[i] : gain;
  }
}

// Eigenvalues on the diagonal of K, eigenvectors in the columns of U: Jacobi's rotations in a fixed order.
template <int most>
SF_HOST_DEVICE void diagonalise(int k, double K[most][most], double U[most][most]) {
  for (int i = 0; i < k; ++i)
    for (int j = 0; j < k; ++j) U[i][j] = i == j;
  for (int sweep = 0; sweep < 30; ++sweep) {
    double largest = 0;
    for (int i = 0; i < k; ++i)
      if (K[i][i] > largest) largest = K[i][i];
    bool turned = false;
    for (int p = 0; p < k; ++p)
      for (int q = p + 1; q < k; ++q) {
        const double off = K[p][q], size = off < 0 ? -off : off;
        if (!(size > 0x1p-54 * largest)) continue;
        turned = true;
        const double theta = (K[q][q] - K[p][p]) / (2 * off);
        const double t = (theta < 0 ? -1 : 1) / ((theta < 0 ? -theta : theta) + square_root(theta * theta + 1));
        const double c = 1 / square_root(t * t + 1), s = t * c;
        for (int i = 0; i < k; ++i) {
          const double a = K[i][p], b = K[i][q];
          K[i][p] = c * a - s * b, K[i][q] = s * a + c * b;
        }
        for (int i = 0; i < k; ++i) {
          const double a = K[p][i], b = K[q][i];
          K[p][i] = c * a - s * b, K[q][i] = s * a + c * b;
        }
        K[p][q] = K[q][p] = 0;
        for (int i = 0; i < k; ++i) {
          const double a = U[i][p], b = U[i][q];
          U[i][p] = c * a - s * b, U[i][q] = s * a + c * b;
        }
      }
    if (!turned) return;
  }
}

// κ for which all d log q_i are equal but for β_i. With e_i = s_i − s̄, K_ij = <e_i, e_j> and κ = 1/k + a: up to a
// number common to all i, η w K a = q K_ii + (2 q − η w) <s̄, e_i> − η (1 − w) <s_un, e_i> − √ν <z, e_i> + τ_i + β_i.
// Eigenvalues of K below `cut` times the largest, or below `floor` times (Σ_j |c_j| ‖u_j‖)² of e = Σ_j c_j u_j, are
// rounding: scores do not differ in those directions. Where they hardly do the step would have no bounds, as for three
// scores on a line: it has `longest_step`.
template <int most>
SF_HOST_DEVICE void equalise(const Superposed& p, const SuperposedGram<most>& g, const double* G /* (m, m) */,
                             const double* tau /* (k,) or nullptr */, double* kappa /* (k,) */) {
  const int k = p.k;
  double K[most][most], U[most][most], mean[most], right[most];
  double common = 0, center = 0, largest = 0, size = 0, trace = 0;
  for (int i = 0; i < k; ++i) {
    mean[i] = 0;
    for (int j = 0; j < k; ++j) mean[i] += g.T[i][j];
    mean[i] /= k;
    common += mean[i] / k;
  }
  for (int i = 0; i < k; ++i)
    for (int j = 0; j < k; ++j) K[i][j] = (g.T[i][j] - mean[i]) - (mean[j] - common);
  for (int i = 0; i < k; ++i) {
    right[i] = p.q * K[i][i] + (2 * p.q - p.eta * p.w) * (mean[i] + g.b * g.T[i][g.x]) + p.each[i];
    if (p.n > k) right[i] -= p.eta * (1 - p.w) * (g.T[k][i] + g.b * g.T[g.x][i]);
    right[i] -= p.root * g.T[g.z][i];
    if (tau) right[i] += tau[i];
    center += right[i] / k;
    trace += K[i][i];
    double length = (g.shift[i] < 0 ? -g.shift[i] : g.shift[i]) * square_root(G[p.x * p.m + p.x]);
    for (int j = 0; j < p.m; ++j)
      if (p.row[j] < k) {
        const double a = p.a[j] < 0 ? -p.a[j] : p.a[j];
        length += a * (p.row[j] == i ? 1 - 1.0 / k : 1.0 / k) * square_root(G[j * p.m + j]);
      }
    if (length > size) size = length;
  }
  for (int i = 0; i < k; ++i) kappa[i] = 0;
  if (trace - trace == 0) {  // finite
    diagonalise<most>(k, K, U);
    for (int e = 0; e < k; ++e)
      if (K[e][e] > largest) largest = K[e][e];
    const double least = p.cut * largest > p.floor * size * size ? p.cut * largest : p.floor * size * size;
    for (int e = 0; e < k; ++e) {
      if (!(K[e][e] > least)) continue;
      double along = 0;
      for (int i = 0; i < k; ++i) along += U[i][e] * (right[i] - center);
      along /= K[e][e];
      const double drift = p.eta * (p.w < 0 ? -p.w : p.w);
      const double bound =
          (longest_step * square_root(2 * p.q) + longest_detour * drift * square_root(largest)) / square_root(K[e][e]);
      along = (along > bound ? bound : along < -bound ? -bound : along) / (p.eta * p.w);
      for (int i = 0; i < k; ++i) kappa[i] += along * U[i][e];
    }
  }
  double total = 0;
  for (int i = 0; i < k; ++i) total += kappa[i] / k;
  for (int i = 0; i < k; ++i) kappa[i] += 1.0 / k - total;
}

}  // namespace scorefusion
