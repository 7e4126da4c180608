// Times of a fit's rows, and what the rows add to its sums; the adding itself is in csrc/solve.
#include "statistics.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "../array/errors.h"
#include "../math/philox.h"
#include "../ops/rows.h"

namespace scorefusion {

namespace {

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

std::int64_t add_rows(const Values<double>& G, Values<double> scale, std::optional<Values<double>> shift,
                      Values<double> weight, Values<std::int64_t> cell, py::array_t<double, py::array::c_style> sums) {
  if (G.ndim() != 3 || G.shape(1) != G.shape(2)) throw ValueError("add_rows: shapes do not fit");
  RowsArgument rows{std::move(scale), std::move(shift), std::move(weight), std::move(cell), std::move(sums)};
  return solve::add_rows(rows.checked(G.shape(0), G.shape(1), G.data()), rows.sums.mutable_data());
}

}  // namespace

void define_statistics(py::module_& m) {
  m.def("uniform", &uniform, py::arg("seed"), py::arg("stream"), py::arg("ids"));
  m.def("add_rows", &add_rows, py::arg("G"), py::arg("scale"), py::arg("shift"), py::arg("weight"), py::arg("cell"),
        py::arg("sums").noconvert());
}

}  // namespace scorefusion
