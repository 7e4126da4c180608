// NumPy's arrays by NumPy's own interface, others by DLPack's table of functions or a capsule; results the same ways.
#include "exchange.h"

#include "host_buffer.h"
#include "numpy.h"

namespace scorefusion {

static_assert(sizeof(npy_intp) == sizeof(int64_t), "NumPy's sizes are read as int64");

namespace {

constexpr uint8_t code_unknown = 255;  // a NumPy dtype outside DLPack

// NumPy knows bfloat16 only as a type added by others (ml_dtypes), told by the name of its scalar type.
bool is_bfloat16(const PyArray_Descr* descr) {
  const std::string name = descr->typeobj->tp_name;
  return name == "bfloat16" || (name.size() > 9 && name.compare(name.size() - 9, 9, ".bfloat16") == 0);
}

dlpack::DataType type_of(PyArrayObject* array) {
  const PyArray_Descr* descr = PyArray_DESCR(array);
  if (PyArray_ISBYTESWAPPED(array)) return {code_unknown, 8, 1};
  const uint8_t bits = uint8_t(8 * PyArray_ITEMSIZE(array));
  switch (descr->type_num) {
    case NPY_FLOAT:
    case NPY_DOUBLE:
    case NPY_HALF: return {dlpack::code_float, bits, 1};
    case NPY_BOOL: return {dlpack::code_bool, bits, 1};
    default: break;
  }
  if (PyTypeNum_ISSIGNED(descr->type_num)) return {dlpack::code_int, bits, 1};
  if (PyTypeNum_ISUNSIGNED(descr->type_num)) return {dlpack::code_uint, bits, 1};
  if (PyTypeNum_ISCOMPLEX(descr->type_num)) return {dlpack::code_complex, bits, 1};
  if (PyTypeNum_ISUSERDEF(descr->type_num) && is_bfloat16(descr)) return {dlpack::code_bfloat, 16, 1};
  return {code_unknown, 8, 1};
}

std::optional<DType> float_type(dlpack::DataType type) {
  if (type.lanes != 1) return std::nullopt;
  if (type.code == dlpack::code_bfloat && type.bits == 16) return DType::bfloat16;
  if (type.code != dlpack::code_float) return std::nullopt;
  switch (type.bits) {
    case 16: return DType::float16;
    case 32: return DType::float32;
    case 64: return DType::float64;
    default: return std::nullopt;
  }
}

// The pending Python exception, cleared, for a message that says more: its first line, because torch appends a stack.
std::string pending_text() {
  const py::error_already_set pending;
  const std::string text = pending.what();
  return text.substr(0, text.find('\n'));
}

Device device_of(dlpack::Device device, const Argument& argument) {
  switch (device.type) {
    case dlpack::cpu:
    case dlpack::cuda_host: return {true, 0};
    case dlpack::cuda:
    case dlpack::cuda_managed: return {false, device.id};
    default: break;
  }
  throw ValueError(argument.text() + " is on a device of DLPack type " + std::to_string(device.type) +
                   "; arrays must be on the CPU or on a CUDA GPU");
}

}  // namespace

std::string Argument::text() const {
  return index < 0 ? std::string(name) : std::string(name) + "[" + std::to_string(index) + "]";
}

std::string Device::text() const { return on_host ? "cpu" : "cuda:" + std::to_string(id); }

std::string shape_text(const int64_t* shape, int ndim) {
  std::string text = "(";
  for (int axis = 0; axis < ndim; ++axis) text += (axis ? ", " : "") + std::to_string(shape[axis]);
  return text + (ndim == 1 ? ",)" : ")");
}

dlpack::DataType type_of(DType dtype) {
  const uint8_t code = dtype == DType::bfloat16 ? dlpack::code_bfloat : dlpack::code_float;
  return {code, uint8_t(8 * size_of(dtype)), 1};
}

bool is_array(py::handle object) { return framework_of(Py_TYPE(object.ptr())) != nullptr; }

// ---- reading ----------------------------------------------------------------------------------------------------

Array::Array(py::handle object, Argument argument, Wanted wanted, const Stream* stream)
    : object(py::reinterpret_borrow<py::object>(object)), argument(argument) {
  PyObject* const array = object.ptr();
  framework = framework_of(Py_TYPE(array));
  if (!framework)
    throw TypeError(argument.text() + " must be an array" + (argument.index < 0 ? "" : " or a Noise") + ", got " +
                    type_name(array));
  if (framework->tracer)
    throw TypeError(argument.text() + " is a JAX tracer: inside jit, grad or vmap use scorefusion.jax");
  if (wanted == Wanted::values && framework->torch != Framework::Torch::no && wants_gradients(*framework, array))
    throw TypeError(argument.text() +
                    " requires a gradient, which this function would lose: use scorefusion.torch, which is "
                    "differentiable, or torch.no_grad() or .detach()");
  if (framework->torch == Framework::Torch::fake)
    throw TypeError(argument.text() + " is a fake tensor, which has no memory to read");
  switch (framework->way) {
    case Framework::Way::numpy: read_numpy(); break;
    case Framework::Way::exchange: read_exchange(); break;
    case Framework::Way::capsule: read_capsule(stream); break;
  }
  dtype_ = float_type(type);
  if (wanted == Wanted::values) check_values();
}

void Array::read_numpy() {
  PyArrayObject* const array = reinterpret_cast<PyArrayObject*>(object.ptr());
  if (!PyArray_CheckExact(array) && PyObject_HasAttrString(object.ptr(), "mask"))
    throw TypeError(argument.text() + " is a masked array, whose mask would be lost: pass .filled(value) or .data");
  data = PyArray_BYTES(array);
  type = type_of(array);
  read_only = !PyArray_ISWRITEABLE(array);
  ndim = PyArray_NDIM(array);
  shape = reinterpret_cast<const int64_t*>(PyArray_DIMS(array));
  strides_ = reinterpret_cast<const int64_t*>(PyArray_STRIDES(array));
  stride_unit_ = 1;
}

void Array::read_tensor(const dlpack::Tensor& tensor) {
  data = static_cast<char*>(tensor.data);
  if (data) data += tensor.byte_offset;
  device = device_of(tensor.device, argument);
  type = tensor.dtype;
  ndim = tensor.ndim;
  shape = tensor.shape;
  strides_ = tensor.strides;
  stride_unit_ = type.bits / 8;
}

void Array::read_exchange() {
  const dlpack::ExchangeApi& api = *framework->api;
  const auto refused = [this] {
    return TypeError(argument.text() +
                     " has no memory to read (a sparse, meta, nested or transformed tensor?): " + pending_text());
  };
  if (api.to_tensor) {
    dlpack::Tensor tensor;
    if (api.to_tensor(object.ptr(), &tensor) != 0) throw refused();
    read_tensor(tensor);
    return;
  }
  dlpack::ManagedTensorVersioned* managed = nullptr;
  if (api.to_managed(object.ptr(), &managed) != 0) throw refused();
  versioned_.reset(managed);
  read_only = managed->flags & dlpack::flag_read_only;
  read_tensor(managed->tensor);
}

void Array::read_capsule(const Stream* known) {
  const py::tuple where = object.attr("__dlpack_device__")();
  device = device_of({py::cast<int32_t>(py::int_(where[0])), py::cast<int32_t>(py::int_(where[1]))}, argument);
  py::object stream = py::none();
  if (!device.on_host) {
    const uintptr_t handle = reinterpret_cast<uintptr_t>(known ? known->handle : this->stream().handle);
    stream = py::int_(handle ? handle : 1);  // the protocol's name for the legacy default stream
  }
  py::object capsule;
  const py::object make = object.attr("__dlpack__");
  if (framework->takes_max_version) try {
      capsule = make(py::arg("stream") = stream,
                     py::arg("max_version") = py::make_tuple(dlpack::major_version, dlpack::minor_version));
    } catch (py::error_already_set& error) {
      if (!error.matches(PyExc_TypeError)) throw;
      framework->takes_max_version = false;
    }
  if (!capsule) capsule = make(py::arg("stream") = stream);

  if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned")) {
    auto* const managed =
        static_cast<dlpack::ManagedTensorVersioned*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor_versioned"));
    PyCapsule_SetName(capsule.ptr(), "used_dltensor_versioned");
    versioned_.reset(managed);
    if (managed->version.major != dlpack::major_version)
      throw TypeError(argument.text() + " speaks DLPack " + std::to_string(managed->version.major) +
                      ", of which only major version 1 is known here");
    read_only = managed->flags & dlpack::flag_read_only;
    copied = managed->flags & dlpack::flag_copied;
    read_tensor(managed->tensor);
  } else if (PyCapsule_IsValid(capsule.ptr(), "dltensor")) {
    auto* const managed = static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"));
    PyCapsule_SetName(capsule.ptr(), "used_dltensor");
    legacy_.reset(managed);
    read_only = !framework->cupy;  // a legacy capsule does not say; most who still give one mean so (JAX)
    read_tensor(managed->tensor);
  } else {
    throw TypeError(argument.text() + ": " + type_name(object.ptr()) + ".__dlpack__ gave no DLPack capsule");
  }
}

void Array::check_values() const {
  if (framework->torch != Framework::Torch::no && is_negated(*framework, object.ptr()))
    throw TypeError(argument.text() +
                    " is a negative-bit view, whose memory holds minus its values: pass .resolve_neg()");
  if (!data && elements() != 0)
    throw TypeError(argument.text() + " has no memory to read (" + type_name(object.ptr()) +
                    ": a fake or wrapped tensor?)");
}

int64_t Array::stride_in_c_order(int axis) const {
  int64_t bytes = itemsize();
  for (int inner = ndim - 1; inner > axis; --inner) bytes *= shape[inner];
  return bytes;
}

int64_t Array::elements() const {
  int64_t product = 1;
  for (int axis = 0; axis < ndim; ++axis)
    if (__builtin_mul_overflow(product, shape[axis], &product))
      throw ValueError(argument.text() + " has shape " + shape_text() + ": more elements than 64 bits can count");
  return product;
}

void Array::refuse_dtype() const {
  throw TypeError(argument.text() + " has dtype " + dtype_text() +
                  "; it must be float16, bfloat16, float32 or float64, in native byte order");
}

std::string Array::dtype_text() const {
  if (PyObject_HasAttrString(object.ptr(), "dtype")) return py::str(object.attr("dtype"));
  return "of DLPack code " + std::to_string(type.code) + " with " + std::to_string(type.bits) + " bits";
}

std::string Array::shape_text() const { return scorefusion::shape_text(shape, ndim); }

Stream Array::stream() const {
  Stream stream;
  stream.handle = current_stream(*framework, object.ptr(), {dlpack::cuda, device.id}, &stream.ordered);
  return stream;
}

// ---- making -----------------------------------------------------------------------------------------------------

namespace {

int64_t bytes_of(dlpack::DataType type, const int64_t* shape, int ndim) {
  int64_t bytes = type.bits / 8;
  for (int axis = 0; axis < ndim; ++axis) bytes *= shape[axis];
  return bytes;
}

bool knows_64_bits(const Array& like) { return py::cast<bool>(helper("knows_float64")(like.object)); }

// The name that array libraries know a type by.
std::string name_of(dlpack::DataType type) {
  const char* kind = type.code == dlpack::code_int ? "int" : type.code == dlpack::code_bfloat ? "bfloat" : "float";
  return kind + std::to_string(type.bits);
}

}  // namespace

Fresh::Fresh(const Array& like, dlpack::DataType type, const int64_t* shape, int ndim) {
  const Framework::Way way = like.framework->way;
  if (way == Framework::Way::numpy) {
    allocate_numpy(like, type, shape, ndim);
  } else if (way == Framework::Way::exchange) {
    allocate_exchange(like, type, shape, ndim);
  } else if (type.bits == 64 && !knows_64_bits(like)) {
    if (!like.device.on_host)
      throw TypeError("a result of " + name_of(type) + " on " + like.device.text() + " needs jax_enable_x64");
    allocate_numpy(like, type, shape, ndim);
  } else if (like.device.on_host) {
    allocate_host_buffer(like, type, shape, ndim);
  } else {
    allocate_on_device(like, type, shape, ndim);
  }
}

void Fresh::allocate_numpy(const Array& like, dlpack::DataType type, const int64_t* shape, int ndim) {
  PyArray_Descr* descr = nullptr;
  if (type.code == dlpack::code_bfloat) {  // a result is bfloat16 only where every array is: the first knows the type
    descr = PyArray_DESCR(reinterpret_cast<PyArrayObject*>(like.object.ptr()));
    if (!is_bfloat16(descr))
      throw TypeError("NumPy has no bfloat16 of its own, and " + like.argument.text() + " is none");
    Py_INCREF(descr);
  } else if (type.code == dlpack::code_int) {
    descr = PyArray_DescrFromType(NPY_INT64);
  } else {
    descr = PyArray_DescrFromType(type.bits == 16 ? NPY_HALF : type.bits == 32 ? NPY_FLOAT : NPY_DOUBLE);
  }
  PyObject* array = PyArray_Empty(ndim, const_cast<npy_intp*>(reinterpret_cast<const npy_intp*>(shape)), descr, 0);
  if (!array) throw py::error_already_set();
  object_ = py::reinterpret_steal<py::object>(array);
  data = PyArray_BYTES(reinterpret_cast<PyArrayObject*>(array));  // NumPy itself asks for huge pages
}

void Fresh::allocate_exchange(const Array& like, dlpack::DataType type, const int64_t* shape, int ndim) {
  const dlpack::ExchangeApi& api = *like.framework->api;
  const dlpack::Device device{like.device.on_host ? dlpack::cpu : dlpack::cuda, like.device.id};
  dlpack::Tensor prototype{nullptr, device, ndim, type, const_cast<int64_t*>(shape), nullptr, 0};
  dlpack::ManagedTensorVersioned* managed = nullptr;
  std::string why;
  const auto set_error = [](void* why, const char* kind, const char* message) {
    *static_cast<std::string*>(why) = std::string(kind) + ": " + message;
  };
  if (api.allocate(&prototype, &managed, &why, set_error) != 0) {
    if (PyErr_Occurred()) throw py::error_already_set();
    throw std::runtime_error("no memory for an array of shape " + shape_text(shape, ndim) + ": " + why);
  }
  data = static_cast<char*>(managed->tensor.data) + managed->tensor.byte_offset;
  void* object = nullptr;
  if (api.to_object(managed, &object) != 0) throw py::error_already_set();
  object_ = py::reinterpret_steal<py::object>(static_cast<PyObject*>(object));
  if (like.device.on_host) prefer_huge_pages(data, bytes_of(type, shape, ndim));
}

void Fresh::allocate_host_buffer(const Array& like, dlpack::DataType type, const int64_t* shape, int ndim) {
  adopt_ = helper("adopter")(like.object);
  HostBuffer buffer(type, shape, ndim);
  data = buffer.data();
  object_ = py::cast(std::move(buffer));
}

void Fresh::allocate_on_device(const Array& like, dlpack::DataType type, const int64_t* shape, int ndim) {
  py::tuple extents(ndim);
  for (int axis = 0; axis < ndim; ++axis) extents[axis] = shape[axis];
  object_ = helper("empty")(like.object, extents, name_of(type));
  data = Array(object_, {"result"}).data;
}

py::object Fresh::take() {
  if (adopt_) return adopt_(object_);
  return std::move(object_);
}

}  // namespace scorefusion
