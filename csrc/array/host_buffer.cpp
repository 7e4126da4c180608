// The memory, and the capsules that lend it to whoever asks, for as long as they hold it.
#include "host_buffer.h"

#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace scorefusion {

namespace {

constexpr std::align_val_t alignment{64};  // what JAX wants of memory that it is not to copy

// What a capsule owns: the managed tensor that a consumer sees, and all that it points to.
template <class Managed>
struct Lent {
  Managed managed;
  std::shared_ptr<void> memory;
  std::vector<int64_t> shape, strides;

  // Consumers call this from any thread, with or without the GIL: no Python object is touched.
  static void release(Managed* managed) { delete static_cast<Lent*>(managed->context); }
};

// A capsule that nobody took is ours to release; one that was taken has been renamed.
template <class Managed>
py::capsule capsule_of(Lent<Managed>* lent, const char* name) {
  PyObject* capsule = PyCapsule_New(&lent->managed, name, [](PyObject* self) {
    const char* const now = PyCapsule_GetName(self);
    const bool versioned = std::is_same_v<Managed, dlpack::ManagedTensorVersioned>;
    if (!PyCapsule_IsValid(self, versioned ? "dltensor_versioned" : "dltensor")) return;
    Lent<Managed>::release(static_cast<Managed*>(PyCapsule_GetPointer(self, now)));
  });
  if (!capsule) {
    delete lent;
    throw py::error_already_set();
  }
  return py::reinterpret_steal<py::capsule>(capsule);
}

}  // namespace

HostBuffer::HostBuffer(dlpack::DataType type, const int64_t* shape, int ndim)
    : type_(type), shape_(shape, shape + ndim), strides_(ndim) {
  int64_t elements = 1;
  for (int axis = ndim; axis-- > 0;) {
    strides_[axis] = elements;
    elements *= shape[axis];
  }
  const int64_t bytes = elements * type.bits / 8;
  void* const memory = ::operator new(size_t(bytes), alignment);
  memory_.reset(memory, [](void* data) { ::operator delete(data, alignment); });
  prefer_huge_pages(memory, bytes);
}

py::capsule HostBuffer::dlpack(const py::object&, const py::object& max_version, const py::object&,
                               const py::object&) const {
  const auto lend = [this](auto* lent) {
    lent->memory = memory_;
    lent->shape = shape_;
    lent->strides = strides_;
    lent->managed.context = lent;
    lent->managed.tensor = {
        data(), {dlpack::cpu, 0}, int32_t(shape_.size()), type_, lent->shape.data(), lent->strides.data(), 0};
    lent->managed.deleter = lent->release;
  };
  if (!max_version.is_none() && py::cast<uint32_t>(max_version[py::int_(0)]) >= dlpack::major_version) {
    auto* lent = new Lent<dlpack::ManagedTensorVersioned>{};
    lend(lent);
    lent->managed.version = {dlpack::major_version, dlpack::minor_version};
    return capsule_of(lent, "dltensor_versioned");
  }
  auto* lent = new Lent<dlpack::ManagedTensor>{};
  lend(lent);
  return capsule_of(lent, "dltensor");
}

void prefer_huge_pages(void* data, int64_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t page = 2 << 20;
  // Below, allocators hand out memory that they have used before, and new pages would only take its place.
  constexpr int64_t large = 32 << 20;
  if (bytes < large) return;
  const uintptr_t first = (uintptr_t(data) + page - 1) / page * page;
  const uintptr_t last = (uintptr_t(data) + uintptr_t(bytes)) / page * page;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // a wish: failure is fine
#else
  (void)data, (void)bytes;
#endif
}

}  // namespace scorefusion
