// The shapes of what is added to the sums that λ is learned from.
#include "rows.h"

#include <algorithm>
#include <initializer_list>

#include "../array/errors.h"

namespace scorefusion {

solve::Rows RowsArgument::checked(py::ssize_t rows, py::ssize_t m, const double* G) const {
  const auto is = [](const py::array& array, std::initializer_list<py::ssize_t> shape) {
    return std::equal(shape.begin(), shape.end(), array.shape(), array.shape() + array.ndim());
  };
  const py::ssize_t k = scale.ndim() == 2 ? scale.shape(1) : 0;
  if (k < 1 || m != k + 1 + bool(shift) || !is(scale, {rows, k}) || (shift && !is(*shift, {rows, k})) ||
      !is(weight, {rows}) || !is(cell, {rows}) || sums.ndim() != 2 || sums.shape(1) != k * (k + 1) / 2 + 2)
    throw ValueError("add_rows: shapes do not fit");
  for (py::ssize_t r = 0; r < rows; ++r)
    if (cell.data()[r] < 0 || cell.data()[r] >= sums.shape(0)) throw ValueError("add_rows: a cell that is not there");
  return {std::size_t(rows), std::size_t(k), std::size_t(m), G, scale.data(), shift ? shift->data() : nullptr,
          weight.data(),     cell.data()};
}

}  // namespace scorefusion
