// Integer arguments.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

namespace scorefusion {

// An integer in [0, 2**bits), bits ≤ 64: TypeError for what is none, ValueError for what lies outside, by its name.
uint64_t index_below(pybind11::handle value, const char* name, int bits);

}  // namespace scorefusion
