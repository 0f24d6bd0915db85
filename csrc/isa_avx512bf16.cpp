// AVX-512 with bfloat16 dot products. Standard headers come first, so that nothing of theirs is compiled for
// a set the processor may lack.
#include "kernels.h"

#ifdef FASTADV_X86
#if defined(__clang__)
#pragma clang attribute push(                                                               \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,bmi2"))), \
    apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,bmi2,prefer-vector-width=512")
#endif

#define FASTADV_LANES 16
#define FASTADV_BF16
namespace fastadv::avx512bf16 {
// clang-format off: each file uses those above it
#include "kernels/latent_vector.inl"
#include "kernels/latent_rows.inl"
#include "kernels/latent_layout.inl"
#include "kernels/latent_fit.inl"
#include "kernels/latent_decode.inl"
// clang-format on

constinit const LatentKernels latent = latent_kernels<Paired>();
}  // namespace fastadv::avx512bf16

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
