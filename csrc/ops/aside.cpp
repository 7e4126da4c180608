// Calls that are kept until their kernels have run, in order; small ones are run at once.
#include "aside.h"

#include <algorithm>
#include <utility>

#include "combine.h"
#include "gram.h"
#include "python.h"

namespace scorefusion {

AsideCalls::~AsideCalls() {
  try {
    finish_all();
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
    finish_all();  // it may read what was begun
    combine_now(*call);
    return call->finish();
  }
  py::object y = call->finish();
  results_.push_back(y);
  later(std::move(call), [](const Call& call) { combine_cpu(call.batch(), call.c(), call.y(), Work{}); });
  return y;
}

void AsideCalls::add_rows(py::handle u, RowsArgument rows) {
  auto call = std::make_unique<Call>(u, py::handle(), py::none());
  if (!call->on_host()) throw ValueError("add_rows: the arrays lie on a GPU");
  call->place(false);
  const std::size_t m = call->m(), products = call->samples() * m * m;
  const bool now = !is_for_later(*call);
  if (now || G_.size() < products) finish_all();
  if (G_.size() < products) G_.resize(products);
  const solve::Rows added = rows.checked(call->samples(), m, G_.data());
  double* const sums = rows.sums.mutable_data();
  const auto add = [this, added, sums, products](const Call& call, const Work& work) {
    if (bad_ >= 0) return;
    if (call.empty())
      std::fill_n(G_.data(), products, 0.0);
    else
      gram_cpu(call.batch(), call.c(), call.y(), G_.data(), work);
    bad_ = solve::add_rows(added, sums);
  };
  if (now) {
    call->run_on_host([&](const Work& work) { add(*call, work); });
    call->finish();
    return;
  }
  rows_.push_back(std::move(rows));
  later(std::move(call), [add](const Call& call) { add(call, Work{}); });
}

template <class Launch>
void AsideCalls::later(std::unique_ptr<Call> call, Launch launch) {
  const Call& kept = *calls_.emplace_back(std::move(call));
  aside_.add([&kept, launch] { launch(kept); });
}

void AsideCalls::finish_all() {
  if (calls_.empty()) return;
  {
    const py::gil_scoped_release released;
    aside_.wait();
  }
  calls_.clear();
  results_.clear();
  rows_.clear();
}

int64_t AsideCalls::wait() {
  finish_all();
  return std::exchange(bad_, -1);
}

}  // namespace scorefusion
