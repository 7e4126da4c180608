// Calls that are kept until their kernels have run, in order; small ones are run at once.
#include "aside.h"

#include "combine.h"
#include "gram.h"
#include "python.h"

namespace scorefusion {

AsideCalls::~AsideCalls() {
  try {
    wait();
  } catch (...) {  // nobody has asked for it
  }
}

py::object AsideCalls::combine(py::handle u, py::handle c, py::handle out) {
  return elementwise(std::make_unique<Call>(u, c, out));
}

py::object AsideCalls::noise_like(const Noise& noise, py::handle x, py::handle out) {
  return elementwise(std::make_unique<Call>(noise, x, out));
}

bool AsideCalls::is_for_later(const Call& call) const {
  constexpr int64_t worth_waking = 8 * 1024;  // elements; the thread sleeps when it has nothing to do
  return !at_once_ && call.may_be_late() && call.elements() >= worth_waking;
}

py::object AsideCalls::elementwise(std::unique_ptr<Call> call) {
  call->place(true);
  if (!is_for_later(*call)) {
    wait();  // it may read what was begun
    combine_now(*call);
    return call->finish();
  }
  py::object y = call->finish();
  later(std::move(call), y, [](const Call& call) { combine_cpu(call.batch(), call.c(), call.y(), Work{}); });
  return y;
}

py::object AsideCalls::gram(py::handle u) {
  auto call = std::make_unique<Call>(u, py::handle(), py::none());
  if (!is_for_later(*call)) {
    wait();
    return scorefusion::gram(u, py::none());
  }
  Destination place;
  double* const G_bij = call->place_float64(place, {call->samples(), call->m(), call->m()});
  call->place(false);
  py::object G = place.take();
  later(std::move(call), G, [G_bij](const Call& call) { gram_cpu(call.batch(), call.c(), call.y(), G_bij, Work{}); });
  return G;
}

template <class Launch>
void AsideCalls::later(std::unique_ptr<Call> call, py::object result, Launch launch) {
  results_.push_back(std::move(result));
  const Call& kept = *calls_.emplace_back(std::move(call));
  aside_.add([&kept, launch] { launch(kept); });
}

void AsideCalls::wait() {
  if (calls_.empty()) return;
  {
    const py::gil_scoped_release released;
    aside_.wait();
  }
  calls_.clear();
  results_.clear();
}

}  // namespace scorefusion
