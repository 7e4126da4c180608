// The DLPack 1.3 binary interface, as much of it as is needed to read arrays and to make them.
//
// Layouts are fixed by the standard and shared with every framework: nothing here may be reordered.
// Functions of the exchange API return 0, or -1 with a Python error set; all want the GIL.
#pragma once

#include <cstddef>
#include <cstdint>

namespace scorefusion::dlpack {

constexpr uint32_t major_version = 1;
constexpr uint32_t minor_version = 3;

struct Version {
  uint32_t major;
  uint32_t minor;
};

// Device types that can be used here; the standard has more.
constexpr int32_t cpu = 1;
constexpr int32_t cuda = 2;
constexpr int32_t cuda_host = 3;      // pinned host memory
constexpr int32_t cuda_managed = 13;  // reachable from both sides

struct Device {
  int32_t type;
  int32_t id;
};

// Element type codes.
constexpr uint8_t code_int = 0;
constexpr uint8_t code_uint = 1;
constexpr uint8_t code_float = 2;
constexpr uint8_t code_bfloat = 4;
constexpr uint8_t code_complex = 5;
constexpr uint8_t code_bool = 6;

struct DataType {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;  // 1 but for vector types
};

struct Tensor {
  void* data;  // may be NULL when there are no elements
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t* shape;
  int64_t* strides;      // in elements; NULL in capsules older than 1.2: C order
  uint64_t byte_offset;  // from data to the first element
};

// What a legacy capsule, "dltensor", holds.
struct ManagedTensor {
  Tensor tensor;
  void* context;
  void (*deleter)(ManagedTensor*);  // may be NULL
};

constexpr uint64_t flag_read_only = 1;
constexpr uint64_t flag_copied = 2;

// What a capsule "dltensor_versioned" holds. Up to `flags` the layout is the same in every major version.
struct ManagedTensorVersioned {
  Version version;
  void* context;
  void (*deleter)(ManagedTensorVersioned*);  // may be NULL
  uint64_t flags;
  Tensor tensor;
};

// The functions behind a type's `__dlpack_c_exchange_api__` capsule, "dlpack_exchange_api".
struct ExchangeApi {
  Version version;
  ExchangeApi* previous;  // for readers of an older major version; may be NULL

  // A new array like the prototype's shape, dtype and device.
  int (*allocate)(Tensor* prototype, ManagedTensorVersioned** out, void* error_context,
                  void (*set_error)(void* error_context, const char* kind, const char* message));
  int (*to_managed)(void* object, ManagedTensorVersioned** out);  // out owns a reference
  int (*to_object)(ManagedTensorVersioned* tensor, void** out);   // steals the tensor
  int (*to_tensor)(void* object, Tensor* out);                    // borrows from the object; may be NULL
  int (*current_stream)(int32_t device_type, int32_t device_id, void** out);
};

}  // namespace scorefusion::dlpack
