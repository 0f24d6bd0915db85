// Ops on images [B, C, H, W], for the corruptions of images.
#include <limits>
#include <vector>

#include "aligned.h"
#include "bind.h"
#include "tensors.h"

namespace fastadv {
namespace {

constexpr int64_t kBandRows = 64;  // of a plane, that a thread takes at once
constexpr int64_t kPastEnd = 64;   // floats that vectors may read beyond the last row

// The taps of a sample; offsets beyond the image are those to its edge.
Stencil taps_of(const int32_t* offsets, const float* weights, int64_t* places, int64_t count, Image image) {
  const auto down = [&](int64_t t) {
    return std::clamp<int64_t>(offsets[2 * t], 1 - image.height, image.height - 1);
  };
  const auto right = [&](int64_t t) {
    return std::clamp<int64_t>(offsets[2 * t + 1], 1 - image.width, image.width - 1);
  };
  Stencil taps{places, weights, count, down(0), down(0), right(0), 0};
  int64_t rightmost = right(0);
  for (int64_t t = 1; t < count; ++t) {
    taps.top = std::min(taps.top, down(t));
    taps.bottom = std::max(taps.bottom, down(t));
    taps.left = std::min(taps.left, right(t));
    rightmost = std::max(rightmost, right(t));
  }
  taps.pitch = image.width + rightmost - taps.left;
  for (int64_t t = 0; t < count; ++t) places[t] = (down(t) - taps.top) * taps.pitch + right(t) - taps.left;
  return taps;
}

void stencil(const Tensor& out, const Tensor& x, const Tensor& offsets, const Tensor& weights) {
  check_alike(out, x);
  const int64_t sets = offsets.shape(0), count = offsets.shape(1);
  if (x.ndim() != 4 || offsets.ndim() != 3 || weights.ndim() != 2 || !count || offsets.shape(2) != 2 ||
      (sets != 1 && sets != x.shape(0)) || (weights.shape(0) != 1 && weights.shape(0) != x.shape(0)))
    throw std::invalid_argument("stencil: arrays that do not fit");
  const auto* offset = read<int32_t>(offsets, sets * count * 2);
  const auto* weight = read<float>(weights, weights.shape(0) * count);
  if (!x.size()) return;
  const Image image{x.shape(1), x.shape(2), x.shape(3)};
  const int64_t samples = x.shape(0), bands = (image.height + kBandRows - 1) / kBandRows,
                tall = (image.height + bands - 1) / bands, size = image.height * image.width;
  std::vector<int64_t> places(static_cast<size_t>(samples * count));
  std::vector<Stencil> taps;
  int64_t needed = 0;
  for (int64_t sample = 0; sample < samples; ++sample) {
    taps.push_back(taps_of(offset + (sets > 1 ? sample * count * 2 : 0),
                           weight + (weights.shape(0) > 1 ? sample * count : 0),
                           places.data() + sample * count, count, image));
    needed = std::max(needed, (tall + taps.back().bottom - taps.back().top) * taps.back().pitch);
  }
  with_kernels(x, [&](auto element, const auto& kernels) {
    using T = decltype(element);
    const T* from = read<T>(x, x.size());
    T* to = write<T>(out, x.size());
    const int64_t tasks = samples * image.channels * bands;
    const int threads = useful_threads(tasks, tall * image.width * (1 + count / 8));
    std::vector<AlignedFloats> scratch;
    for (int t = threads; t-- > 0;) scratch.push_back(aligned(needed + kPastEnd));
    parallel_without_gil(tasks, threads, [&](int64_t first, int64_t last, int thread) {
      for (int64_t task = first; task < last; ++task) {
        const int64_t plane = task / bands, top = task % bands * tall;
        kernels.stencil(to + plane * size, from + plane * size, image,
                        taps[static_cast<size_t>(plane / image.channels)], top,
                        std::min(image.height, top + tall), scratch[static_cast<size_t>(thread)].get());
      }
    });
  });
}

void glass_shuffle(const Tensor& out, const Tensor& x, const Tensor& ids, int64_t distance, int64_t rounds,
                   int64_t seed) {
  check_alike(out, x);
  if (x.ndim() != 4 || !x.dense()) throw std::invalid_argument("glass_shuffle: expected [B, C, H, W]");
  const Image image{x.shape(1), x.shape(2), x.shape(3)};
  const int64_t pixels = image.height * image.width;
  if (pixels > std::numeric_limits<int32_t>::max())
    throw std::invalid_argument("glass_shuffle: expected fewer than 2^31 pixels an image");
  const auto to = write_rows<uint8_t>(out);
  const auto from = read_rows<uint8_t>(x);
  const auto* id = read<int64_t>(ids, to.rows);
  const int threads = useful_threads(to.rows, 4 * rounds * pixels);
  const auto scratch = std::make_unique_for_overwrite<int32_t[]>(static_cast<size_t>(threads * 2 * pixels));
  parallel_without_gil(to.rows, threads, [&](int64_t first, int64_t last, int thread) {
    for (int64_t row = first; row < last; ++row)
      active_set().glass_shuffle(to[row], from[row], image, stream(seed, id[row], 0), distance, rounds,
                                 scratch.get() + thread * 2 * pixels);
  });
}

}  // namespace

void bind_images(py::module_& module) {
  module.def("stencil", stencil);
  module.def("glass_shuffle", glass_shuffle);
}

}  // namespace fastadv
