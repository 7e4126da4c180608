// Host memory on offer by DLPack, for frameworks that build an array around a foreign buffer (JAX, any array API).
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <vector>

#include "dlpack.h"

namespace scorefusion {

namespace py = pybind11;

// A fresh array in C order. The memory lives as long as the buffer or anyone who took it.
class HostBuffer {
 public:
  HostBuffer(dlpack::DataType type, const int64_t* shape, int ndim);

  char* data() const { return static_cast<char*>(memory_.get()); }
  // A capsule, versioned if max_version allows it. The other arguments of the protocol change nothing here.
  py::capsule dlpack(const py::object& stream, const py::object& max_version, const py::object& device,
                     const py::object& copy) const;

 private:
  std::shared_ptr<void> memory_;
  dlpack::DataType type_;
  std::vector<int64_t> shape_, strides_;
};

// Asks for huge pages, before the first touch, where a fresh piece of host memory is large: page faults, not
// bandwidth, rule large fresh outputs (2.7 times faster on torch's memory at 64 MiB).
void prefer_huge_pages(void* data, int64_t bytes);

}  // namespace scorefusion
