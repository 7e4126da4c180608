// First-order steps on the simplex, for losses that change while λ is learned: each asks for one gradient.
#pragma once

#include <cstddef>
#include <vector>

namespace scorefusion::solve {

enum class Method { exponentiated, frank_wolfe, softmax, projected };

// All there is to know of a descent: what it was told, and where it stands. A copy goes on as the original would.
struct DescentState {
  Method method;
  double rate;                                  // 0: by the method's own rule
  std::vector<double> weights;                  // (k,)
  std::vector<double> logits;                   // (k,) softmax, exponentiated; weights = softmax(logits)
  std::vector<double> velocity;                 // (k,) softmax
  std::vector<double> last_grad, last_weights;  // (k,) frank_wolfe, from its second step on
  double squares = 0;                           // exponentiated, projected: of the sizes of all gradients so far
  double curvature = 0;                         // frank_wolfe: along the latest moves; 0: not known yet
};

// start: (k,), on the simplex up to rounding, positive where the method only multiplies; nullptr: uniform.
// rate: 0 for the method's own rule. Throws ValueError.
DescentState start_descent(std::size_t k, Method method, double rate, const double* start);

// One step along a finite gradient; throws ValueError, and changes nothing, where it is not finite.
void descend(DescentState& state, const double* grad /* (k,) */);

// The point of the simplex that is nearest to x, in place.
void project_onto_simplex(std::vector<double>& x /* (k,) */);

}  // namespace scorefusion::solve
