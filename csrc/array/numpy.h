// NumPy's C interface. Its table of functions is filled once, by load_numpy() in framework.cpp, for all files.
#pragma once

#define NPY_NO_DEPRECATED_API NPY_1_22_API_VERSION
#define PY_ARRAY_UNIQUE_SYMBOL scorefusion_numpy
#ifndef SCOREFUSION_LOADS_NUMPY
#define NO_IMPORT_ARRAY
#endif

#include <numpy/arrayobject.h>
#include <numpy/arrayscalars.h>
