// The steps of every operation: validate, place, launch and finish.
#include "call.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <string>

namespace scorefusion {

namespace {

PyTypeObject* noise_type = nullptr;

bool same_shape(const Array& a, const Array& b) {
  return a.ndim == b.ndim && std::equal(a.shape, a.shape + a.ndim, b.shape);
}

// The shape that most arrays have is taken for the right one, so that the odd one can be named.
ValueError shapes_differ(const FixedList<Array, max_operands>& arrays) {
  std::map<std::string, int> votes;
  for (const Array& array : arrays) ++votes[array.shape_text()];
  const Array* usual = &arrays[0];
  for (const Array& array : arrays)
    if (votes[array.shape_text()] > votes[usual->shape_text()]) usual = &array;
  std::string odd, all;
  for (const Array& array : arrays) {
    if (odd.empty() && !same_shape(array, *usual)) odd = array.argument.text();
    all += (all.empty() ? "" : ", ") + array.argument.text() + " " + array.shape_text();
  }
  return ValueError("operands must have one shape, but " + odd + " differs: " + all);
}

void check_shapes(const FixedList<Array, max_operands>& arrays) {
  for (const Array& array : arrays)
    if (!same_shape(array, arrays[0])) throw shapes_differ(arrays);
}

}  // namespace

void set_noise_type(PyTypeObject* type) { noise_type = type; }

py::object Destination::take() {
  if (out && in_place) {
    if (out->framework->torch != Framework::Torch::no) mark_changed(out->object.ptr());
    return out->object;
  }
  if (out) {
    helper("copy_into")(out->object, fresh.take());
    return out->object;
  }
  if (order.empty()) return fresh.take();
  // Memory has the axes (0, order…); the array shows them in their own order.
  py::tuple axes(order.size() + 1);
  axes[0] = 0;
  for (size_t place = 0; place < order.size(); ++place) axes[order[place]] = place + 1;
  return helper("permuted")(fresh.take(), axes);
}

// ---- validate ---------------------------------------------------------------------------------------------------

Call::Call(py::handle u, py::handle c, py::handle out) {
  read_operands(u);
  check_shapes(arrays_);
  measure();
  read_noises();
  if (c) {
    c_.read(c, m_, samples_, device_, &stream_);
    if (c_.array) join(*c_.array);
  }
  read_elementwise_out(out);
}

const Coefficients& Call::read_factors(py::handle f, int count) {
  factors_.emplace().read(f, count, samples_, device_, &stream_);
  if (factors_->array) join(*factors_->array);
  return factors_->coefficients;
}

void Call::read_elementwise_out(py::handle out) {
  if (!out || out.is_none()) return;
  const Array& y = read_out(elementwise_, out);
  y.dtype();  // throws where it is none that results may have
  if (!same_shape(y, first()))
    throw ValueError("out has shape " + y.shape_text() + ", the operands have " + first().shape_text());
  check_overlap(y, true);
}

Call::Call(const Noise& noise, py::handle like, py::handle out) : noise_bits_(1), m_(1) {
  noises_.add(py::cast(noise, py::return_value_policy::reference));
  like_.emplace(like, Argument{"x"}, Wanted::description);
  like_->dtype();
  c_.coefficients.values[0] = 1;
  start();
  measure();
  read_noises();
  read_elementwise_out(out);
}

Call::Call(py::handle array, const char* name) : m_(1) {
  arrays_.add(array, Argument{name}, Wanted::values, nullptr).dtype();
  start();
  measure();
  read_noises();
}

void Call::read_operands(py::handle u) {
  if (!PyList_Check(u.ptr()) && !PyTuple_Check(u.ptr()))
    throw TypeError("u must be a list of operands, got " + type_name(u.ptr()) +
                    (is_array(u) ? ": write [u] for one operand, list(u) for operands stacked in one array" : ""));
  // The size is asked for again each time: reading an operand may run Python code, which may change the list.
  for (; m_ < PySequence_Fast_GET_SIZE(u.ptr()); ++m_) {
    if (m_ == max_operands)
      throw ValueError("u has " + std::to_string(PySequence_Fast_GET_SIZE(u.ptr())) +
                       " operands; one call takes at most " + std::to_string(max_operands));
    read_operand(PySequence_Fast_GET_ITEM(u.ptr(), m_), m_);
  }
  if (arrays_.size() == 0)
    throw ValueError(m_ ? "u holds Noise alone; at least one operand must be an array, which decides the shape"
                        : "u is empty; at least one operand must be an array");
}

void Call::read_operand(py::handle operand, int j) {
  if (Py_IS_TYPE(operand.ptr(), noise_type)) {
    noise_bits_ |= uint64_t(1) << j;
    noises_.add(py::reinterpret_borrow<py::object>(operand));
    return;
  }
  const bool is_first = arrays_.size() == 0;
  const Array& array = arrays_.add(operand, Argument{"u", j}, Wanted::values, is_first ? nullptr : &stream_);
  array.dtype();  // throws where it is none that operands may have
  if (is_first) return start();
  check_device(array);
  join(array);
}

// The first array decides the device, and the stream that all work is put on.
void Call::start() {
  device_ = first().device;
  if (device_.on_host) return;
  if (!cuda::available())
    throw CudaError(first().argument.text() + " is on " + device_.text() + ", but " + cuda::why_not());
  guard_.emplace(device_.id);
  stream_ = first().stream();
  must_wait_ = !stream_.ordered;
}

// An array of a framework that works on another stream: ours goes on after what that holds now, and finish() lets that
// go on after ours.
void Call::join(const Array& array) {
  if (array.device.on_host || array.framework == first().framework) return;
  const Stream other = array.stream();
  if (!other.ordered) must_wait_ = true;
  if (!other.ordered || other.handle == stream_.handle) return;
  cuda::order_after(stream_.handle, other.handle);
  if (std::find(other_streams_.begin(), other_streams_.end(), other.handle) == other_streams_.end())
    other_streams_.push_back(other.handle);
}

void Call::check_device(const Array& array) const {
  if (array.device != device_)
    throw ValueError(array.argument.text() + " is on " + array.device.text() + ", " + first().argument.text() + " on " +
                     device_.text() + "; all arrays must be on one device");
}

void Call::measure() {
  const Array& array = first();
  if (array.ndim == 0)
    throw ValueError(array.argument.text() + " has shape (); it must have a batch dimension, (B, *event)");
  samples_ = array.shape[0];
  size_ = 1;
  bool fits = true;
  for (int axis = 1; axis < array.ndim; ++axis) fits &= !__builtin_mul_overflow(size_, array.shape[axis], &size_);
  int64_t elements = 0;
  if (!fits || __builtin_mul_overflow(size_, samples_, &elements))
    throw ValueError(array.argument.text() + " has shape " + array.shape_text() +
                     ", more elements than 64 bits can count");
}

// Numbers its samples, which the shape decides.
void Call::read_noises() {
  batch_.samples = samples_;
  batch_.size = size_;
  batch_.m = m_;
  const py::object* noise = noises_.begin();
  for (int j = 0; j < m_; ++j) {
    if (!is_noise(j)) continue;
    const Argument argument = like_ ? Argument{"Noise"} : Argument{"u", j};
    batch_.u[j] = py::cast<const Noise&>(*noise++).operand(samples_, size_, device_, &stream_, argument, ids_);
  }
  for (const Array& ids : ids_) join(ids);
}

const Array& Call::read_out(Destination& destination, py::handle out) {
  const Array& array = destination.out.emplace(out, Argument{"out"}, Wanted::values, &stream_);
  check_device(array);
  join(array);
  if (array.framework->jax) throw ValueError("out is a JAX array, which cannot be written into");
  if (array.read_only) throw ValueError("out is read-only");
  if (array.copied) throw ValueError("out cannot be written into: its framework hands out a copy");
  if (may_overlap_itself(array))
    throw ValueError("out has elements that share memory (an expanded axis?); its shape is " + array.shape_text());
  return array;
}

void Call::check_overlap(const Array& out, bool may_be_operand) const {
  for (const Array& array : arrays_) {
    if (may_be_operand && is_same_view(out, array)) continue;
    if (may_overlap(out, array))
      throw ValueError("out overlaps " + array.argument.text() +
                       (may_be_operand ? "; it may be an operand exactly, or share no memory with any"
                                       : "; it may share no memory with any operand"));
  }
  if (c_.array && may_overlap(out, *c_.array)) throw ValueError("out overlaps c; it may share no memory with it");
  for (const Array& ids : ids_)
    if (may_overlap(out, ids)) throw ValueError("out overlaps the sample numbers of " + ids.argument.text());
}

// ---- place ------------------------------------------------------------------------------------------------------

void Call::place(bool fresh_elementwise) {
  if (!empty()) choose_layout();
  fill_batch();
  has_elementwise_ = elementwise_.out || fresh_elementwise;
  if (!has_elementwise_) return;

  if (elementwise_.out && elementwise_.in_place) {
    const Array& out = *elementwise_.out;
    y_ = {out.data, batch_stride(out, size_), out.dtype()};
    return;
  }
  // What is copied into `out` at the end is made by the library of `out`, which knows its dtype.
  const Array& like = elementwise_.out ? *elementwise_.out : first();
  DType dtype = like.dtype();
  if (!elementwise_.out)
    for (const Array& array : arrays_) dtype = widest(dtype, array.dtype());
  y_ = fresh_like(like, elementwise_, dtype);
}

Output Call::place_fresh(Destination& destination, DType dtype) const {
  return fresh_like(first(), destination, dtype);
}

Output Call::place_beside(Destination& destination, py::handle out) {
  if (out.is_none()) return fresh_like(first(), destination, y_.dtype);
  const Array& array = read_out(destination, out);
  check_overlap(array, false);
  if (elementwise_.out && may_overlap(array, *elementwise_.out)) throw ValueError("the results overlap");
  const bool fits = order_.empty() ? samples_are_plain(array) : samples_are_dense(array, order_);
  if (!fits || !same_shape(array, first()) || !array.is_float() || array.dtype() != y_.dtype)
    throw ValueError("the second result must lie like the operands, and have the dtype of the first");
  return {array.data, batch_stride(array, size_), y_.dtype};
}

Output Call::fresh_like(const Array& like, Destination& destination, DType dtype) const {
  std::vector<int64_t> in_memory;  // the shape with its axes in that order
  if (!order_.empty()) in_memory.push_back(samples_);
  for (int axis : order_) in_memory.push_back(like.shape[axis]);
  destination.fresh = Fresh(like, type_of(dtype), order_.empty() ? like.shape : in_memory.data(), like.ndim);
  destination.order = order_;
  return {destination.fresh.data, size_, dtype};
}

// In C order where samples lie so; in another order (channels_last) where all arrays share it and no noise, whose
// elements are counted in C order, is among them. What fits neither is copied, `out` at the end.
void Call::choose_layout() {
  const auto plain = [](const Array& array) { return samples_are_plain(array); };
  const Array* out = elementwise_.out ? &*elementwise_.out : nullptr;
  const Array* odd = std::find_if_not(arrays_.begin(), arrays_.end(), plain);
  if (odd == arrays_.end()) odd = out && !plain(*out) ? out : nullptr;
  if (!odd) return;

  const AxisOrder order = memory_order(*odd);
  const auto shares_order = [&](const Array& array) { return samples_are_dense(array, order); };
  if (noise_bits_ == 0 && std::all_of(arrays_.begin(), arrays_.end(), shares_order) && (!out || shares_order(*out))) {
    order_ = order;
    return;
  }
  for (Array& array : arrays_) {
    if (plain(array)) continue;
    array = Array(helper("contiguous")(array.object), array.argument, Wanted::values, &stream_);
    join(array);  // the copy is under way on its framework's stream
  }
  elementwise_.in_place = !out || plain(*out);
}

void Call::fill_batch() {
  const Array* array = arrays_.begin();
  for (int j = 0; j < m_; ++j) {
    if (is_noise(j)) continue;  // read_noises has filled it
    Operand operand;
    operand.data = array->data;
    operand.stride = batch_stride(*array, size_);
    operand.dtype = array->dtype();
    batch_.u[j] = operand;
    ++array;
  }
}

double* Call::place_float64(Destination& destination, std::initializer_list<int64_t> shape, py::handle out) {
  const int ndim = int(shape.size());
  if (!out.is_none()) {
    const Array& array = read_out(destination, out);
    if (!array.is_float() || array.dtype() != DType::float64)
      throw TypeError("out has dtype " + array.dtype_text() + "; it must be float64");
    if (array.ndim != ndim || !std::equal(shape.begin(), shape.end(), array.shape))
      throw ValueError("out has shape " + array.shape_text() + "; it must be " + shape_text(shape.begin(), ndim));
    check_overlap(array, false);
    destination.in_place = is_contiguous(array);
    if (destination.in_place) return reinterpret_cast<double*>(array.data);
  }
  destination.fresh = Fresh(destination.out ? *destination.out : first(), type_of(DType::float64), shape.begin(), ndim);
  return reinterpret_cast<double*>(destination.fresh.data);
}

int64_t* Call::place_int64(Destination& destination, std::initializer_list<int64_t> shape) {
  destination.fresh = Fresh(first(), type_int64, shape.begin(), int(shape.size()));
  return reinterpret_cast<int64_t*>(destination.fresh.data);
}

double* Call::workspace(int64_t doubles) {
  if (doubles == 0) return nullptr;
  workspace_ = Fresh(first(), type_of(DType::float64), &doubles, 1);
  return reinterpret_cast<double*>(workspace_.data);
}

// ---- launch and finish ------------------------------------------------------------------------------------------

bool signal_has_raised(void*) {
  const PyGILState_STATE state = PyGILState_Ensure();
  const bool raised = PyErr_CheckSignals() != 0;
  PyGILState_Release(state);
  return raised;
}

void Call::fill_zero(double* data, int64_t doubles) const {
  const int64_t bytes = doubles * int64_t(sizeof(double));
  if (bytes == 0) return;
  if (on_host())
    std::memset(data, 0, bytes);
  else
    cuda::fill_zero(data, bytes, stream());
}

py::object Call::finish() {
  for (void* other : other_streams_) cuda::order_after(other, stream());
  if (must_wait_) cuda::wait(stream());
  return has_elementwise_ ? elementwise_.take() : py::none();
}

}  // namespace scorefusion
