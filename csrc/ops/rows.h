// Rows of inner products and the sums they are added to, as Python gives them.
#pragma once

#include <pybind11/numpy.h>

#include <cstdint>
#include <optional>

#include "../solve/statistics.h"

namespace scorefusion {

namespace py = pybind11;

template <typename T>
using Values = py::array_t<T, py::array::c_style | py::array::forcecast>;

// All but the inner products themselves. Shapes were made to fit by statistics.py; what would read or write elsewhere
// is refused all the same.
struct RowsArgument {
  Values<double> scale;                 // (rows, k)
  std::optional<Values<double>> shift;  // (rows, k)
  Values<double> weight;                // (rows,)
  Values<std::int64_t> cell;            // (rows,)
  py::array_t<double, py::array::c_style> sums;

  // With inner products (rows, m, m). The arrays must outlive what is returned.
  solve::Rows checked(py::ssize_t rows, py::ssize_t m, const double* G) const;
};

}  // namespace scorefusion
