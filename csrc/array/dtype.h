// The four element types that operands may have.
#pragma once

#include <cstdint>

namespace scorefusion {

enum class DType : uint8_t { float16, bfloat16, float32, float64 };

constexpr int64_t size_of(DType dtype) { return dtype == DType::float64 ? 8 : dtype == DType::float32 ? 4 : 2; }

constexpr const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::float16: return "float16";
    case DType::bfloat16: return "bfloat16";
    case DType::float32: return "float32";
    case DType::float64: return "float64";
  }
  return "unknown";
}

// The narrowest type that holds both exactly: float16 with bfloat16 gives float32.
constexpr DType widest(DType a, DType b) {
  if (a == b) return a;
  if (a == DType::float64 || b == DType::float64) return DType::float64;
  return DType::float32;
}

}  // namespace scorefusion
