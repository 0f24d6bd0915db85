// thin_gradient: samples split over threads, each with spread rows of its own.
#include <array>
#include <vector>

#include "aligned.h"
#include "bind.h"
#include "parallel.h"
#include "tensors.h"

namespace fastadv {
namespace {

using Pair = std::array<int64_t, 2>;

// gradient [B, O, ., .], or [B, ., ., O] with channels_last; weight [O, C, h, v]; out [B, C, *size].
void thin_gradient(const Tensor& out, const Tensor& gradient, const Tensor& weight, const Pair& size,
                   const Pair& stride, const Pair& padding, const Pair& dilation, bool channels_last) {
  if (out.ndim() != 4 || gradient.ndim() != 4 || weight.ndim() != 4 || !gradient.dense() ||
      gradient.shape(channels_last ? 3 : 1) != weight.shape(0) || gradient.shape(0) != out.shape(0) ||
      out.shape(1) != weight.shape(1) || weight.shape(1) > kThinChannels)
    throw std::invalid_argument("thin_gradient: arrays that do not fit");
  const int64_t images = out.shape(0), channels = weight.shape(1), outputs = weight.shape(0),
                tall = weight.shape(2), wide = weight.shape(3), taps = tall * wide;
  const int64_t first = channels_last ? 1 : 2;
  const ThinShape shape{channels,
                        outputs,
                        {tall, wide},
                        {size[0], size[1]},
                        {gradient.shape(first), gradient.shape(first + 1)},
                        {stride[0], stride[1]},
                        {padding[0], padding[1]},
                        {dilation[0], dilation[1]}};
  const auto* given = read<float>(weight, outputs * channels * taps);
  with_kernels(gradient, [&](auto element, const auto& kernels) {
    using T = decltype(element);
    const auto from = read_rows<T>(gradient);
    T* to = write<T>(out, images * channels * size[0] * size[1]);
    const py::gil_scoped_release release;
    // as the kernel reads them
    std::vector<float> weights(static_cast<size_t>(thin_planes(shape) * taps * channels));
    for (int64_t o = 0; o < outputs; ++o)
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t tap = 0; tap < taps; ++tap)
          weights[static_cast<size_t>((o * taps + tap) * channels + c)] =
              given[(o * channels + c) * taps + tap];
    const int64_t needed = active_set().thin_scratch(shape), part = channels * size[0] * size[1];
    const int threads = useful_threads(images, from.cols * taps);
    std::vector<AlignedFloats> scratch;
    for (int t = threads; t-- > 0;) {
      scratch.push_back(aligned(needed));
      std::fill_n(scratch.back().get(), needed, 0.0f);
    }
    parallel_for(images, threads, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t image = begin; image < end; ++image)
        kernels.thin_gradient(to + image * part, from[image], weights.data(), shape, channels_last,
                              scratch[static_cast<size_t>(thread)].get());
    });
  });
}

}  // namespace

void bind_thin(py::module_& module) { module.def("thin_gradient", thin_gradient); }

}  // namespace fastadv
