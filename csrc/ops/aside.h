// Operations whose kernels run beside Python (cpu/aside.h): their results are there at once, and filled after wait().
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <vector>

#include "../array/noise.h"
#include "../cpu/aside.h"
#include "call.h"
#include "rows.h"

namespace scorefusion {

// Nothing that is read may be written until then. What is little, or not in NumPy or torch on the host, is done at
// once; everything, where that is said.
class AsideCalls {
 public:
  explicit AsideCalls(bool at_once) : at_once_(at_once) {}
  ~AsideCalls();

  py::object combine(py::handle u, py::handle c, py::handle out);
  py::object noise_like(const Noise& noise, py::handle x, py::handle out);
  // Adds what the inner products of u say to sums (solve/statistics.h). After rows that are not finite nothing is
  // added until wait() has told of them.
  void add_rows(py::handle u, RowsArgument rows);
  // Until all is done. What add_rows of solve/statistics.h said of the first call that added nothing; −1 for none.
  int64_t wait();

 private:
  py::object elementwise(std::unique_ptr<Call> call);
  template <class Launch>
  void later(std::unique_ptr<Call> call, Launch launch);
  void finish_all();

  bool is_for_later(const Call& call) const;

  const bool at_once_;
  std::vector<std::unique_ptr<Call>> calls_;  // they hold what is read
  std::vector<py::object> results_;           // and these what is written
  std::vector<RowsArgument> rows_;
  std::vector<double> G_;  // inner products of the rows at work
  int64_t bad_ = -1;
  Aside aside_;
};

}  // namespace scorefusion
