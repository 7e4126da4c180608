// A type is asked once what it is and what it offers; the answer is kept as long as the process lives.
#include "framework.h"

#include <string>
#include <unordered_map>

#include "errors.h"

#define SCOREFUSION_LOADS_NUMPY
#include "numpy.h"

namespace scorefusion {

namespace {

// An attribute of the type itself, or an empty object.
py::object attribute(PyTypeObject* type, const char* name) {
  py::object value = py::reinterpret_steal<py::object>(PyObject_GetAttrString((PyObject*)type, name));
  if (!value) PyErr_Clear();
  return value;
}

// The newest table of the chain that speaks our major version.
const dlpack::ExchangeApi* exchange_api(PyTypeObject* type) {
  const py::object capsule = attribute(type, "__dlpack_c_exchange_api__");
  if (!capsule || !PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api")) return nullptr;
  auto* api = static_cast<const dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  while (api && api->version.major != dlpack::major_version) api = api->previous;
  return api;
}

// torch's C functions behind Tensor.requires_grad and Tensor.is_neg, called without a lookup. NULL where they are
// not what they were in the versions we know: then the attribute is read in the ordinary way.
struct TorchFunctions {
  PyObject* tensor = nullptr;     // torch.Tensor
  PyObject* parameter = nullptr;  // torch.nn.Parameter
  PyGetSetDef* requires_grad = nullptr;
  PyMethodDef* is_neg = nullptr;
  PyObject* is_grad_enabled = nullptr;
  PyObject* forward_globals = nullptr;  // of torch.autograd.forward_ad, where it counts its nested levels
  PyObject* forward_level = nullptr;    // "_current_level", -1 outside
  PyObject* unpack_dual = nullptr;
  PyObject* increment_version = nullptr;
};

// Looked up among the modules already imported: without torch there are no tensors. Never freed, like the types.
const TorchFunctions* torch_functions() {
  static TorchFunctions functions;
  if (functions.tensor) return &functions;
  PyObject* module = PyDict_GetItemString(PyImport_GetModuleDict(), "torch");
  if (!module || !PyObject_HasAttrString(module, "Tensor")) return nullptr;
  const py::object torch = py::reinterpret_borrow<py::object>(module);
  const py::object tensor = torch.attr("Tensor");

  const py::object grad = tensor.attr("__base__").attr("__dict__").attr("get")("requires_grad");
  if (Py_IS_TYPE(grad.ptr(), &PyGetSetDescr_Type))
    functions.requires_grad = reinterpret_cast<PyGetSetDescrObject*>(grad.ptr())->d_getset;
  const py::object negated = tensor.attr("__base__").attr("__dict__").attr("get")("is_neg");
  if (Py_IS_TYPE(negated.ptr(), &PyMethodDescr_Type)) {
    PyMethodDef* method = reinterpret_cast<PyMethodDescrObject*>(negated.ptr())->d_method;
    if (method->ml_flags == METH_NOARGS) functions.is_neg = method;
  }
  functions.is_grad_enabled = py::object(torch.attr("is_grad_enabled")).release().ptr();
  functions.increment_version =
      py::object(torch.attr("autograd").attr("graph").attr("increment_version")).release().ptr();
  const py::object forward = torch.attr("autograd").attr("forward_ad");
  functions.forward_globals = PyModule_GetDict(forward.ptr());
  functions.forward_level = PyUnicode_InternFromString("_current_level");
  functions.unpack_dual = py::object(forward.attr("unpack_dual")).release().ptr();
  functions.parameter = py::object(torch.attr("nn").attr("Parameter")).release().ptr();
  functions.tensor = py::object(tensor).release().ptr();
  return &functions;
}

// The first name of the module that a type comes from: "jax" and "jaxlib" are told from "cupy".
bool comes_from(PyTypeObject* type, const char* package) {
  const py::object module = attribute(type, "__module__");
  if (!module || !PyUnicode_Check(module.ptr())) return false;
  const std::string name = py::cast<std::string>(module), prefix = package;
  return name == prefix || name.rfind(prefix + ".", 0) == 0;
}

// Has the type, or one it derives from, this name?
bool has_base(PyTypeObject* type, const char* name) {
  for (py::handle base : py::reinterpret_borrow<py::tuple>(type->tp_mro))
    if (std::string(py::str(base.attr("__name__"))) == name) return true;
  return false;
}

Framework::Torch torch_kind(PyTypeObject* type) {
  const TorchFunctions* torch = torch_functions();
  if (!torch || !PyType_IsSubtype(type, (PyTypeObject*)torch->tensor)) return Framework::Torch::no;
  if (has_base(type, "FakeTensor")) return Framework::Torch::fake;
  const bool plain = (PyObject*)type == torch->tensor || (PyObject*)type == torch->parameter;
  return plain ? Framework::Torch::plain : Framework::Torch::subclass;
}

// A subclass of torch.Tensor inherits the exchange API, but may hand itself out in a way of its own.
bool has_own_export(PyTypeObject* type) {
  const py::object own = attribute(type, "__dlpack__");
  return !own.is(attribute((PyTypeObject*)torch_functions()->tensor, "__dlpack__"));
}

// Fills in what is known of an array type; false for all other types.
bool describe(PyTypeObject* type, Framework& framework) {
  if (PyType_IsSubtype(type, &PyArray_Type)) {
    framework.way = Framework::Way::numpy;
    return true;
  }
  framework.torch = torch_kind(type);
  framework.jax = comes_from(type, "jax") || comes_from(type, "jaxlib");
  framework.tracer = framework.jax && has_base(type, "Tracer");
  if (framework.tracer) return true;
  framework.cupy = comes_from(type, "cupy");
  framework.api = exchange_api(type);
  if (framework.api && !(framework.torch == Framework::Torch::subclass && has_own_export(type))) {
    framework.way = Framework::Way::exchange;
    return true;
  }
  framework.way = Framework::Way::capsule;
  return attribute(type, "__dlpack__") && attribute(type, "__dlpack_device__");
}

}  // namespace

Framework* framework_of(PyTypeObject* type) {
  // Guarded by the GIL. Nodes never move and never go: an Array may keep a pointer.
  static auto* known = new std::unordered_map<PyTypeObject*, Framework>;
  static Framework* last = nullptr;
  if (last && last->type == type) return last;
  const auto found = known->find(type);
  if (found != known->end()) return last = &found->second;
  Framework framework;
  if (!describe(type, framework)) return nullptr;
  Py_INCREF(type);
  framework.type = type;
  return last = &known->emplace(type, framework).first->second;
}

namespace {

// Does the tensor carry a tangent of forward-mode differentiation?
bool is_dual(const TorchFunctions& torch, PyObject* tensor) {
  PyObject* const level = PyDict_GetItemWithError(torch.forward_globals, torch.forward_level);
  if (!level || PyLong_AsLong(level) < 0) return false;
  return !py::handle(torch.unpack_dual)(py::handle(tensor)).attr("tangent").is_none();
}

}  // namespace

bool wants_gradients(const Framework& framework, PyObject* tensor) {
  const TorchFunctions& torch = *torch_functions();
  if (is_dual(torch, tensor)) return true;
  py::object wanted;
  if (framework.torch == Framework::Torch::plain && torch.requires_grad)
    wanted = py::reinterpret_steal<py::object>(torch.requires_grad->get(tensor, torch.requires_grad->closure));
  else
    wanted = py::reinterpret_steal<py::object>(PyObject_GetAttrString(tensor, "requires_grad"));
  if (!wanted) throw py::error_already_set();
  if (wanted.ptr() != Py_True) return false;
  const py::object enabled = py::reinterpret_steal<py::object>(PyObject_CallNoArgs(torch.is_grad_enabled));
  if (!enabled) throw py::error_already_set();
  return enabled.ptr() == Py_True;
}

bool is_negated(const Framework& framework, PyObject* tensor) {
  const TorchFunctions& torch = *torch_functions();
  py::object negated;
  if (framework.torch == Framework::Torch::plain && torch.is_neg)
    negated = py::reinterpret_steal<py::object>(torch.is_neg->ml_meth(tensor, nullptr));
  else
    negated = py::reinterpret_borrow<py::object>(tensor).attr("is_neg")();
  if (!negated) throw py::error_already_set();
  return negated.ptr() == Py_True;
}

void mark_changed(PyObject* tensor) {
  const py::object done =
      py::reinterpret_steal<py::object>(PyObject_CallOneArg(torch_functions()->increment_version, tensor));
  if (!done) throw py::error_already_set();
}

void* current_stream(const Framework& framework, PyObject* array, dlpack::Device device, bool* known) {
  *known = true;
  if (framework.api) {
    void* stream = nullptr;
    if (framework.api->current_stream(device.type, device.id, &stream) != 0) throw py::error_already_set();
    return stream;
  }
  const py::object stream = helper("current_stream")(py::handle(array));
  *known = !stream.is_none();
  return *known ? reinterpret_cast<void*>(py::cast<uintptr_t>(stream)) : nullptr;
}

std::string type_name(PyObject* object) {
  PyTypeObject* type = Py_TYPE(object);
  const py::object module = attribute(type, "__module__"), name = attribute(type, "__qualname__");
  if (!module || !name || !PyUnicode_Check(module.ptr()) || !PyUnicode_Check(name.ptr())) return type->tp_name;
  const std::string prefix = py::cast<std::string>(module);
  return (prefix == "builtins" ? "" : prefix + ".") + py::cast<std::string>(name);
}

py::object helper(const char* name) { return py::module_::import("scorefusion._arrays").attr(name); }

void load_numpy() {
  if (_import_array() < 0) throw py::error_already_set();
}

}  // namespace scorefusion
