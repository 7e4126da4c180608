// superpose: arrays of float64 only, in C order, all on the device of the first.
#include "superpose.h"

#include <optional>
#include <string>

#include "../array/exchange.h"
#include "../array/layout.h"
#include "../cuda/runtime.h"
#include "call.h"
#include "python.h"

namespace scorefusion {

namespace {

// The argument as (B, …) doubles where they lie.
class DoublesOf {
 public:
  DoublesOf(py::handle object, const char* name, std::initializer_list<int64_t> shape, const Array* first,
            const Stream* stream) {
    if (object.is_none()) return;
    array_.emplace(object, Argument{name}, Wanted::values, stream);
    const int ndim = int(shape.size());
    if (!array_->is_float() || array_->dtype() != DType::float64)
      throw TypeError(std::string(name) + " has dtype " + array_->dtype_text() + "; it must be float64");
    const bool counted = first == nullptr;  // the first decides B
    if (array_->ndim != ndim || !std::equal(shape.begin() + counted, shape.end(), array_->shape + counted))
      throw ValueError(std::string(name) + " has shape " + array_->shape_text() + "; it must be " +
                       shape_text(shape.begin(), ndim));
    if (array_->elements() > 0 && !is_contiguous(*array_)) throw ValueError(std::string(name) + " must be contiguous");
    if (first && array_->device != first->device)
      throw ValueError(std::string(name) + " is on " + array_->device.text() + ", gained on " + first->device.text());
  }
  const Array& array() const { return *array_; }
  const double* data() const { return array_ ? reinterpret_cast<const double*>(array_->data) : nullptr; }

 private:
  std::optional<Array> array_;
};

}  // namespace

py::tuple superpose(const std::string& what, const Superposed& p, py::handle gained, py::handle kappa, py::handle G,
                    py::handle tau) {
  const Superpose rule = what == "weigh"     ? Superpose::weigh
                         : what == "advance" ? Superpose::advance
                                             : Superpose::equalise;
  const DoublesOf before(gained, "gained", {-1, p.k}, nullptr, nullptr);
  if (before.data() == nullptr && gained.is_none()) throw TypeError("gained must be an array");
  const Array& first = before.array();
  const int64_t B = first.shape[0];
  std::optional<cuda::DeviceGuard> guard;
  Stream stream;
  if (!first.device.on_host) {
    guard.emplace(first.device.id);
    stream = first.stream();
  }
  const DoublesOf known(kappa, "kappa", {B, p.k}, &first, &stream);
  const DoublesOf inner(G, "G", {B, p.m, p.m}, &first, &stream);
  const DoublesOf extra(tau, "tau", {B, p.k}, &first, &stream);
  if (rule != Superpose::weigh && G.is_none()) throw TypeError("G must be an array");

  const auto fresh = [&](bool wanted, int64_t columns) {
    const int64_t shape[] = {B, columns};
    return wanted ? Fresh(first, type_of(DType::float64), shape, 2) : Fresh();
  };
  Fresh weights = fresh(rule != Superpose::advance, p.k), c = fresh(rule != Superpose::advance, p.m);
  Fresh next = fresh(rule != Superpose::weigh, p.k);
  const auto place = [](const Fresh& array) { return reinterpret_cast<double*>(array.data); };
  const SuperposeArrays at = {inner.data(),   extra.data(), before.data(), known.data(),
                              place(weights), place(c),     place(next)};
  if (B > 0) {
    if (first.device.on_host)
      superpose_cpu(rule, p, at, B, Work{});
    else
      superpose_cuda(rule, p, at, B, stream.handle);
  }
  if (!stream.ordered) cuda::wait(stream.handle);
  if (rule == Superpose::advance) return py::make_tuple(py::none(), py::none(), next.take());
  if (rule == Superpose::weigh) return py::make_tuple(weights.take(), c.take(), py::none());
  return py::make_tuple(weights.take(), c.take(), next.take());
}

}  // namespace scorefusion
