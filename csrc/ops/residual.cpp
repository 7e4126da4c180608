// residual: r where it is asked for, loss and gradient always.
#include "residual.h"

#include "call.h"
#include "python.h"

namespace scorefusion {

py::tuple residual(py::handle u, py::handle c, py::handle out) {
  Call call(u, c, out);
  Destination loss, grad;
  call.place(false);
  double* const loss_b = call.place_float64(loss, {call.samples()});
  double* const grad_bj = call.place_float64(grad, {call.samples(), call.m()});
  if (call.empty()) {
    call.fill_zero(loss_b, call.samples());
    call.fill_zero(grad_bj, call.samples() * call.m());
  } else if (call.on_host()) {
    call.run_on_host([&](const Work& work) { residual_cpu(call.batch(), call.c(), call.y(), loss_b, grad_bj, work); });
  } else {
    double* const workspace = call.workspace(residual_workspace(call.batch(), call.c()));
    residual_cuda(call.batch(), call.c(), call.y(), loss_b, grad_bj, workspace, call.stream());
  }
  call.finish();
  return py::make_tuple(loss.take(), grad.take());
}

}  // namespace scorefusion
