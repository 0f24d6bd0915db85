// winograd_tiles and winograd_image: both ends of Winograd's convolution with a kernel of 3 by 3, whose tiles
// give M by M elements of the result each (Lavin & Gray 2016). A row of tiles at a time, whose channels go in
// blocks.

constexpr int64_t kWinogradBlock = 4 * kLanes;

// One axis of a tile on its way in, Bᵀ d.
template <int M>
FASTADV_INLINE void enter(vec (&d)[M + 2]) {
  if constexpr (M == 2) {
    const vec inner = d[1] + d[2], apart = d[2] - d[1];
    d[0] -= d[2], d[3] = d[1] - d[3], d[1] = inner, d[2] = apart;
  } else {
    const vec two = splat(2.0f), four = splat(4.0f), five = splat(5.0f);
    const vec low = d[4] - four * d[2], high = d[3] - four * d[1];
    const vec even = d[4] - d[2], odd = two * (d[3] - d[1]);
    d[0] = four * d[0] - five * d[2] + d[4];
    d[5] = four * d[1] - five * d[3] + d[5];
    d[1] = low + high, d[2] = low - high, d[3] = even + odd, d[4] = even - odd;
  }
}

// One axis on its way out, Aᵀ m, into the first M.
template <int M>
FASTADV_INLINE void leave(vec (&m)[M + 2]) {
  if constexpr (M == 2) {
    const vec first = m[0] + m[1] + m[2];
    m[1] = m[1] - m[2] - m[3], m[0] = first;
  } else {
    const vec sum = m[1] + m[2], apart = m[1] - m[2], far = m[3] + m[4], wide = m[3] - m[4];
    m[0] = m[0] + sum + far;
    m[1] = apart + splat(2.0f) * wide;
    m[2] = sum + splat(4.0f) * far;
    m[3] = apart + splat(8.0f) * wide + m[5];
  }
}

// Change `lines` lines of M + 2 blocks each; `along` and `across` count the floats from one block to the next
// of a line, and from line to line.
template <int M, class Change>
FASTADV_INLINE void each_line(float* blocks, int64_t along, int64_t across, int lines, const Change& change) {
  for (int line = 0; line < lines; ++line)
    for (int64_t lane = 0; lane < kWinogradBlock; lane += kLanes) {
      float* at = blocks + line * across + lane;
      vec values[M + 2];
      unroll<M + 2>([&](auto i) { values[i] = load_vec(at + i * along); });
      change(values);
      unroll<M + 2>([&](auto i) { store_vec(at + i * along, values[i]); });
    }
}

// out [tiles, (M + 2)², channels], of which the tiles from `first` on are those of this row; image [height,
// width, channels].
template <class T, int M>
void winograd_row_in(T* out, const T* image, const WinogradShape& shape, int64_t row, int64_t first) {
  constexpr int64_t size = M + 2;
  alignas(64) float blocks[size * size * kWinogradBlock];
  const auto change = [](vec(&d)[M + 2]) __attribute__((always_inline)) { enter<M>(d); };
  for (int64_t column = 0; column < shape.across; ++column)
    for (int64_t c = 0; c < shape.channels; c += kWinogradBlock) {
      const int64_t count = std::min(kWinogradBlock, shape.channels - c);
      for (int64_t i = 0; i < size; ++i)
        for (int64_t j = 0; j < size; ++j) {
          const int64_t y = row * M + i - shape.padding, x = column * M + j - shape.padding;
          float* to = blocks + (i * size + j) * kWinogradBlock;
          if (y < 0 || y >= shape.height || x < 0 || x >= shape.width) {
            std::fill_n(to, kWinogradBlock, 0.0f);
            continue;
          }
          const T* from = image + (y * shape.width + x) * shape.channels + c;
#pragma omp simd
          for (int64_t k = 0; k < count; ++k) to[k] = load(from[k]);
          std::fill(to + count, to + kWinogradBlock, 0.0f);
        }
      each_line<M>(blocks, size * kWinogradBlock, kWinogradBlock, size, change);
      each_line<M>(blocks, kWinogradBlock, size * kWinogradBlock, size, change);
      for (int64_t part = 0; part < size * size; ++part) {
        T* to = out + ((first + column) * size * size + part) * shape.channels + c;
        const float* from = blocks + part * kWinogradBlock;
#pragma omp simd
        for (int64_t k = 0; k < count; ++k) store(to + k, from[k]);
      }
    }
}

// The image [height, width, channels] of the products [tiles, (M + 2)², channels], plus the bias of each
// channel where there is one.
template <class T, int M>
void winograd_row_out(T* image, const T* products, const float* bias, const WinogradShape& shape, int64_t row,
                      int64_t first) {
  constexpr int64_t size = M + 2;
  alignas(64) float blocks[size * size * kWinogradBlock];
  const auto change = [](vec(&m)[M + 2]) __attribute__((always_inline)) { leave<M>(m); };
  for (int64_t column = 0; column < shape.across; ++column)
    for (int64_t c = 0; c < shape.channels; c += kWinogradBlock) {
      const int64_t count = std::min(kWinogradBlock, shape.channels - c);
      for (int64_t part = 0; part < size * size; ++part) {
        const T* from = products + ((first + column) * size * size + part) * shape.channels + c;
        float* to = blocks + part * kWinogradBlock;
#pragma omp simd
        for (int64_t k = 0; k < count; ++k) to[k] = load(from[k]);
        std::fill(to + count, to + kWinogradBlock, 0.0f);
      }
      each_line<M>(blocks, size * kWinogradBlock, kWinogradBlock, size, change);
      each_line<M>(blocks, kWinogradBlock, size * kWinogradBlock, M, change);
      const int64_t tall = std::min<int64_t>(M, shape.height - row * M),
                    wide = std::min<int64_t>(M, shape.width - column * M);
      for (int64_t i = 0; i < tall; ++i)
        for (int64_t j = 0; j < wide; ++j) {
          T* to = image + ((row * M + i) * shape.width + column * M + j) * shape.channels + c;
          const float* from = blocks + (i * size + j) * kWinogradBlock;
          if (bias) {
#pragma omp simd
            for (int64_t k = 0; k < count; ++k) store(to + k, from[k] + bias[c + k]);
          } else {
#pragma omp simd
            for (int64_t k = 0; k < count; ++k) store(to + k, from[k]);
          }
        }
    }
}

template <class T>
void winograd_tiles(T* out, const T* image, const WinogradShape& shape, int64_t row, int64_t first) {
  (shape.size == 2 ? winograd_row_in<T, 2> : winograd_row_in<T, 4>)(out, image, shape, row, first);
}

template <class T>
void winograd_image(T* image, const T* products, const float* bias, const WinogradShape& shape, int64_t row,
                    int64_t first) {
  const auto row_out = shape.size == 2 ? winograd_row_out<T, 2> : winograd_row_out<T, 4>;
  row_out(image, products, bias, shape, row, first);
}
