// Numbers, nested lists and arrays are read at once; arrays of floats are left to the kernel where they lie.
#include "coefficients.h"

#include "../array/layout.h"
#include "../array/numpy.h"
#include "../array/scalars.h"

namespace scorefusion {

namespace {

std::string row_text(int64_t row) {
  std::string text = "c";
  if (row >= 0) text += "[" + std::to_string(row) + "]";
  return text;
}

// "c[2]", or "c[7][2]" in a row of nested lists
std::string entry_text(int64_t row, int64_t j) { return row_text(row) + "[" + std::to_string(j) + "]"; }

// Of an OverflowError that Python has raised.
ValueError too_large(int64_t row, int64_t j) {
  PyErr_Clear();
  return ValueError(entry_text(row, j) + " must be a real number, got an integer that float64 has no room for");
}

// An entry that is neither a float nor an int: a NumPy scalar, a 0-d array on the host, anything with __float__.
double read_entry_slowly(PyObject* entry, int64_t row, int64_t j) {
  const auto wrong = [&] {
    return TypeError(entry_text(row, j) + " must be a real number, got " + type_name(entry) +
                     (is_array(entry) ? "; a whole array of coefficients has shape (m,) or (B, m)" : ""));
  };
  if (is_array(entry)) {
    const std::string name = entry_text(row, j);
    const Array array(entry, {name.c_str()});
    if (!array.device.on_host)
      throw ValueError(name + " is on " + array.device.text() +
                       ", and reading it would wait for the GPU: pass all of c as one array there");
    if (array.ndim != 0 || !is_real(array.type)) throw wrong();
    return read_real(array.data, array.type);
  }
  if (!PyNumber_Check(entry) || PyComplex_Check(entry) || PyArray_IsScalar(entry, ComplexFloating)) throw wrong();
  const py::object number = py::reinterpret_steal<py::object>(PyNumber_Float(entry));
  if (!number) {
    if (PyErr_ExceptionMatches(PyExc_OverflowError)) throw too_large(row, j);
    if (!PyErr_ExceptionMatches(PyExc_TypeError)) throw py::error_already_set();
    PyErr_Clear();
    throw wrong();
  }
  return PyFloat_AS_DOUBLE(number.ptr());
}

double read_entry(PyObject* entry, int64_t row, int64_t j) {
  if (PyFloat_Check(entry)) return PyFloat_AS_DOUBLE(entry);
  if (PyLong_CheckExact(entry)) {
    const double number = PyLong_AsDouble(entry);
    if (number == -1.0 && PyErr_Occurred()) throw too_large(row, j);
    return number;
  }
  const py::object held = py::reinterpret_borrow<py::object>(entry);  // the list may lose it meanwhile
  return read_entry_slowly(entry, row, j);
}

bool is_list(PyObject* object) { return PyList_Check(object) || PyTuple_Check(object); }

// m entries of a list or tuple; `row` only names them in errors.
void read_list(PyObject* list, int64_t row, int m, double* to) {
  for (int j = 0; j < m; ++j) {
    // Asked again for each entry: reading one may run Python code, which may change the list.
    if (PySequence_Fast_GET_SIZE(list) != m)
      throw ValueError(row_text(row) + " has " + std::to_string(PySequence_Fast_GET_SIZE(list)) + " entries for " +
                       std::to_string(m) + " operands; it must hold one number for each");
    to[j] = read_entry(PySequence_Fast_GET_ITEM(list, j), row, j);
  }
}

}  // namespace

void CoefficientsArgument::read(py::handle c, int m, int64_t samples, const Device& device, const Stream* stream) {
  if (is_list(c.ptr())) {
    if (PySequence_Fast_GET_SIZE(c.ptr()) && is_list(PySequence_Fast_GET_ITEM(c.ptr(), 0)))
      read_rows(c.ptr(), m, samples);
    else
      read_list(c.ptr(), -1, m, coefficients.values);
  } else if (is_array(c)) {
    read_array(c, m, samples, device, stream);
  } else if (PySequence_Check(c.ptr()) && !PyUnicode_Check(c.ptr()) && !PyBytes_Check(c.ptr())) {
    const py::object list = py::reinterpret_steal<py::object>(PySequence_List(c.ptr()));
    if (!list) throw py::error_already_set();
    read(list, m, samples, device, stream);
  } else {
    throw TypeError("c must be a list of " + std::to_string(m) + " numbers, or an array of shape (" +
                    std::to_string(m) + ",) or (B, " + std::to_string(m) + "), got " + type_name(c.ptr()));
  }
}

void CoefficientsArgument::read_rows(PyObject* rows, int m, int64_t samples) {
  const auto check_count = [&] {
    if (PySequence_Fast_GET_SIZE(rows) != samples)
      throw ValueError("c has " + std::to_string(PySequence_Fast_GET_SIZE(rows)) + " rows for " +
                       std::to_string(samples) + " samples");
  };
  check_count();  // before there is room for so many
  rows_.resize(samples * m);
  for (int64_t b = 0; b < samples; ++b) {
    check_count();  // reading an entry may run Python code, which may change the list
    const py::object row = py::reinterpret_borrow<py::object>(PySequence_Fast_GET_ITEM(rows, b));
    if (!is_list(row.ptr()))
      throw TypeError("c[" + std::to_string(b) + "] must be a list of numbers like c[0], got " + type_name(row.ptr()));
    read_list(row.ptr(), b, m, &rows_[b * m]);
  }
  coefficients.data = rows_.data();
  coefficients.stride = m;
}

void CoefficientsArgument::read_array(py::handle c, int m, int64_t samples, const Device& device,
                                      const Stream* stream) {
  const Array& view = array.emplace(c, Argument{"c"}, Wanted::values, stream);
  const bool shared = view.ndim == 1 && view.shape[0] == m;
  const bool per_sample = view.ndim == 2 && view.shape[0] == samples && view.shape[1] == m;
  if (!shared && !per_sample)
    throw ValueError("c has shape " + view.shape_text() + "; for " + std::to_string(m) + " operands of " +
                     std::to_string(samples) + " samples it must be (" + std::to_string(m) + ",) or (" +
                     std::to_string(samples) + ", " + std::to_string(m) + ")");
  if (!is_real(view.type))
    throw TypeError("c has dtype " + view.dtype_text() + "; it must be real, in native byte order");
  if (!view.device.on_host && view.device != device)
    throw ValueError("c is on " + view.device.text() + ", the operands on " + device.text() +
                     "; it must be there or on the host");

  const int64_t row_stride = per_sample ? view.stride(0) : 0, step = view.stride(view.ndim - 1);
  const int64_t itemsize = view.itemsize();
  const bool aligned = uintptr_t(view.data) % itemsize == 0 && row_stride % itemsize == 0 && step % itemsize == 0;
  if (view.device.on_host && shared) {
    for (int j = 0; j < m; ++j) coefficients.values[j] = read_real(view.data + j * step, view.type);
  } else if (view.device.on_host && !(view.is_float() && aligned)) {
    rows_.resize(samples * m);
    for (int64_t b = 0; b < samples; ++b)
      for (int j = 0; j < m; ++j) rows_[b * m + j] = read_real(view.data + b * row_stride + j * step, view.type);
    coefficients.data = rows_.data();
    coefficients.stride = m;
  } else {
    coefficients.data = view.data;
    coefficients.dtype = view.dtype();
    coefficients.stride = samples > 1 ? row_stride / itemsize : 0;
    coefficients.step = step / itemsize;
    coefficients.on_host = view.device.on_host;
  }
}

}  // namespace scorefusion
