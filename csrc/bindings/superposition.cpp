// The numbers of a step, checked and packed into what csrc/ops/superpose.h asks for.
#include "superposition.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <string>
#include <vector>

#include "../array/errors.h"
#include "../ops/batch.h"
#include "../ops/python.h"

namespace scorefusion {

namespace {

using Numbers = std::vector<double>;

// Operand j is part of score row[j], or the state (row n) or the noise (row n + 1).
Superposed superposed(const std::vector<int>& row, const Numbers& a, const Numbers& b, const Numbers& each,
                      double noise, double eta, double root, double q, double w, double base, double alpha,
                      double temperature, double cut, double floor) {
  Superposed p;
  p.k = int(each.size()), p.n = int(b.size()), p.m = int(row.size());
  if (p.k < 1 || p.k > max_superposed || p.n < p.k || p.n > p.k + 1)
    throw ValueError("from 1 to " + std::to_string(max_superposed) + " models, one score more at most, got " +
                     std::to_string(p.k) + " and " + std::to_string(p.n));
  if (p.m < 1 || p.m > max_operands || int(a.size()) != p.m)
    throw ValueError("row and a must have one entry for each operand, 64 at most");
  p.x = -1;
  for (int j = 0; j < p.m; ++j) {
    if (row[j] < 0 || row[j] > p.n + 1) throw ValueError("row has the entry " + std::to_string(row[j]));
    p.row[j] = uint8_t(row[j]);
    p.a[j] = a[j];
    if (row[j] == p.n) p.x = j;
    if (row[j] == p.n + 1) p.z = j;
  }
  if (p.x < 0) throw ValueError("row names no operand as the state");
  std::copy(b.begin(), b.end(), p.b);
  std::copy(each.begin(), each.end(), p.each);
  p.noise = noise, p.eta = eta, p.root = root, p.q = q, p.w = w, p.base = base, p.alpha = alpha;
  p.temperature = temperature, p.cut = cut, p.floor = floor;
  return p;
}

}  // namespace

void define_superposition(pybind11::module_& m) {
  namespace py = pybind11;
  py::class_<Superposed>(m, "Superposed", py::is_final())
      .def(py::init(&superposed), py::arg("row"), py::arg("a"), py::arg("b"), py::arg("each"), py::arg("noise"),
           py::arg("eta"), py::arg("root"), py::arg("q"), py::arg("w"), py::arg("base"), py::arg("alpha"),
           py::arg("temperature"), py::arg("cut"), py::arg("floor"));
  m.attr("longest_step") = longest_step;
  m.attr("longest_detour") = longest_detour;
  m.def("superpose", &superpose, py::arg("what"), py::arg("step"), py::arg("gained"), py::arg("kappa"), py::arg("G"),
        py::arg("tau"));
}

}  // namespace scorefusion
