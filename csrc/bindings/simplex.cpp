// Shapes are checked here; the solvers themselves are in csrc/solve.
#include "simplex.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <optional>
#include <string>

#include "../array/errors.h"
#include "../solve/first_order.h"
#include "../solve/simplex.h"

namespace py = pybind11;

namespace scorefusion {

namespace {

// Python has made them float64 arrays on the host (simplex.py); strides are evened out here.
using Values = py::array_t<double, py::array::c_style | py::array::forcecast>;

std::string shape_text(const py::array& array) { return py::str(array.attr("shape")).cast<std::string>(); }

const double* vector_of(const Values& values, const char* name, std::size_t k) {
  if (values.ndim() != 1 || std::size_t(values.shape(0)) != k)
    throw ValueError(std::string(name) + " must have shape (" + std::to_string(k) + ",), got " + shape_text(values));
  return values.data();
}

Values array_of(const std::vector<double>& values) { return Values(py::ssize_t(values.size()), values.data()); }

py::tuple minimize_on_simplex(const Values& Q, const std::optional<Values>& q, double tolerance, double rounding) {
  if (Q.ndim() != 2 || Q.shape(0) != Q.shape(1) || Q.shape(0) == 0)
    throw ValueError("Q must have shape (k, k) with k at least 1, got " + shape_text(Q));
  if (!(tolerance >= 0)) throw ValueError("tolerance must not be negative, got " + std::to_string(tolerance));
  const std::size_t k = std::size_t(Q.shape(0));
  const solve::Quadratic problem{Q.data(), q ? vector_of(*q, "q", k) : nullptr, k};
  solve::SimplexMinimum minimum;
  {
    const py::gil_scoped_release others_may_run;
    solve::check(problem, rounding);
    minimum = solve::minimize_on_simplex(problem, tolerance);
  }
  return py::make_tuple(array_of(minimum.weights), minimum.value, minimum.gap, minimum.iterations);
}

// The names of the methods, in the order of their enumeration.
constexpr const char* method_names[] = {"exponentiated", "frank-wolfe", "softmax", "projected"};

solve::Method method_named(const std::string& name) {
  std::string known;
  for (int i = 0; i < 4; ++i) {
    if (name == method_names[i]) return solve::Method(i);
    known += std::string(i ? ", " : "") + "\"" + method_names[i] + "\"";
  }
  throw ValueError("method must be one of " + known + ", got \"" + name + "\"");
}

struct SimplexDescent {
  SimplexDescent(py::ssize_t k, const std::string& method, const std::optional<double>& rate,
                 const std::optional<Values>& start) {
    if (k < 1) throw ValueError("k must be at least 1, got " + std::to_string(k));
    if (rate && !(*rate > 0)) throw ValueError("rate must be positive and finite, got " + std::to_string(*rate));
    state = solve::start_descent(std::size_t(k), method_named(method), rate.value_or(0),
                                 start ? vector_of(*start, "start", std::size_t(k)) : nullptr);
  }
  explicit SimplexDescent(solve::DescentState state) : state(std::move(state)) {}

  Values step(const Values& grad) {
    solve::descend(state, vector_of(grad, "grad", state.weights.size()));
    return array_of(state.weights);
  }

  solve::DescentState state;
};

py::tuple state_of(const SimplexDescent& descent) {
  const solve::DescentState& s = descent.state;
  return py::make_tuple(int(s.method), s.rate, s.weights, s.logits, s.velocity, s.last_grad, s.last_weights, s.squares,
                        s.curvature);
}

SimplexDescent descent_of(const py::tuple& s) {
  using Vector = std::vector<double>;
  return SimplexDescent({solve::Method(s[0].cast<int>()), s[1].cast<double>(), s[2].cast<Vector>(), s[3].cast<Vector>(),
                         s[4].cast<Vector>(), s[5].cast<Vector>(), s[6].cast<Vector>(), s[7].cast<double>(),
                         s[8].cast<double>()});
}

}  // namespace

void define_simplex(py::module_& m) {
  m.def("minimize_on_simplex", &minimize_on_simplex, py::arg("Q"), py::arg("q"), py::arg("tolerance"),
        py::arg("rounding"));
  py::class_<SimplexDescent>(m, "SimplexDescent", py::is_final())
      .def(py::init<py::ssize_t, const std::string&, const std::optional<double>&, const std::optional<Values>&>(),
           py::arg("k"), py::arg("method"), py::arg("rate"), py::arg("start"))
      .def_property_readonly("weights", [](const SimplexDescent& descent) { return array_of(descent.state.weights); })
      .def_property_readonly("method",
                             [](const SimplexDescent& descent) { return method_names[int(descent.state.method)]; })
      .def("step", &SimplexDescent::step, py::arg("grad"))
      .def(py::pickle(&state_of, &descent_of));
}

}  // namespace scorefusion
