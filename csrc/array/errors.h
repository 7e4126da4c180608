// Errors by meaning. The bindings turn each into the Python type of its name.
#pragma once

#include <stdexcept>
#include <string>

namespace scorefusion {

// A wrong kind of object or element type.
struct TypeError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A wrong shape, device, layout or range.
struct ValueError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A failure of the CUDA runtime; text carries file and line. Becomes RuntimeError.
struct CudaError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace scorefusion
