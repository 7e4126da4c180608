// Sample numbers are checked and copied when a Noise is made; a call turns it into an operand.
#include "noise.h"

#include <algorithm>
#include <cstring>

#include "index.h"
#include "layout.h"
#include "numpy.h"
#include "scalars.h"

namespace scorefusion {

Noise::Noise(py::handle seed, py::handle stream, py::handle sample)
    : seed_(index_below(seed, "seed", 64)), stream_(index_below(stream, "stream", 64)) {
  if (PyLong_CheckExact(sample.ptr()) || !is_array(sample)) {
    first_ = index_below(sample, "sample", 63);
    return;
  }
  const Array ids(sample, {"sample"});
  if (ids.ndim == 0 && ids.device.on_host) {
    first_ = index_below(sample, "sample", 63);
    return;
  }
  if (ids.ndim != 1) throw ValueError("sample must be an integer or have shape (B,), got shape " + ids.shape_text());
  if (ids.device.on_host) {
    take_ids(ids);
  } else {
    if (ids.type.code != dlpack::code_int || ids.type.bits != 64)
      throw TypeError("sample numbers on a GPU must be int64, got " + ids.dtype_text());
    device_ids_ = ids.object;
  }
}

void Noise::take_ids(const Array& ids) {
  if (ids.type.code != dlpack::code_int && ids.type.code != dlpack::code_uint)
    throw TypeError("sample must hold integers, got dtype " + ids.dtype_text());
  ids_.emplace(ids.shape[0]);
  for (int64_t b = 0; b < ids.shape[0]; ++b) {
    const int64_t id = read_integer(ids.data + b * ids.stride(0), ids.type);
    if (id < 0) throw ValueError("sample numbers must be in [0, 2**63), but sample[" + std::to_string(b) + "] is not");
    (*ids_)[b] = id;
    last_ = std::max(last_, id);
  }
}

py::object Noise::sample() const {
  if (device_ids_) return device_ids_;
  if (!ids_) return py::int_(first_);
  npy_intp count = npy_intp(ids_->size());
  py::object array = py::reinterpret_steal<py::object>(PyArray_SimpleNew(1, &count, NPY_INT64));
  if (!array) throw py::error_already_set();
  PyArrayObject* const numbers = reinterpret_cast<PyArrayObject*>(array.ptr());
  if (count) std::memcpy(PyArray_DATA(numbers), ids_->data(), count * sizeof(int64_t));
  PyArray_CLEARFLAGS(numbers, NPY_ARRAY_WRITEABLE);
  return array;
}

Operand Noise::operand(int64_t samples, int64_t size, const Device& device, const Stream* stream, Argument argument,
                       std::vector<Array>& device_ids) const {
  Operand operand;
  operand.seed = seed_;
  operand.stream = stream_;
  operand.first = first_;
  const auto check_count = [&](int64_t count) {
    if (count != samples)
      throw ValueError(argument.text() + " has " + std::to_string(count) + " sample numbers, the arrays have " +
                       std::to_string(samples) + " samples");
  };
  int64_t last = ids_ ? last_ : int64_t(first_) + std::max<int64_t>(samples - 1, 0);
  if (ids_) {
    check_count(int64_t(ids_->size()));
    if (!device.on_host)
      throw ValueError(argument.text() + " has its sample numbers on the host, the operands are on " + device.text() +
                       ": put the numbers there, which would otherwise wait for a copy at every call");
    operand.ids = ids_->data();
  } else if (device_ids_) {
    const Array& ids = device_ids.emplace_back(device_ids_, argument, Wanted::values, stream);
    check_count(ids.shape[0]);
    if (ids.device != device)
      throw ValueError(argument.text() + " has its sample numbers on " + ids.device.text() + ", the operands are on " +
                       device.text());
    operand.ids = reinterpret_cast<const int64_t*>(ids.data);
    operand.ids_stride = batch_stride(ids, 1);
    last = 0;  // unknown: nothing is read from a GPU
  }
  // Element indices are counted in 64 bits.
  uint64_t end = 0;
  if (last < 0 || __builtin_mul_overflow(uint64_t(last) + 1, uint64_t(size), &end))
    throw ValueError(argument.text() + " has sample number " + std::to_string(uint64_t(last)) + ", too large for " +
                     std::to_string(size) + " elements per sample: elements are counted in 64 bits");
  return operand;
}

std::string Noise::text() const {
  std::string sample = std::to_string(first_);
  if (ids_) sample = "<" + std::to_string(ids_->size()) + " numbers>";
  if (device_ids_) sample = "<numbers on the GPU>";
  return "Noise(seed=" + std::to_string(seed_) + ", stream=" + std::to_string(stream_) + ", sample=" + sample + ")";
}

size_t Noise::hash() const {
  size_t hash = seed_;
  const auto mix = [&hash](uint64_t word) { hash = (hash ^ word) * 0x9E3779B97F4A7C15u + (hash >> 29); };
  mix(stream_);
  mix(first_);
  if (ids_)
    for (int64_t id : *ids_) mix(uint64_t(id));
  mix(uint64_t(uintptr_t(device_ids_.ptr())));
  return hash;
}

bool Noise::operator==(const Noise& other) const {
  return seed_ == other.seed_ && stream_ == other.stream_ && first_ == other.first_ && ids_ == other.ids_ &&
         device_ids_.is(other.device_ids_);
}

}  // namespace scorefusion
