// The operations on the host as foreign functions of XLA, where jax's headers were at hand when this was built.
#pragma once

#include <pybind11/pybind11.h>

namespace scorefusion {

// {name: capsule} for jax.ffi.register_ffi_target; empty where there were no headers.
pybind11::dict jax_targets();

}  // namespace scorefusion
