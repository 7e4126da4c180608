// Python arrays seen from C++: read where they lie, and made in the caller's framework.
//
// NumPy arrays come by NumPy's C interface, torch tensors by the DLPack C exchange API, all others by __dlpack__.
// An Array holds whatever keeps its memory alive. Everything here wants the GIL.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <optional>
#include <string>

#include "dlpack.h"
#include "dtype.h"
#include "errors.h"
#include "framework.h"

namespace scorefusion {

// Which argument an error speaks about: "u[2]", "c", "out".
struct Argument {
  const char* name;
  int index = -1;  // of a list's entry

  std::string text() const;
};

struct Device {
  bool on_host = true;
  int32_t id = 0;  // of the GPU

  bool operator==(const Device& other) const { return on_host == other.on_host && (on_host || id == other.id); }
  bool operator!=(const Device& other) const { return !(*this == other); }
  std::string text() const;  // "cpu", "cuda:0"
};

// A CUDA stream to work on. Frameworks that know no streams (JAX) are ordered by waiting.
struct Stream {
  void* handle = nullptr;
  bool ordered = true;  // does the framework of the first array order its own work by it?
};

// What is wanted of an array: its values, or only its shape, dtype and device.
enum class Wanted { values, description };

class Array {
 public:
  // Throws TypeError when `object` is not an array, and what the rules of the border say: hidden gradients,
  // negative-bit views, memory that is not there. `stream`: where a CUDA array will be used, if known already.
  Array(py::handle object, Argument argument, Wanted wanted = Wanted::values, const Stream* stream = nullptr);

  py::object object;  // keeps the memory alive, with the managed tensor if there is one
  Argument argument;
  Framework* framework = nullptr;

  char* data = nullptr;  // the first element; may be nullptr when there are none
  Device device;
  dlpack::DataType type{};
  bool read_only = false;
  bool copied = false;  // the framework gave a copy, not the array's own memory
  int ndim = 0;
  const int64_t* shape = nullptr;  // (ndim,)

  int64_t itemsize() const { return type.bits / 8; }
  int64_t stride(int axis) const {  // in bytes
    return strides_ ? strides_[axis] * stride_unit_ : stride_in_c_order(axis);
  }
  int64_t elements() const;
  bool is_float() const { return dtype_.has_value(); }
  DType dtype() const {  // throws TypeError unless is_float()
    if (!dtype_) refuse_dtype();
    return *dtype_;
  }
  std::string dtype_text() const;
  std::string shape_text() const;
  Stream stream() const;  // that its framework works on now (on a GPU)

 private:
  void read_numpy();
  void read_exchange();
  void read_capsule(const Stream* stream);
  void read_tensor(const dlpack::Tensor& tensor);
  void check_values() const;
  [[noreturn]] void refuse_dtype() const;
  int64_t stride_in_c_order(int axis) const;

  struct Release {
    template <class Managed>
    void operator()(Managed* managed) const {
      if (managed->deleter) managed->deleter(managed);
    }
  };

  std::optional<DType> dtype_;        // of `type`, where operands may have it
  const int64_t* strides_ = nullptr;  // in units of stride_unit_ bytes; nullptr: C order
  int64_t stride_unit_ = 1;
  std::unique_ptr<dlpack::ManagedTensor, Release> legacy_;  // a managed tensor that is ours to release
  std::unique_ptr<dlpack::ManagedTensorVersioned, Release> versioned_;
};

bool is_array(py::handle object);

// "(4, 16)", "(3,)"
std::string shape_text(const int64_t* shape, int ndim);

// A fresh array in C order, in the framework and on the device of another one. Where that framework knows no 64-bit
// numbers (JAX without x64), such an array becomes one of NumPy rather than a narrower one.
class Fresh {
 public:
  Fresh() = default;
  Fresh(const Array& like, dlpack::DataType type, const int64_t* shape, int ndim);

  char* data = nullptr;
  // The finished array, to be asked for once, when it has been written.
  py::object take();

 private:
  void allocate_numpy(const Array& like, dlpack::DataType type, const int64_t* shape, int ndim);
  void allocate_exchange(const Array& like, dlpack::DataType type, const int64_t* shape, int ndim);
  void allocate_host_buffer(const Array& like, dlpack::DataType type, const int64_t* shape, int ndim);
  void allocate_on_device(const Array& like, dlpack::DataType type, const int64_t* shape, int ndim);

  py::object object_;
  py::object adopt_;  // set: object_ is a HostBuffer, which this makes an array of
};

dlpack::DataType type_of(DType dtype);
constexpr dlpack::DataType type_int64{dlpack::code_int, 64, 1};

}  // namespace scorefusion
