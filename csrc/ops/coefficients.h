// The coefficients c as Python gives them: m numbers, an array (m,), or (B, m) as nested lists or as an array.
#pragma once

#include <pybind11/pybind11.h>

#include <optional>
#include <vector>

#include "../array/exchange.h"
#include "batch.h"

namespace scorefusion {

class CoefficientsArgument {
 public:
  // Throws TypeError or ValueError unless c holds coefficients for m operands of `samples` samples on that device.
  void read(py::handle c, int m, int64_t samples, const Device& device, const Stream* stream);

  Coefficients coefficients;   // what a kernel is given; points into what this object holds
  std::optional<Array> array;  // set where the caller's memory is read

 private:
  void read_rows(PyObject* rows, int m, int64_t samples);
  void read_array(py::handle c, int m, int64_t samples, const Device& device, const Stream* stream);

  std::vector<double> rows_;  // per-sample values that had to be converted
};

}  // namespace scorefusion
