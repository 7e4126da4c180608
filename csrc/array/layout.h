// How the elements of an array lie in memory: what can be read in place, and what overlaps what.
#pragma once

#include <vector>

#include "exchange.h"

namespace scorefusion {

// The event axes 1 … ndim−1 in the order in which they lie in memory, outermost first. {1, 2, 3} is C order,
// {2, 3, 1} is torch's channels_last.
using AxisOrder = std::vector<int>;

// Can samples be read where they lie, one dense run each, in C order? The batch may have any stride.
bool samples_are_plain(const Array& array);

// The same with the event axes taken in that order.
bool samples_are_dense(const Array& array, const AxisOrder& order);

// The only order in which samples can be dense.
AxisOrder memory_order(const Array& array);

// Elements (not bytes) from one sample to the next, for an array whose samples are dense.
int64_t batch_stride(const Array& array, int64_t size);

// Is every element of the array followed at once by the next, in C order?
bool is_contiguous(const Array& array);

// One and the same view of the same memory?
bool is_same_view(const Array& a, const Array& b);

// May the two share a byte? Exact where samples are dense, on the safe side elsewhere.
bool may_overlap(const Array& a, const Array& b);

// May two different elements of the array share a byte (an expanded axis)?
bool may_overlap_itself(const Array& array);

}  // namespace scorefusion
