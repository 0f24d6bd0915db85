// thin_gradient: the input gradient of a convolution that reads few channels, a sample at a time. The planes
// of the gradient are spread into rows with zeros around and between their elements, so that every tap of
// the kernel is a shifted load of whole vectors.

constexpr int kSpan = 2;  // vectors of the output that are summed together

// The elements of a spread row before its first one, and those of a whole row; widths of the output are
// rounded up to whole spans.
inline int64_t thin_lead(const ThinShape& shape) { return (shape.kernel[1] - 1) * shape.dilation[1]; }
inline int64_t thin_width(const ThinShape& shape) {
  constexpr int64_t span = kSpan * kLanes;
  return (shape.size[1] + span - 1) / span * span;
}
inline int64_t thin_row(const ThinShape& shape) {
  const int64_t read = thin_width(shape) + shape.padding[1],
                written = (shape.out[1] - 1) * shape.stride[1] + 1;
  return thin_lead(shape) + (read > written ? read : written);
}
inline int64_t thin_scratch(const ThinShape& shape) {
  return thin_planes(shape) * shape.out[0] * thin_row(shape) + thin_width(shape);
}

// kLanes pixels in kLanes channels, which follow each other in memory, to a row for each channel.
template <class T>
void spread_block(float* to, int64_t apart, const T* from, int64_t channels) {
  vec block[kLanes];
  unroll<kLanes>([&](auto i) { block[i] = load_vec(from + i * channels); });
  transpose(block);
  unroll<kLanes>([&](auto i) { store_vec(to + i * apart, block[i]); });
}

// Rows of the planes, whose zeros around and between are there already.
template <class T>
void spread(float* rows, const T* gradient, const ThinShape& shape, bool channels_last) {
  const int64_t row = thin_row(shape), wide = shape.out[1], channels = shape.outputs,
                stride = shape.stride[1];
  for (int64_t i = 0; i < shape.out[0]; ++i) {
    float* to = rows + i * thin_planes(shape) * row + thin_lead(shape);
    const T* from = gradient + i * wide * (channels_last ? channels : 1);
    if (channels_last && stride == 1 && wide >= kLanes && channels >= kLanes) {
      // the last blocks overlap those before
      for (int64_t o = 0; o < channels; o += kLanes)
        for (int64_t j = 0; j < wide; j += kLanes) {
          const int64_t channel = std::min(o, channels - kLanes), pixel = std::min(j, wide - kLanes);
          spread_block(to + channel * row + pixel, row, from + pixel * channels + channel, channels);
        }
    } else if (channels_last) {
      for (int64_t o = 0; o < channels; ++o)
        for (int64_t j = 0; j < wide; ++j) to[o * row + j * stride] = load(from[j * channels + o]);
    } else {
      for (int64_t o = 0; o < channels; ++o) {
        const T* line = from + o * shape.out[0] * wide;
        if (stride == 1)  // a loop of its own: compilers vectorize it
          for (int64_t j = 0; j < wide; ++j) to[o * row + j] = load(line[j]);
        else
          for (int64_t j = 0; j < wide; ++j) to[o * row + j * stride] = load(line[j]);
      }
    }
  }
}

// Runs the function for 0 ... N-1, or for 0 ... count-1 where N is 0.
template <int N, class F>
inline void repeat(int64_t count, F&& run) {
  if constexpr (N > 0)
    unroll<N>(run);
  else
    for (int64_t i = 0; i < count; ++i) run(i);
}

// One row of the output in all channels. weights [planes, h, v, C]. V: the kernel's width, or 0 for any.
template <class T, int C, int V>
void thin_output_row(T* out, const float* rows, const float* weights, const ThinShape& shape, int64_t i,
                     float* line) {
  constexpr int U = C == 1 ? 4 : C == 2 ? 2 : 1;  // independent sums, which hide the latency of an addition
  static_assert(kThinUnroll % U == 0);
  const int64_t wide = V ? V : shape.kernel[1], row = thin_row(shape), planes = thin_planes(shape),
                taps = shape.kernel[0] * wide * C, apart = shape.dilation[1],
                first = thin_lead(shape) + shape.padding[1];
  for (int64_t j = 0; j < shape.size[1]; j += kSpan * kLanes) {
    vec sums[U][C][kSpan] = {};
    for (int64_t a = 0; a < shape.kernel[0]; ++a) {
      const int64_t at = i + shape.padding[0] - a * shape.dilation[0], above = at / shape.stride[0];
      if (at < 0 || above * shape.stride[0] != at || above >= shape.out[0]) continue;
      const float* from = rows + above * planes * row + first + j;
      const float* weight = weights + a * wide * C;
      for (int64_t o = 0; o < shape.outputs; o += U, from += U * row, weight += U * taps)
        repeat<V>(wide, [&](auto b) {
          unroll<U>([&](auto u) {
            unroll<kSpan>([&](auto s) {
              const vec part = in_register(load_vec(from - b * apart + u * row + s * kLanes));
              unroll<C>([&](auto c) {
                sums[u][c][s] = fma(splat(weight[u * taps + b * C + c]), part, sums[u][c][s]);
              });
            });
          });
        });
    }
    const int64_t count = std::min<int64_t>(kSpan * kLanes, shape.size[1] - j);
    unroll<C>([&](auto c) {
      unroll<kSpan>([&](auto s) {
        vec sum = sums[0][c][s];
        for (int u = 1; u < U; ++u) sum += sums[u][c][s];
        store_vec(line + s * kLanes, sum);
      });
      T* to = out + (c * shape.size[0] + i) * shape.size[1] + j;
      for (int64_t k = 0; k < count; ++k) store(to + k, nearest(line[k], T{}));
    });
  }
}

template <class T, int V>
auto thin_output_row_of(int64_t channels) {
  return channels == 1   ? thin_output_row<T, 1, V>
         : channels == 2 ? thin_output_row<T, 2, V>
         : channels == 3 ? thin_output_row<T, 3, V>
                         : thin_output_row<T, 4, V>;
}

template <class T>
void thin_gradient(T* out, const T* gradient, const float* weights, const ThinShape& shape,
                   bool channels_last, float* scratch) {
  float* line = scratch + thin_scratch(shape) - thin_width(shape);
  spread(scratch, gradient, shape, channels_last);
  const auto output_row = shape.kernel[1] == 3   ? thin_output_row_of<T, 3>(shape.channels)
                          : shape.kernel[1] == 5 ? thin_output_row_of<T, 5>(shape.channels)
                                                 : thin_output_row_of<T, 0>(shape.channels);
  for (int64_t i = 0; i < shape.size[0]; ++i) output_row(out, scratch, weights, shape, i, line);
}
