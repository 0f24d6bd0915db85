// AVX-512 (F, BW, DQ, VL). Standard headers come first, so that nothing of theirs is compiled for a set the
// processor may lack.
#include "kernels.h"

#ifdef FASTADV_X86
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi2"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi2,prefer-vector-width=512")
#endif

#define FASTADV_LANES 16
#define FASTADV_AVX512
namespace fastadv::avx512 {
#include "kernels/all.inl"

constinit const KernelSet kernels = set("avx512");
}  // namespace fastadv::avx512

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
