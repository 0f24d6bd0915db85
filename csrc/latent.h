// The decoders of Analysis by Synthesis and their latent optimization: what a caller describes, and what each
// instruction set computes from it. Plain data only, so that the per-set code instantiates nothing that
// another translation unit could share.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fastadv {

// One transposed convolution, square and without padding. `out` = stride * (in - 1) + kernel.
struct LatentLayer {
  int64_t cin, cout, kernel, stride, in, out;
  const float* weight;  // [classes, cin, cout, kernel, kernel]
  const float* bias;    // [classes, cout]
  // Filled by `plan`: where this layer's parts lie, counted in floats within a class's packed weights and a
  // thread's workspace.
  int64_t forward, backward, shift, activation, gradient;
};

struct LatentProblem {
  LatentLayer* layers;
  int64_t depth, latents, steps;
  float beta, step_size, max_norm;
  // Filled by `plan`, in floats: the sizes of a class's packed weights and a thread's workspace, and where
  // its shared parts lie.
  int64_t packed, workspace, row, image, moments;
};

// What one instruction set provides, for one element type of weights and activations.
struct LatentKernels {
  void (*plan)(LatentProblem& problem);
  void (*pack)(const LatentProblem& problem, int64_t label, float* packed);
  // Optimize one image's latents under one class in place; the loss of the last evaluation is returned.
  float (*fit)(const LatentProblem& problem, const float* packed, const float* x, float* z, float* workspace);
  // One class's image of latents z.
  void (*decode)(const LatentProblem& problem, const float* packed, const float* z, float* image,
                 float* workspace);
};

// bfloat16 dot products with single sums; their own unit, since not every AVX-512 processor has them.
#if defined(__x86_64__)
namespace avx512bf16 {
extern const LatentKernels latent;
}
#endif

}  // namespace fastadv
