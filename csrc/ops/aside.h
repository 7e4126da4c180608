// Operations whose kernels run beside Python (cpu/aside.h): their results are there at once, and filled after wait().
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <vector>

#include "../array/noise.h"
#include "../cpu/aside.h"
#include "call.h"

namespace scorefusion {

// Nothing that is read may be written until then. What is little, or not in NumPy or torch on the host, is done at
// once; everything, where that is said.
class AsideCalls {
 public:
  explicit AsideCalls(bool at_once) : at_once_(at_once) {}
  ~AsideCalls();

  py::object combine(py::handle u, py::handle c, py::handle out);
  py::object gram(py::handle u);
  py::object noise_like(const Noise& noise, py::handle x, py::handle out);
  void wait();

 private:
  py::object elementwise(std::unique_ptr<Call> call);
  template <class Launch>
  void later(std::unique_ptr<Call> call, py::object result, Launch launch);

  bool is_for_later(const Call& call) const;

  const bool at_once_;
  std::vector<std::unique_ptr<Call>> calls_;  // they hold what is read
  std::vector<py::object> results_;           // and these what is written
  Aside aside_;
};

}  // namespace scorefusion
