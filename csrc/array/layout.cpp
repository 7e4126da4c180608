// Strides looked at: dense or not, in which order of axes, and whether two arrays meet.
#include "layout.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <numeric>

namespace scorefusion {

namespace {

// Is the first element, and with it every sample, where a typed pointer may point?
bool is_aligned(const Array& array) {
  const int64_t itemsize = array.itemsize();
  if (uintptr_t(array.data) % itemsize) return false;
  return array.ndim == 0 || array.shape[0] <= 1 || array.stride(0) % itemsize == 0;
}

// Is each sample one run when the event axes are taken as axis_at(1), …, axis_at(ndim − 1)?
template <class AxisAt>
bool is_dense(const Array& array, const AxisAt& axis_at) {
  int64_t expected = array.itemsize();
  for (int place = array.ndim; place-- > 1;) {
    const int axis = axis_at(place);
    if (array.shape[axis] == 1) continue;
    if (array.stride(axis) != expected) return false;
    expected *= array.shape[axis];
  }
  return is_aligned(array);
}

// The bytes from the lowest to behind the highest element.
struct Extent {
  uintptr_t first, last;
  bool meets(const Extent& other) const { return first < other.last && other.first < last; }
};

Extent extent_of(const Array& array) {
  Extent extent{uintptr_t(array.data), uintptr_t(array.data)};
  if (array.elements() == 0) return extent;
  for (int axis = 0; axis < array.ndim; ++axis) {
    const int64_t reach = (array.shape[axis] - 1) * array.stride(axis);
    (reach < 0 ? extent.first : extent.last) += reach;
  }
  extent.last += array.itemsize();
  return extent;
}

// Runs of equal length at equal distances, in the order of their addresses.
struct Runs {
  uintptr_t first;
  int64_t length, distance, count;
};

bool has_dense_samples(const Array& array) { return samples_are_dense(array, memory_order(array)); }

Runs runs_of(const Array& array) {
  Runs runs{uintptr_t(array.data), array.itemsize(), array.ndim ? array.stride(0) : 0, array.ndim ? array.shape[0] : 1};
  for (int axis = 1; axis < array.ndim; ++axis) runs.length *= array.shape[axis];
  if (runs.distance == 0) runs.count = 1;
  if (runs.distance < 0) {
    runs.first += runs.distance * (runs.count - 1);
    runs.distance = -runs.distance;
  }
  return runs;
}

// Walks along both, always leaving behind the run that ends first.
bool runs_meet(Runs a, Runs b) {
  while (a.count && b.count) {
    if (a.first + a.length <= b.first) {
      a.first += a.distance;
      --a.count;
    } else if (b.first + b.length <= a.first) {
      b.first += b.distance;
      --b.count;
    } else {
      return true;
    }
  }
  return false;
}

// Elements of interleaved views lie in different places of one period, the common divisor of all strides.
bool interleave(const Array& a, const Array& b) {
  int64_t period = 0;
  for (const Array* array : {&a, &b})
    for (int axis = 0; axis < array->ndim; ++axis)
      if (array->shape[axis] > 1) period = std::gcd(period, array->stride(axis));
  if (period == 0) return false;
  const int64_t from_a_to_b = ((b.data - a.data) % period + period) % period;
  return from_a_to_b >= a.itemsize() && from_a_to_b + b.itemsize() <= period;
}

}  // namespace

bool samples_are_plain(const Array& array) {
  return is_dense(array, [](int place) { return place; });
}

bool samples_are_dense(const Array& array, const AxisOrder& order) {
  return is_dense(array, [&](int place) { return order[place - 1]; });
}

AxisOrder memory_order(const Array& array) {
  AxisOrder order(std::max(array.ndim - 1, 0));
  std::iota(order.begin(), order.end(), 1);
  // Strides of axes of extent 1 mean nothing: such axes come first, where they do no harm.
  const auto distance = [&](int axis) { return array.shape[axis] == 1 ? INT64_MAX : std::abs(array.stride(axis)); };
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return distance(a) > distance(b); });
  return order;
}

int64_t batch_stride(const Array& array, int64_t size) {
  return array.shape[0] > 1 ? array.stride(0) / array.itemsize() : size;
}

bool is_contiguous(const Array& array) {
  if (!samples_are_plain(array)) return false;
  int64_t size = array.itemsize();
  for (int axis = 1; axis < array.ndim; ++axis) size *= array.shape[axis];
  return array.ndim == 0 || array.shape[0] <= 1 || array.stride(0) == size;
}

bool is_same_view(const Array& a, const Array& b) {
  if (a.data != b.data || a.ndim != b.ndim || a.type.code != b.type.code || a.type.bits != b.type.bits) return false;
  for (int axis = 0; axis < a.ndim; ++axis) {
    if (a.shape[axis] != b.shape[axis]) return false;
    if (a.shape[axis] > 1 && a.stride(axis) != b.stride(axis)) return false;
  }
  return true;
}

bool may_overlap(const Array& a, const Array& b) {
  if (a.device != b.device || !extent_of(a).meets(extent_of(b))) return false;
  if (has_dense_samples(a) && has_dense_samples(b)) return runs_meet(runs_of(a), runs_of(b));
  return !interleave(a, b);
}

bool may_overlap_itself(const Array& array) {
  if (array.elements() == 0) return false;
  // From the closest elements outward: each stride must reach over all that the closer axes span.
  std::vector<std::pair<int64_t, int64_t>> axes;  // |stride|, extent
  for (int axis = 0; axis < array.ndim; ++axis)
    if (array.shape[axis] > 1) axes.emplace_back(std::abs(array.stride(axis)), array.shape[axis]);
  std::sort(axes.begin(), axes.end());
  int64_t span = array.itemsize();
  for (const auto& [stride, extent] : axes) {
    if (stride < span) return true;
    span += stride * (extent - 1);
  }
  return false;
}

}  // namespace scorefusion
