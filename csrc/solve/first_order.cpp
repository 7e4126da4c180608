// The four rules, each in a few verbs of vectors.h.
#include "first_order.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <numeric>
#include <string>

#include "../array/errors.h"
#include "vectors.h"

namespace scorefusion::solve {

namespace {

constexpr double momentum = 0.9, softmax_rate = 0.1;  // as published
constexpr double start_precision = 1e-6;              // of a sum that should be 1

void softmax(const std::vector<double>& logits, std::vector<double>& weights) {
  const double most = *std::max_element(logits.begin(), logits.end());
  double total = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) total += weights[i] = std::exp(logits[i] - most);
  for (double& weight : weights) weight /= total;
}

// √(a/b), also where b is so small that the ratio overflows.
double root_of_ratio(double a, double b) {
  const double ratio = a / b;
  return std::isfinite(ratio) ? std::sqrt(ratio) : std::sqrt(a) / std::sqrt(b);
}

// λ_i ∝ λ_i exp(-η g_i). Own rate: η_t = √(ln k / Σ_s range(g_s)²), free of the gradients' scale.
void exponentiated(DescentState& state, const double* grad) {
  const std::size_t k = state.weights.size();
  const auto [low, high] = std::minmax_element(grad, grad + k);
  state.squares += (*high - *low) * (*high - *low);
  if (state.squares == 0) return;
  const double rate =
      state.rate > 0 ? state.rate : root_of_ratio(std::log(double(std::max<std::size_t>(k, 2))), state.squares);
  for (std::size_t i = 0; i < k; ++i) state.logits[i] -= rate * (grad[i] - *low);
  const double most = *std::max_element(state.logits.begin(), state.logits.end());
  for (double& logit : state.logits) logit -= most;
  softmax(state.logits, state.weights);
}

// λ = P(λ - η g). Own rate: η_t = √2 / √(Σ_s |g_s - mean|²), the diameter over the length of all gradients.
void projected(DescentState& state, const double* grad) {
  const std::size_t k = state.weights.size();
  const double mean = std::accumulate(grad, grad + k, 0.0) / double(k);
  for (std::size_t i = 0; i < k; ++i) state.squares += (grad[i] - mean) * (grad[i] - mean);
  if (state.squares == 0) return;
  const double rate = state.rate > 0 ? state.rate : root_of_ratio(2, state.squares);
  for (std::size_t i = 0; i < k; ++i) state.weights[i] -= rate * (grad[i] - mean);
  project_onto_simplex(state.weights);
}

// v = 0.9 v + ∂/∂logits, logits -= η v, λ = softmax(logits)
void softmax_momentum(DescentState& state, const double* grad) {
  const std::size_t k = state.weights.size();
  const double mean = dot(state.weights.data(), grad, k), rate = state.rate > 0 ? state.rate : softmax_rate;
  for (std::size_t i = 0; i < k; ++i) {
    state.velocity[i] = momentum * state.velocity[i] + state.weights[i] * (grad[i] - mean);
    state.logits[i] -= rate * state.velocity[i];
  }
  softmax(state.logits, state.weights);
}

// Towards the vertex e_s of the lowest slope, or away from the vertex e_a of the highest one in use, whichever falls
// more steeply: d, then λ += γ d with γ = -gᵀd / (c |d|²) up to the boundary. The curvature c is 1/rate, or that of the
// latest moves, Δgᵀ Δλ / |Δλ|², which may fall by half each step and rise at once; the first move goes half way.
void frank_wolfe(DescentState& state, const double* grad) {
  const std::size_t k = state.weights.size();
  std::vector<double>& weights = state.weights;
  if (!state.last_grad.empty()) {
    double moved = 0, turned = 0;
    for (std::size_t i = 0; i < k; ++i) {
      const double step = weights[i] - state.last_weights[i];
      moved += step * step;
      turned += step * (grad[i] - state.last_grad[i]);
    }
    const double measured = turned / moved;  // nothing, where the move was too small for its square
    state.curvature = std::max(state.curvature / 2, std::isfinite(measured) ? measured : 0.0);
  }
  state.last_grad.assign(grad, grad + k);
  state.last_weights = weights;

  const std::size_t s = std::size_t(std::min_element(grad, grad + k) - grad);
  std::size_t a = s;
  for (std::size_t i = 0; i < k; ++i)
    if (weights[i] > 0 && (grad[i] > grad[a] || weights[a] == 0)) a = i;
  const double mean = dot(weights.data(), grad, k);
  const bool away = grad[a] - mean > mean - grad[s] && weights[a] < 1;
  const std::size_t vertex = away ? a : s;
  const double fall = away ? grad[a] - mean : mean - grad[s];
  const double length = dot(weights.data(), weights.data(), k) - 2 * weights[vertex] + 1;  // |λ - e|²
  if (!(fall > 0) || !(length > 0)) return;

  const double most = away ? weights[a] / (1 - weights[a]) : 1;
  const double curvature = state.rate > 0 ? 1 / state.rate : state.curvature;
  const double step = curvature > 0 ? std::min(most, fall / (curvature * length)) : most / 2;
  const double kept = away ? 1 + step : 1 - step;
  for (double& weight : weights) weight *= kept;
  weights[vertex] = step == most ? (away ? 0.0 : 1.0) : weights[vertex] + (away ? -step : step);
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  for (double& weight : weights) weight = std::max(0.0, weight) / total;
}

bool is_finite(const DescentState& state) {
  const auto all = [](const std::vector<double>& values) {
    return std::all_of(values.begin(), values.end(), [](double value) { return std::isfinite(value); });
  };
  return all(state.weights) && all(state.logits) && all(state.velocity) && std::isfinite(state.squares) &&
         std::isfinite(state.curvature);
}

}  // namespace

void project_onto_simplex(std::vector<double>& x) {
  std::vector<double> sorted = x;
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
  double sum = -1, threshold = 0;
  for (std::size_t i = 0; i < sorted.size(); ++i) {
    sum += sorted[i];
    if (sorted[i] * double(i + 1) <= sum) break;
    threshold = sum / double(i + 1);
  }
  double total = 0;
  for (double& entry : x) total += entry = std::max(0.0, entry - threshold);
  for (double& entry : x) entry /= total;
}

DescentState start_descent(std::size_t k, Method method, double rate, const double* start) {
  if (k == 0) throw ValueError("k must be at least 1, got 0");
  if (!(rate >= 0) || std::isinf(rate))
    throw ValueError("rate must be positive and finite, got " + std::to_string(rate));
  DescentState state{method, rate, std::vector<double>(k, 1 / double(k)), {}, {}, {}, {}};
  const bool multiplies = method == Method::exponentiated || method == Method::softmax;
  if (start) {
    for (std::size_t i = 0; i < k; ++i) {
      const std::string found = "start[" + std::to_string(i) + "] = " + std::to_string(start[i]);
      if (!(start[i] >= 0) || std::isinf(start[i])) throw ValueError("start must be on the simplex, but " + found);
      if (multiplies && start[i] == 0) throw ValueError("this method never moves a weight away from 0, but " + found);
    }
    const double total = std::accumulate(start, start + k, 0.0);
    if (std::abs(total - 1) > start_precision)
      throw ValueError("start must be on the simplex, but its sum is " + std::to_string(total));
    for (std::size_t i = 0; i < k; ++i) state.weights[i] = start[i] / total;
  }
  if (multiplies) {
    state.logits.assign(k, 0.0);
    if (start)
      for (std::size_t i = 0; i < k; ++i) state.logits[i] = std::log(state.weights[i]);
  }
  if (method == Method::softmax) state.velocity.assign(k, 0.0);
  return state;
}

void descend(DescentState& state, const double* grad) {
  for (std::size_t i = 0; i < state.weights.size(); ++i)
    if (!std::isfinite(grad[i]))
      throw ValueError("every entry of grad must be finite, but grad[" + std::to_string(i) +
                       "] = " + std::to_string(grad[i]));
  DescentState next = state;
  switch (state.method) {
    case Method::exponentiated: exponentiated(next, grad); break;
    case Method::frank_wolfe: frank_wolfe(next, grad); break;
    case Method::softmax: softmax_momentum(next, grad); break;
    case Method::projected: projected(next, grad); break;
  }
  if (!is_finite(next)) {
    const double* const largest = std::max_element(grad, grad + state.weights.size(),
                                                   [](double a, double b) { return std::abs(a) < std::abs(b); });
    char text[32];
    std::snprintf(text, sizeof text, "%g", *largest);
    throw ValueError(std::string("grad must not be so large that the step overflows, got an entry of ") + text);
  }
  state = std::move(next);
}

}  // namespace scorefusion::solve
