// resample and resample_below: what they are told is checked, and places for ancestors and weights are made.
#include "resample.h"

#include <cmath>

#include "../array/index.h"
#include "call.h"
#include "python.h"

namespace scorefusion {

namespace {

ResampleMethod method_named(const std::string& name) {
  if (name == "systematic") return ResampleMethod::systematic;
  if (name == "stratified") return ResampleMethod::stratified;
  if (name == "residual") return ResampleMethod::residual;
  if (name == "multinomial") return ResampleMethod::multinomial;
  throw ValueError("method must be 'systematic', 'stratified', 'residual' or 'multinomial', got '" + name + "'");
}

// A call on log weights (B,), one group, or (groups, n).
class ResampleCall : public Call {
 public:
  // The result of a function of the shape of the log weights.
  template <class Place>
  auto shaped(const Place& place) {
    return ndim() == 2 ? place(std::initializer_list<int64_t>{r.groups, r.n})
                       : place(std::initializer_list<int64_t>{r.n});
  }

  ResampleCall(py::handle log_weights, const std::string& method, py::handle seed, py::handle stream,
               py::handle first_group)
      : Call(log_weights, "log_weights") {
    r.method = method_named(method);
    r.seed = index_below(seed, "seed", 64);
    r.stream = index_below(stream, "stream", 64);
    r.first_group = index_below(first_group, "first_group", 31);
    if (ndim() > 2)
      throw ValueError("log_weights must have shape (n,) or (groups, n), got " + std::to_string(ndim()) + " axes");
    r.groups = ndim() == 2 ? samples() : 1;
    r.n = ndim() == 2 ? batch().size : samples();
    if (r.groups + int64_t(r.first_group) > most_groups || r.n >= most_particles)
      throw ValueError("log_weights has " + std::to_string(r.groups) + " groups of " + std::to_string(r.n) +
                       ", more than the 2**31 groups of 2**32 − 1 that are counted");
    place(false);
    const Operand& u = batch().u[0];
    r.log_weights = u.data;
    r.dtype = u.dtype;
    r.group_stride = u.stride;
    r.stride = ndim() == 2 ? 1 : u.stride;
    r.ancestors = shaped([&](auto shape) { return place_int64(ancestors, shape); });
  }

  void launch() {
    if (empty()) return;
    if (!on_host()) return resample_cuda(r, workspace(resample_workspace(r)), stream());
    int64_t impossible = -1;
    run_on_host([&](const Work& work) { impossible = resample_cpu(r, work); });
    if (impossible < 0) return;
    throw ValueError("log_weights" + (ndim() == 2 ? "[" + std::to_string(impossible) + "]" : "") +
                     " must hold a number above -inf, and neither NaN nor inf: these are no weights to resample by");
  }

  Resampling r;
  Destination ancestors;
};

}  // namespace

py::object resample(py::handle log_weights, const std::string& method, py::handle seed, py::handle stream,
                    py::handle first_group) {
  ResampleCall call(log_weights, method, seed, stream, first_group);
  call.r.threshold = HUGE_VAL;
  call.launch();
  call.finish();
  return call.ancestors.take();
}

py::tuple resample_below(py::handle log_weights, double threshold, const std::string& method, py::handle seed,
                         py::handle stream, py::handle first_group) {
  ResampleCall call(log_weights, method, seed, stream, first_group);
  Destination carried, log_sum, ess;
  call.r.threshold = threshold;
  call.r.in_batch = true;
  call.r.carried = call.shaped([&](auto shape) { return call.place_float64(carried, shape); });
  call.r.log_sum = call.place_float64(log_sum, {call.r.groups});
  call.r.ess = call.place_float64(ess, {call.r.groups});
  call.launch();
  call.finish();
  return py::make_tuple(call.ancestors.take(), carried.take(), log_sum.take(), ess.take());
}

}  // namespace scorefusion
