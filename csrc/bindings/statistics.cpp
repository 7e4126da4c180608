// Shapes are checked here; the adding itself is in csrc/solve.
#include "statistics.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>

#include "../array/errors.h"
#include "../math/philox.h"
#include "../solve/statistics.h"

namespace py = pybind11;

namespace scorefusion {

namespace {

template <typename T>
using Values = py::array_t<T, py::array::c_style | py::array::forcecast>;

// A number in (0, 1) for each id: the first two words of Philox, the first the higher one, then ½.
Values<double> uniform(std::uint64_t seed, std::uint64_t stream, const Values<std::int64_t>& ids) {
  Values<double> numbers(std::vector<py::ssize_t>(ids.shape(), ids.shape() + ids.ndim()));
  double* const number = numbers.mutable_data();
  for (py::ssize_t i = 0; i < ids.size(); ++i) {
    std::uint32_t w[4];
    philox4x32(seed, stream, std::uint64_t(ids.data()[i]), w);
    number[i] = std::min((w[0] + (w[1] + 0.5) * 0x1p-32) * 0x1p-32, 1 - 0x1p-53);
  }
  return numbers;
}

// Shapes were made to fit by statistics.py; what would read or write elsewhere is refused all the same.
std::int64_t add_rows(const Values<double>& G, const Values<double>& scale, const std::optional<Values<double>>& shift,
                      const Values<double>& weight, const Values<std::int64_t>& cell,
                      py::array_t<double, py::array::c_style>& sums) {
  const auto is = [](const py::array& array, std::initializer_list<py::ssize_t> shape) {
    return std::equal(shape.begin(), shape.end(), array.shape(), array.shape() + array.ndim());
  };
  const py::ssize_t rows = G.ndim() == 3 ? G.shape(0) : -1, k = scale.ndim() == 2 ? scale.shape(1) : 0;
  const py::ssize_t m = k + 1 + bool(shift);
  if (k < 1 || !is(G, {rows, m, m}) || !is(scale, {rows, k}) || (shift && !is(*shift, {rows, k})) ||
      !is(weight, {rows}) || !is(cell, {rows}) || sums.ndim() != 2 || sums.shape(1) != k * (k + 1) / 2 + 2)
    throw ValueError("add_rows: shapes do not fit");
  for (py::ssize_t r = 0; r < rows; ++r)
    if (cell.data()[r] < 0 || cell.data()[r] >= sums.shape(0)) throw ValueError("add_rows: a cell that is not there");
  return solve::add_rows({std::size_t(rows), std::size_t(k), std::size_t(m), G.data(), scale.data(),
                          shift ? shift->data() : nullptr, weight.data(), cell.data()},
                         sums.mutable_data());
}

}  // namespace

void define_statistics(py::module_& m) {
  m.def("uniform", &uniform, py::arg("seed"), py::arg("stream"), py::arg("ids"));
  m.def("add_rows", &add_rows, py::arg("G"), py::arg("scale"), py::arg("shift"), py::arg("weight"), py::arg("cell"),
        py::arg("sums").noconvert());
}

}  // namespace scorefusion
