// gram and combine_gram: one launch serves both.
#include "gram.h"

#include "call.h"
#include "python.h"

namespace scorefusion {

namespace {

// The Gram, with y where the call has one.
void launch(Call& call, double* G) {
  if (call.empty()) return call.fill_zero(G, call.samples() * call.m() * call.m());
  if (call.on_host()) {
    call.run_on_host([&](const Work& work) { gram_cpu(call.batch(), call.c(), call.y(), G, work); });
  } else {
    double* const workspace = call.workspace(gram_workspace(call.batch(), call.c(), call.y()));
    gram_cuda(call.batch(), call.c(), call.y(), G, workspace, call.stream());
  }
}

}  // namespace

py::object gram(py::handle u, py::handle out) {
  Call call(u, py::handle(), py::none());
  Destination G;
  // Before place(), where a copy may take an operand's place: `out` may share no memory with the operand itself.
  double* const G_bij = call.place_float64(G, {call.samples(), call.m(), call.m()}, out);
  call.place(false);
  launch(call, G_bij);
  call.finish();
  return G.take();
}

py::tuple combine_gram(py::handle u, py::handle c, py::handle out) {
  Call call(u, c, out);
  Destination G;
  call.place(true);
  launch(call, call.place_float64(G, {call.samples(), call.m(), call.m()}));
  py::object y = call.finish();
  return py::make_tuple(std::move(y), G.take());
}

}  // namespace scorefusion
