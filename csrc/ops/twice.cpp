// combine_twice: one pass on the host, two on a GPU.
#include "twice.h"

#include "call.h"
#include "combine.h"
#include "python.h"

namespace scorefusion {

py::tuple combine_twice(py::handle u, py::handle c, int first, double share, py::handle out, py::handle r_out) {
  Call call(u, c, out);
  if (first < 1 || first > call.m()) throw ValueError("combine_twice: first must be 1 to the number of operands");
  if (call.c().data) throw ValueError("combine_twice: c must be numbers");
  call.place(true);
  Destination r;
  const Twice twice{first, share, call.place_beside(r, r_out), call.y()};
  if (call.empty()) {
  } else if (call.on_host()) {
    call.run_on_host([&](const Work& work) { combine_twice_cpu(call.batch(), call.c(), twice, work); });
  } else {
    combine_twice_by(call.batch(), call.c(), twice, [&](const Batch& batch, const Coefficients& c, const Output& y) {
      combine_cuda(batch, c, y, nullptr, call.stream());
    });
  }
  py::object y = call.finish();
  return py::make_tuple(r.take(), std::move(y));
}

}  // namespace scorefusion
