// Single elements of host arrays, of any real dtype and at any address.
#pragma once

#include <cstring>

#include "../math/convert.h"
#include "dlpack.h"

namespace scorefusion {

template <class T>
T read_as(const char* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

// Calls with(value) on the integer at that place; false when the type is not an integer one.
template <class With>
bool with_integer(const char* at, dlpack::DataType type, const With& with) {
  const bool is_signed = type.code == dlpack::code_int;
  if (!is_signed && type.code != dlpack::code_uint) return false;
  switch (type.bits) {
    case 8: is_signed ? with(read_as<int8_t>(at)) : with(read_as<uint8_t>(at)); return true;
    case 16: is_signed ? with(read_as<int16_t>(at)) : with(read_as<uint16_t>(at)); return true;
    case 32: is_signed ? with(read_as<int32_t>(at)) : with(read_as<uint32_t>(at)); return true;
    case 64: is_signed ? with(read_as<int64_t>(at)) : with(read_as<uint64_t>(at)); return true;
    default: return false;
  }
}

// An integer as int64; unsigned ones beyond its range come out negative.
inline int64_t read_integer(const char* at, dlpack::DataType type) {
  int64_t number = 0;
  with_integer(at, type, [&](auto value) { number = int64_t(value); });
  return number;
}

inline bool is_real(dlpack::DataType type) {
  if (type.lanes != 1) return false;
  if (type.code == dlpack::code_float) return type.bits == 16 || type.bits == 32 || type.bits == 64;
  if (type.code == dlpack::code_bfloat) return type.bits == 16;
  return type.code == dlpack::code_int || type.code == dlpack::code_uint;
}

// A number of a real type, in float64.
inline double read_real(const char* at, dlpack::DataType type) {
  double number = 0;
  if (with_integer(at, type, [&](auto value) { number = double(value); })) return number;
  if (type.code == dlpack::code_bfloat) return to_double(read_as<bfloat16>(at));
  if (type.bits == 16) return to_double(read_as<float16>(at));
  return type.bits == 32 ? double(read_as<float>(at)) : read_as<double>(at);
}

}  // namespace scorefusion
