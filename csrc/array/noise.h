// Noise(seed, stream, sample): a standard-normal operand that is never stored.
#pragma once

#include <pybind11/pybind11.h>

#include <optional>
#include <string>
#include <vector>

#include "../ops/batch.h"
#include "exchange.h"

namespace scorefusion {

// Immutable. Sample b has the number first + b, or ids[b].
class Noise {
 public:
  // sample: the number of the first sample, or an array (B,) of int64 numbers. Numbers on the host are copied once;
  // an array on a GPU is kept, and read where the operands are.
  Noise(py::handle seed, py::handle stream, py::handle sample);

  uint64_t seed() const { return seed_; }
  uint64_t stream() const { return stream_; }
  py::object sample() const;  // an int, a read-only NumPy array, or the array on the GPU

  // This noise as an operand of `samples` samples of `size` elements. `device_ids`: filled when numbers on a GPU are
  // read, to be held as long as they are.
  Operand operand(int64_t samples, int64_t size, const Device& device, const Stream* stream, Argument argument,
                  std::vector<Array>& device_ids) const;

  std::string text() const;
  size_t hash() const;
  bool operator==(const Noise& other) const;

 private:
  void take_ids(const Array& ids);

  uint64_t seed_, stream_;
  uint64_t first_ = 0;
  std::optional<std::vector<int64_t>> ids_;
  py::object device_ids_;
  int64_t last_ = 0;  // the largest of ids_
};

}  // namespace scorefusion
