// combine, and Noise.like, which is a combination of one noise.
#include "combine.h"

#include "call.h"
#include "python.h"

namespace scorefusion {

void combine_now(Call& call) {
  if (call.empty()) return;
  if (call.on_host()) {
    call.run_on_host([&](const Work& work) { combine_cpu(call.batch(), call.c(), call.y(), work); });
  } else {
    double* const workspace = call.workspace(combine_workspace(call.batch(), call.c()));
    combine_cuda(call.batch(), call.c(), call.y(), workspace, call.stream());
  }
}

py::object combine(py::handle u, py::handle c, py::handle out) {
  Call call(u, c, out);
  call.place(true);
  combine_now(call);
  return call.finish();
}

py::object noise_like(const Noise& noise, py::handle x, py::handle out) {
  Call call(noise, x, out);
  call.place(true);
  combine_now(call);
  return call.finish();
}

}  // namespace scorefusion
