// One call of an operation, from Python objects to what a kernel is given, and back.
//
// The steps are the same for every operation, in this order: validate (the constructor reads and checks everything,
// and writes nothing), place (memory layout, device, stream, outputs), dispatch and launch, finish.
#pragma once

#include <pybind11/pybind11.h>

#include <initializer_list>
#include <optional>
#include <vector>

#include "../array/exchange.h"
#include "../array/fixed_list.h"
#include "../array/layout.h"
#include "../array/noise.h"
#include "../cpu/work.h"
#include "../cuda/runtime.h"
#include "batch.h"
#include "coefficients.h"

namespace scorefusion {

// Where a result goes: into the caller's `out`, at once or by a copy at the end, or into a fresh array.
struct Destination {
  std::optional<Array> out;
  bool in_place = true;  // does a kernel write into `out` itself?
  Fresh fresh;
  AxisOrder order;  // of a fresh array's event axes in memory; empty: C order

  // The finished array, to be asked for once, when all that writes it has been launched.
  py::object take();
};

class Call {
 public:
  // c: a null handle for an operation without coefficients. out: None, or where the elementwise result goes.
  Call(py::handle u, py::handle c, py::handle out);
  // One array (B, *event), which errors call by that name; no coefficients.
  Call(py::handle array, const char* name);
  // One noise operand with coefficient 1, of the shape, dtype, framework and device of `like`.
  Call(const Noise& noise, py::handle like, py::handle out);

  // More coefficients, of that many results.
  const Coefficients& read_factors(py::handle f, int count);
  // Decides in which layout arrays are read, copies those that cannot be read in place, fills the batch, and opens the
  // place of the elementwise result if there is one: `out`, or a fresh array where that is wanted.
  void place(bool fresh_elementwise);
  // Opens the place of a fresh result of the operands' shape and layout; once placed.
  Output place_fresh(Destination& destination, DType dtype) const;
  // Opens the place of a second elementwise result, of the dtype of the first: `out`, or fresh.
  Output place_beside(Destination& destination, py::handle out);
  // Opens the place of a float64 result of that shape in C order: `out`, or an array of the first one's framework.
  double* place_float64(Destination& destination, std::initializer_list<int64_t> shape, py::handle out = py::none());
  // The same of a fresh int64 result.
  int64_t* place_int64(Destination& destination, std::initializer_list<int64_t> shape);
  // Device memory for as long as the call lasts; nullptr for none.
  double* workspace(int64_t doubles);

  int ndim() const { return first().ndim; }
  int m() const { return m_; }
  int64_t samples() const { return samples_; }
  int64_t elements() const { return samples_ * size_; }  // of one operand
  bool empty() const { return samples_ == 0 || size_ == 0; }
  bool on_host() const { return device_.on_host; }
  // Once placed: may results be handed out before they are filled? Where frameworks adopt or copy them, they may not.
  bool may_be_late() const {
    return on_host() && first().framework->way != Framework::Way::capsule && elementwise_.in_place;
  }
  const Batch& batch() const { return batch_; }
  const Coefficients& c() const { return c_.coefficients; }
  const Output& y() const { return y_; }
  void* stream() const { return stream_.handle; }

  // Runs launch(work) on the host, without the GIL and open to Ctrl-C when there is much to do.
  template <class Launch>
  void run_on_host(const Launch& launch) const;
  // Zeros: what sums over no elements give.
  void fill_zero(double* data, int64_t doubles) const;

  // When all has been launched: lets other frameworks go on, and gives the elementwise result (or None).
  py::object finish();

 private:
  const Array& first() const { return like_ ? *like_ : arrays_[0]; }
  bool is_noise(int j) const { return noise_bits_ >> j & 1; }
  void read_operands(py::handle u);
  void read_elementwise_out(py::handle out);
  void read_operand(py::handle operand, int j);
  void start();
  void join(const Array& array);
  void check_device(const Array& array) const;
  void measure();
  void read_noises();
  const Array& read_out(Destination& destination, py::handle out);
  void check_overlap(const Array& out, bool may_be_operand) const;
  void choose_layout();
  void fill_batch();
  Output fresh_like(const Array& like, Destination& destination, DType dtype) const;

  FixedList<Array, max_operands> arrays_;       // the operands that are arrays, in order
  FixedList<py::object, max_operands> noises_;  // those that are Noise
  std::optional<Array> like_;                   // stands for the first array where no operand is one
  uint64_t noise_bits_ = 0;                     // bit j: operand j is Noise
  int m_ = 0;
  int64_t samples_ = 0, size_ = 0;
  CoefficientsArgument c_;
  std::optional<CoefficientsArgument> factors_;
  std::vector<Array> ids_;  // sample numbers on a GPU
  Destination elementwise_;
  bool has_elementwise_ = false;
  AxisOrder order_;  // of the event axes of all arrays in memory; empty: C order

  Device device_;
  Stream stream_;
  std::vector<void*> other_streams_;  // that frameworks of other arrays work on
  bool must_wait_ = false;            // for a framework that knows no streams
  std::optional<cuda::DeviceGuard> guard_;

  Batch batch_{Batch::Unfilled{}};
  Output y_;
  Fresh workspace_;
};

// Launches a placed call's combine, wherever its operands are.
void combine_now(Call& call);

// Tells which type is the bound class Noise.
void set_noise_type(PyTypeObject* type);

// Has a signal handler (Ctrl-C) raised? The exception is left pending.
bool signal_has_raised(void*);

// From as many elements read, work on the host is worth giving the GIL away for.
constexpr int64_t large_work = 64 * 1024;

template <class Launch>
void Call::run_on_host(const Launch& launch) const {
  if (samples_ * size_ < large_work / m_) {
    launch(Work{});
    return;
  }
  try {
    const py::gil_scoped_release released;
    launch(Work{&signal_has_raised, nullptr});
  } catch (const Interrupted&) {
    throw py::error_already_set();
  }
}

}  // namespace scorefusion
