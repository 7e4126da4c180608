// The sums that λ is learned from as Python sees them: `add_rows` of scorefusion._core.
#pragma once

#include <pybind11/pybind11.h>

namespace scorefusion {

void define_statistics(pybind11::module_& m);

}  // namespace scorefusion
