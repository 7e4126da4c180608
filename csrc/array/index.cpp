// An int, or whatever has __index__, of so many bits.
#include "index.h"

#include <string>

#include "errors.h"
#include "framework.h"

namespace scorefusion {

uint64_t index_below(py::handle value, const char* name, int bits) {
  const py::object index = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
  if (!index) {
    PyErr_Clear();
    throw TypeError(std::string(name) + " must be an integer, got " + type_name(value.ptr()));
  }
  const unsigned long long number = PyLong_AsUnsignedLongLong(index.ptr());
  if (PyErr_Occurred() || (bits < 64 && number >> bits)) {
    PyErr_Clear();
    throw ValueError(std::string(name) + " must be in [0, 2**" + std::to_string(bits) + "), got " +
                     std::string(py::str(index)));
  }
  return number;
}

}  // namespace scorefusion
