// The small work of a superposition's steps.
#pragma once

#include <pybind11/pybind11.h>

namespace scorefusion {

void define_superposition(pybind11::module_& m);

}  // namespace scorefusion
