// AVX2 with FMA. Standard headers come first, so that nothing of theirs is compiled for a set the processor
// may lack.
#include "kernels.h"

#ifdef FASTADV_X86
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,bmi2"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,bmi2")
#endif

#define FASTADV_LANES 8
namespace fastadv::avx2 {
#include "kernels/all.inl"

constinit const KernelSet kernels = set("avx2");
}  // namespace fastadv::avx2

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
