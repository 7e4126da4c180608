// What a fit does for each of its rows: `uniform` and `add_rows` of scorefusion._core.
#pragma once

#include <pybind11/pybind11.h>

namespace scorefusion {

void define_statistics(pybind11::module_& m);

}  // namespace scorefusion
