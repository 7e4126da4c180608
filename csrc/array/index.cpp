// An int, or whatever has __index__, of so many bits.
#include "index.h"

#include <string>

#include "errors.h"
#include "framework.h"

namespace scorefusion {
namespace {

// Python writes integers of some thousand digits, and raises an error at longer ones.
std::string digits(const py::object& integer) {
  const py::object text = py::reinterpret_steal<py::object>(PyObject_Str(integer.ptr()));
  if (text) return text.cast<std::string>();
  PyErr_Clear();
  return "one too long to be shown";
}

}  // namespace

uint64_t index_below(py::handle value, const char* name, int bits) {
  const py::object index = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
  if (!index) {
    PyErr_Clear();
    throw TypeError(std::string(name) + " must be an integer, got " + type_name(value.ptr()));
  }
  const unsigned long long number = PyLong_AsUnsignedLongLong(index.ptr());
  if (PyErr_Occurred() || (bits < 64 && number >> bits)) {
    PyErr_Clear();
    throw ValueError(std::string(name) + " must be in [0, 2**" + std::to_string(bits) + "), got " + digits(index));
  }
  return number;
}

}  // namespace scorefusion
