// The instruction set that serves this process: the best the processor has, or the one FASTADV_ISA forces.
#pragma once

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.h"

namespace fastadv {

#ifdef FASTADV_X86
// Each names every feature that the file of its set is compiled for.
inline bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
}
inline bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
inline bool has_avx512bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }
#endif

inline std::vector<const KernelSet*> available_sets() {
  std::vector<const KernelSet*> sets{&baseline::kernels};
#ifdef FASTADV_X86
  if (has_avx2()) sets.push_back(&avx2::kernels);
  if (has_avx512()) sets.push_back(&avx512::kernels);
#endif
  return sets;
}

inline const KernelSet& choose_set() {
  const auto sets = available_sets();
  const char* forced = std::getenv("FASTADV_ISA");
  if (!forced || !*forced) return *sets.back();
  std::string names;
  for (const auto* set : sets) {
    if (std::string(forced) == set->name) return *set;
    names += std::string(names.empty() ? "" : ", ") + set->name;
  }
  throw std::invalid_argument("FASTADV_ISA: expected one of " + names + " on this processor, got " + forced +
                              "; unset it for the best");
}

inline const KernelSet& active_set() {
  static const KernelSet& chosen = choose_set();
  return chosen;
}

}  // namespace fastadv
