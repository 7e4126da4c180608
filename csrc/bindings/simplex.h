// The simplex solvers as Python sees them: `minimize_on_simplex` and `SimplexDescent` of scorefusion._core.
#pragma once

#include <pybind11/pybind11.h>

namespace scorefusion {

void define_simplex(pybind11::module_& m);

}  // namespace scorefusion
