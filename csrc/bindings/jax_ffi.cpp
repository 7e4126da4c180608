// XLA calls these on a thread of its own, without the GIL: they touch no Python, and go straight to the launchers.
//
// The operands that are arrays come first, then the coefficients if they are traced. What is known when tracing comes
// as attributes: which operands are noise, and coefficients that are constants.
#include "jax_ffi.h"

#if SCOREFUSION_JAX
#include <xla/ffi/api/ffi.h>

#include <exception>
#include <string>
#include <vector>

#include "../ops/combine.h"
#include "../ops/gram.h"
#include "../ops/residual.h"
#endif

namespace py = pybind11;

namespace scorefusion {

#if SCOREFUSION_JAX
namespace {

namespace ffi = xla::ffi;

using Integers = ffi::Span<const int64_t>;
using Doubles = ffi::Span<const double>;

DType dtype_of_xla(ffi::DataType type) {
  switch (type) {
    case ffi::DataType::F16: return DType::float16;
    case ffi::DataType::BF16: return DType::bfloat16;
    case ffi::DataType::F32: return DType::float32;
    case ffi::DataType::F64: return DType::float64;
    default: throw std::string("scorefusion: an operand is none of float16, bfloat16, float32, float64");
  }
}

// What is known when tracing.
struct Known {
  Integers noise;     // (m, 5): is it noise?, seed, stream, the first sample's number, where its ids begin (or -1)
  Integers ids;       // of the noises that have them, one after another
  Doubles constants;  // coefficients, (m,) or (B, m); empty where they are the last argument
};

struct Given {
  Batch batch;
  Coefficients c;
  bool has_coefficients;
};

Given read(const ffi::RemainingArgs& args, const Known& known, bool has_coefficients) {
  Given given;
  Batch& batch = given.batch;
  given.has_coefficients = has_coefficients;
  const auto at = [&](size_t i) {
    auto arg = args.get<ffi::AnyBuffer>(i);
    if (arg.has_error()) throw arg.error().message();
    return *arg;
  };
  const ffi::AnyBuffer first = at(0);
  batch.samples = first.dimensions()[0];
  batch.size = batch.samples ? int64_t(first.element_count()) / batch.samples : 0;
  batch.m = int(known.noise.size() / 5);
  size_t next = 0;
  for (int j = 0; j < batch.m; ++j) {
    const int64_t* noise = known.noise.begin() + 5 * j;
    Operand& u = batch.u[j];
    if (noise[0]) {
      u.seed = uint64_t(noise[1]);
      u.stream = uint64_t(noise[2]);
      u.first = uint64_t(noise[3]);
      if (noise[4] >= 0) {
        const int64_t left = int64_t(known.ids.size()) - noise[4];
        if (left < batch.samples) throw std::string("a noise has fewer sample numbers than the arrays have samples");
        u.ids = known.ids.begin() + noise[4];
      }
    } else {
      const ffi::AnyBuffer array = at(next++);
      u.data = array.untyped_data();
      u.stride = batch.size;
      u.dtype = dtype_of_xla(array.element_type());
    }
  }
  if (!has_coefficients) return given;
  Coefficients& c = given.c;
  size_t count = known.constants.size();
  if (count) {
    c.data = known.constants.begin();
  } else {
    const ffi::AnyBuffer array = at(next);
    count = array.element_count();
    c.data = array.untyped_data();
    c.dtype = dtype_of_xla(array.element_type());
    c.stride = array.dimensions().size() == 2 ? batch.m : 0;
  }
  if (known.constants.size() > size_t(batch.m)) c.stride = batch.m;
  return given;
}

// Where a float64 result is computed: in place, or apart where JAX knows no float64 and wants it rounded.
class Rounded {
 public:
  explicit Rounded(ffi::Result<ffi::AnyBuffer> result) : result_(*result) {
    if (result_.element_type() != ffi::DataType::F64) apart_.resize(result_.element_count());
  }
  double* data() { return apart_.empty() ? static_cast<double*>(result_.untyped_data()) : apart_.data(); }
  int64_t size() const { return int64_t(result_.element_count()); }
  void finish() {
    float* to = static_cast<float*>(result_.untyped_data());
    for (size_t i = 0; i < apart_.size(); ++i) to[i] = float(apart_[i]);
  }

 private:
  ffi::AnyBuffer result_;
  std::vector<double> apart_;
};

ffi::Result<ffi::AnyBuffer> result_at(const ffi::RemainingRets& rets, size_t i) {
  auto result = rets.get<ffi::AnyBuffer>(i);
  if (result.has_error()) throw result.error().message();
  return *result;
}

// No exception may pass through XLA.
template <class Body>
ffi::Error guarded(const Body& body) {
  try {
    body();
    return ffi::Error::Success();
  } catch (const std::string& message) {
    return ffi::Error(ffi::ErrorCode::kInvalidArgument, message);
  } catch (const std::exception& error) {
    return ffi::Error(ffi::ErrorCode::kInternal, error.what());
  } catch (...) {
    return ffi::Error(ffi::ErrorCode::kInternal, "scorefusion: unknown error");
  }
}

ffi::Error combine_on_host(ffi::RemainingArgs args, ffi::RemainingRets rets, Integers noise, Integers ids,
                           Doubles constants) {
  return guarded([&] {
    const Given given = read(args, {noise, ids, constants}, true);
    ffi::Result<ffi::AnyBuffer> y = result_at(rets, 0);
    if (given.batch.samples == 0 || given.batch.size == 0) return;
    combine_cpu(given.batch, given.c, {y->untyped_data(), given.batch.size, dtype_of_xla(y->element_type())}, Work{});
  });
}

ffi::Error gram_on_host(ffi::RemainingArgs args, ffi::RemainingRets rets, Integers noise, Integers ids,
                        Doubles constants) {
  return guarded([&] {
    const Given given = read(args, {noise, ids, constants}, false);
    Rounded G(result_at(rets, 0));
    if (given.batch.samples == 0 || given.batch.size == 0)
      std::fill_n(G.data(), G.size(), 0.0);
    else
      gram_cpu(given.batch, given.c, Output{}, G.data(), Work{});
    G.finish();
  });
}

ffi::Error residual_on_host(ffi::RemainingArgs args, ffi::RemainingRets rets, Integers noise, Integers ids,
                            Doubles constants) {
  return guarded([&] {
    const Given given = read(args, {noise, ids, constants}, true);
    Rounded loss(result_at(rets, 0)), grad(result_at(rets, 1));
    if (given.batch.samples == 0 || given.batch.size == 0) {
      std::fill_n(loss.data(), loss.size(), 0.0);
      std::fill_n(grad.data(), grad.size(), 0.0);
    } else {
      residual_cpu(given.batch, given.c, Output{}, loss.data(), grad.data(), Work{});
    }
    loss.finish();
    grad.finish();
  });
}

constexpr auto bound = [] {
  return ffi::Ffi::Bind().RemainingArgs().RemainingRets().Attr<Integers>("noise").Attr<Integers>("ids").Attr<Doubles>(
      "constants");
};

XLA_FFI_DEFINE_HANDLER(combine_handler, combine_on_host, bound());
XLA_FFI_DEFINE_HANDLER(gram_handler, gram_on_host, bound());
XLA_FFI_DEFINE_HANDLER(residual_handler, residual_on_host, bound());

}  // namespace

py::dict jax_targets() {
  py::dict targets;
  const auto add = [&](const char* name, XLA_FFI_Handler* handler) {
    targets[name] = py::capsule(reinterpret_cast<void*>(handler));
  };
  add("combine", combine_handler);
  add("gram", gram_handler);
  add("residual", residual_handler);
  return targets;
}

#else

py::dict jax_targets() { return {}; }

#endif

}  // namespace scorefusion
