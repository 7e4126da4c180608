// What this build and this processor have, and which of it SCOREFUSION_ISA wants.
#include "isa.h"

#if SCOREFUSION_X86
#include <cpuid.h>
#endif

#include <cstdlib>
#include <stdexcept>

namespace scorefusion {

namespace baseline {
extern const Kernels table;
}
#if SCOREFUSION_X86
namespace avx2 {
extern const Kernels table;
}
namespace avx512 {
extern const Kernels table;
}
#endif

namespace {

#if SCOREFUSION_X86
// Large combines are bound by memory, and there 32-byte vectors keep more of it in flight: 37 against 30 GB/s for
// two operands on one Zen 4 core. Sums and noise gain from 64-byte vectors.
Kernels with_32_byte_combine(Kernels table) {
  table.f32.combine = avx2::table.f32.combine;
  table.f64.combine = avx2::table.f64.combine;
  return table;
}

// __builtin_cpu_supports does not know it in Clang before 18.
bool supports_f16c() {
  unsigned eax, ebx, ecx, edx;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
}
#endif

std::vector<const Kernels*> runnable() {
  std::vector<const Kernels*> tables{&baseline::table};
#if SCOREFUSION_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && supports_f16c()) {
    tables.push_back(&avx2::table);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl")) {
      static const Kernels mixed = with_32_byte_combine(avx512::table);
      tables.push_back(&mixed);
    }
  }
#endif
  return tables;
}

const Kernels* choose() {
  const auto tables = runnable();
  const char* wanted = std::getenv("SCOREFUSION_ISA");
  if (!wanted || !*wanted) return tables.back();
  for (const Kernels* table : tables)
    if (std::string(wanted) == table->name) return table;
  std::string names;
  for (const Kernels* table : tables) names += std::string(names.empty() ? "" : ", ") + table->name;
  throw std::runtime_error("SCOREFUSION_ISA=" + std::string(wanted) +
                           " cannot be had here; this machine and build offer: " + names);
}

}  // namespace

const Kernels& kernels() {
  static const Kernels* const chosen = choose();
  return *chosen;
}

const char* isa_name() { return kernels().name; }

std::vector<std::string> isa_available() {
  std::vector<std::string> names;
  for (const Kernels* table : runnable()) names.push_back(table->name);
  return names;
}

}  // namespace scorefusion
