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

// Rows of the planes, whose zeros around and between are there already.
template <class T>
void spread(float* rows, const T* gradient, const ThinShape& shape, bool channels_last) {
  const int64_t row = thin_row(shape), lead = thin_lead(shape), pixels = shape.out[0] * shape.out[1];
  const int64_t along = channels_last ? shape.outputs : 1, across = channels_last ? 1 : pixels;
  for (int64_t o = 0; o < shape.outputs; ++o)
    for (int64_t i = 0; i < shape.out[0]; ++i) {
      float* to = rows + (o * shape.out[0] + i) * row + lead;
      const T* from = gradient + o * across + i * shape.out[1] * along;
      for (int64_t j = 0; j < shape.out[1]; ++j) to[j * shape.stride[1]] = load(from[j * along]);
    }
}

// One row of the output in all channels. weights [planes, h, v, C].
template <class T, int C>
void thin_output_row(T* out, const float* rows, const float* weights, const ThinShape& shape, int64_t i,
                     float* line) {
  constexpr int U = C == 1 ? 4 : C == 2 ? 2 : 1;  // independent sums, which hide the latency of an addition
  static_assert(kThinUnroll % U == 0);
  const int64_t row = thin_row(shape), first = thin_lead(shape) + shape.padding[1];
  for (int64_t j = 0; j < shape.size[1]; j += kSpan * kLanes) {
    vec sums[U][C][kSpan] = {};
    for (int64_t o = 0; o < shape.outputs; o += U)
      for (int64_t a = 0; a < shape.kernel[0]; ++a) {
        const int64_t at = i + shape.padding[0] - a * shape.dilation[0], above = at / shape.stride[0];
        if (at < 0 || above * shape.stride[0] != at || above >= shape.out[0]) continue;
        const float* from = rows + (o * shape.out[0] + above) * row + first + j;
        const float* weight = weights + (o * shape.kernel[0] + a) * shape.kernel[1] * C;
        for (int64_t b = 0; b < shape.kernel[1]; ++b, from -= shape.dilation[1], weight += C)
          unroll<U>([&](auto u) {
            unroll<kSpan>([&](auto s) {
              const vec part = load_vec(from + u * shape.out[0] * row + s * kLanes);
              unroll<C>([&](auto c) {
                const float factor = weight[u * shape.kernel[0] * shape.kernel[1] * C + c];
                sums[u][c][s] = fma(splat(factor), part, sums[u][c][s]);
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

template <class T>
void thin_gradient(T* out, const T* gradient, const float* weights, const ThinShape& shape,
                   bool channels_last, float* scratch) {
  float* line = scratch + thin_scratch(shape) - thin_width(shape);
  spread(scratch, gradient, shape, channels_last);
  const auto output_row = shape.channels == 1   ? thin_output_row<T, 1>
                          : shape.channels == 2 ? thin_output_row<T, 2>
                          : shape.channels == 3 ? thin_output_row<T, 3>
                                                : thin_output_row<T, 4>;
  for (int64_t i = 0; i < shape.size[0]; ++i) output_row(out, scratch, weights, shape, i, line);
}
