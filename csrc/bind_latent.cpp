// latent_fit and latent_decode: images and classes split over threads, each class's weights packed once.
#include <vector>

#include "aligned.h"
#include "bind.h"
#include "parallel.h"
#include "tensors.h"

namespace fastadv {
namespace {

bool has_bf16() {
#ifdef FASTADV_X86
  return &active_set() == &avx512::kernels && has_avx512bf16();
#else
  return false;
#endif
}

const LatentKernels& latent_set(bool bf16) {
#ifdef FASTADV_X86
  if (bf16 && has_bf16()) return avx512bf16::latent;
#endif
  (void)bf16;
  return active_set().latent;
}

// The layers as a caller gives them: weights [K, cin, cout, k, k] and biases [K, cout].
struct Layers {
  std::vector<LatentLayer> layers;
  int64_t classes;

  Layers(int64_t classes, int64_t latents, const std::vector<Tensor>& weights,
         const std::vector<Tensor>& biases, const std::vector<int64_t>& strides)
      : classes(classes) {
    if (weights.empty() || weights.size() != biases.size() || weights.size() != strides.size())
      throw std::invalid_argument("decoders: expected a weight, a bias and a stride for each layer");
    int64_t size = 1, channels = latents;
    for (size_t l = 0; l < weights.size(); ++l) {
      if (weights[l].ndim() != 5) throw std::invalid_argument("decoders: expected weights of rank 5");
      LatentLayer layer{};
      layer.cin = channels, layer.cout = channels = weights[l].shape(2);
      layer.kernel = weights[l].shape(3), layer.stride = strides[l];
      layer.in = size, layer.out = size = layer.stride * (size - 1) + layer.kernel;
      layer.weight = read<float>(weights[l], classes * layer.cin * layer.cout * layer.kernel * layer.kernel);
      layer.bias = read<float>(biases[l], classes * layer.cout);
      layers.push_back(layer);
    }
  }

  int64_t pixels() const { return layers.back().cout * layers.back().out * layers.back().out; }
};

// Call body(label, row, packed weights, workspace) for `rows` rows of each class, on every thread.
template <class Body>
void each_class_row(const LatentKernels& kernels, LatentProblem& problem, int64_t classes, int64_t rows,
                    const Body& body) {
  kernels.plan(problem);
  const auto packed = aligned(classes * problem.packed);
  // workspaces are made here: an exception must not leave a parallel region
  std::vector<AlignedFloats> spaces;
  for (int64_t t = most_threads(); t-- > 0;) spaces.push_back(aligned(problem.workspace));
  parallel_dynamic(classes, [&](int64_t label, int) {
    kernels.pack(problem, label, packed.get() + label * problem.packed);
  });
  parallel_dynamic(classes * rows, [&](int64_t task, int thread) {
    const int64_t label = task / rows;
    body(label, task % rows, packed.get() + label * problem.packed,
         spaces[static_cast<size_t>(thread)].get());
  });
}

// loss [B, K] and latents [B, K, L] are written; x [B, C, H, H], z [B, K, L] where the latents start.
void latent_fit(const Tensor& loss, const Tensor& latents, const Tensor& x, const Tensor& z,
                const std::vector<Tensor>& weights, const std::vector<Tensor>& biases,
                const std::vector<int64_t>& strides, float beta, int64_t steps, float step_size,
                float max_norm, bool bf16) {
  if (z.ndim() != 3) throw std::invalid_argument("latent_fit: expected latents [B, K, L]");
  const int64_t images = z.shape(0), classes = z.shape(1), size = z.shape(2);
  Layers given(classes, size, weights, biases, strides);
  const int64_t pixels = given.pixels();
  const float* image = read<float>(x, images * pixels);
  const float* start = read<float>(z, images * classes * size);
  float* fitted = write<float>(latents, images * classes * size);
  float* losses = write<float>(loss, images * classes);
  std::copy_n(start, images * classes * size, fitted);
  LatentProblem problem{};
  problem.layers = given.layers.data(), problem.depth = static_cast<int64_t>(given.layers.size());
  problem.latents = size, problem.steps = steps;
  problem.beta = beta, problem.step_size = step_size, problem.max_norm = max_norm;

  const LatentKernels& kernels = latent_set(bf16);
  const py::gil_scoped_release release;
  each_class_row(
      kernels, problem, classes, images, [&](int64_t label, int64_t row, const float* packed, float* space) {
        const int64_t place = row * classes + label;
        losses[place] = kernels.fit(problem, packed, image + row * pixels, fitted + place * size, space);
      });
}

// images [K, N, C, H, H] are written; z [K, N, L].
void latent_decode(const Tensor& images, const Tensor& z, const std::vector<Tensor>& weights,
                   const std::vector<Tensor>& biases, const std::vector<int64_t>& strides) {
  if (z.ndim() != 3) throw std::invalid_argument("latent_decode: expected latents [K, N, L]");
  const int64_t classes = z.shape(0), rows = z.shape(1), size = z.shape(2);
  Layers given(classes, size, weights, biases, strides);
  const int64_t pixels = given.pixels();
  const float* latents = read<float>(z, classes * rows * size);
  float* image = write<float>(images, classes * rows * pixels);
  LatentProblem problem{};
  problem.layers = given.layers.data(), problem.depth = static_cast<int64_t>(given.layers.size()),
  problem.latents = size;

  const LatentKernels& kernels = latent_set(false);
  const py::gil_scoped_release release;
  each_class_row(kernels, problem, classes, rows,
                 [&](int64_t label, int64_t row, const float* packed, float* space) {
                   const int64_t place = label * rows + row;
                   kernels.decode(problem, packed, latents + place * size, image + place * pixels, space);
                 });
}

}  // namespace

void bind_latent(py::module_& module) {
  module.def("latent_fit", latent_fit);
  module.def("latent_decode", latent_decode);
  module.def("bf16", has_bf16,
             "Whether this process has bfloat16 dot products, which serve latent_fit's bf16.");
}

}  // namespace fastadv
