// Every kernel, in the namespace and for the instruction set of the file that includes this.

// clang-format off: each file uses those above it
#include "kernels/scalar.inl"
#include "kernels/select.inl"
#include "kernels/philox.inl"
#include "kernels/linf_step.inl"
#ifdef FASTADV_AVX512
#include "kernels/linf_step_avx512.inl"
#endif
#include "kernels/l2_exact.inl"
#include "kernels/l2.inl"
#include "kernels/project_l2.inl"
#include "kernels/l2_step.inl"
#include "kernels/l1.inl"
#include "kernels/project_l1.inl"
#include "kernels/l1_step.inl"
#include "kernels/project_l0.inl"
#include "kernels/to_hyperplane.inl"
#include "kernels/square.inl"
#include "kernels/sparse_rs.inl"
#include "kernels/random_start.inl"
#include "kernels/noisy_copies.inl"
#include "kernels/glass_shuffle.inl"
#include "kernels/count_votes.inl"
#include "kernels/keep_best.inl"
#include "kernels/distance.inl"
#include "kernels/keep_nearest.inl"
#include "kernels/largest.inl"
#include "kernels/logit_loss.inl"
#include "kernels/judge.inl"
#include "kernels/latent_vector.inl"
#include "kernels/thin_gradient.inl"
#include "kernels/stencil.inl"
#include "kernels/winograd.inl"
#include "kernels/latent_rows.inl"
#include "kernels/latent_layout.inl"
#include "kernels/latent_fit.inl"
#include "kernels/latent_decode.inl"
#include "kernels/nearest_prototype.inl"
// clang-format on

template <class T>
constexpr Kernels<T> table() {
  return {.linf_step = linf_step<T, T>,
          .linf_step_narrow = linf_step<T, bf16>,
          .l2_step = l2_step<T>,
          .l1_step = l1_step<T>,
          .project_l2 = project_l2<T>,
          .project_l1 = project_l1<T>,
          .project_l0 = project_l0<T>,
          .to_hyperplane = to_hyperplane<T>,
          .square_linf = square_linf<T>,
          .square_bumps = square_bumps<T>,
          .sparse_rs = sparse_rs<T>,
          .random_start = random_start<T>,
          .noisy_copy = noisy_copy<T>,
          .vote = vote<T>,
          .keep_best = keep_best<T>,
          .judge = judge<T>,
          .distance = distance<T>,
          .keep_nearest = keep_nearest<T>,
          .largest = largest<T>,
          .logit_loss = logit_loss<T>,
          .thin_gradient = thin_gradient<T>,
          .stencil = stencil<T>,
          .winograd_tiles = winograd_tiles<T>,
          .winograd_image = winograd_image<T>};
}

constexpr KernelSet set(const char* name) {
  return {.name = name,
          .f32 = table<float>(),
          .b16 = table<bf16>(),
          .philox = {.bits = philox_bits,
                     .uniform = philox_uniform,
                     .normal = philox_normal,
                     .sign = philox_sign},
          .latent = latent_kernels<Single>(),
          .nearest = {.tile = kTileImages, .search = search},
          .glass_shuffle = glass_shuffle,
          .thin_scratch = thin_scratch};
}
