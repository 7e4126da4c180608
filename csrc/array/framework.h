// What is known about a Python type whose objects are arrays: found out once per type, then remembered.
#pragma once

#include <pybind11/pybind11.h>

#include "dlpack.h"

namespace scorefusion {

namespace py = pybind11;

struct Framework {
  // The way in, cheapest first.
  enum class Way : uint8_t {
    numpy,     // NumPy's own C interface
    exchange,  // the DLPack C exchange API
    capsule,   // __dlpack__ and __dlpack_device__
  };
  // torch tensors carry state that no protocol shows: gradients wanted, a pending minus sign. That of a plain tensor
  // is read through torch's C functions; a subclass may answer in its own way; a fake one has shape and no memory.
  enum class Torch : uint8_t { no, plain, subclass, fake };

  PyTypeObject* type = nullptr;  // held for ever, so that no other type can take its address
  Way way = Way::capsule;
  Torch torch = Torch::no;
  bool jax = false;               // its arrays never change: nothing may be written into them
  bool tracer = false;            // stands for an array of JAX while a function is traced: there is nothing to read
  bool cupy = false;              // its legacy capsules are writable
  bool takes_max_version = true;  // until __dlpack__ has refused the argument
  const dlpack::ExchangeApi* api = nullptr;
};

// nullptr: objects of this type are not arrays.
Framework* framework_of(PyTypeObject* type);

// Is this torch tensor one whose derivatives, backward or forward, are being followed now?
bool wants_gradients(const Framework& framework, PyObject* tensor);

// Does this torch tensor stand for minus what its memory holds?
bool is_negated(const Framework& framework, PyObject* tensor);

// Tells autograd that the tensor's values have changed, so that it refuses to use old ones.
void mark_changed(PyObject* tensor);

// The stream that the array's framework works on now, for that CUDA device. `known` says whether the framework
// has such a thing at all: JAX has not, and its arrays are ordered by waiting.
void* current_stream(const Framework& framework, PyObject* array, dlpack::Device device, bool* known);

// "torch.Tensor", "numpy.ndarray", "list"
std::string type_name(PyObject* object);

// A function of the private helper module scorefusion._arrays, for what is seldom needed.
py::object helper(const char* name);

// Fetches NumPy's C interface; called once, when the module is loaded.
void load_numpy();

}  // namespace scorefusion
