// x + a uniform draw from a norm ball, clamped to the box. The mathematics is on the op's page.

template <class T>
void start_linf(T* out, const T* x, int64_t cols, Stream stream, double radius, float lo, float hi) {
  for_words(stream, 0, cols, [=](int64_t i, uint32_t word) {
    store(out + i, clamp(add_towards(load(x[i]), radius * (2.0 * to_uniform(word) - 1.0), T{}), lo, hi));
  });
}

template <class T>
void start_shifted(T* out, const T* x, int64_t cols, const double* shift, double scale, double length,
                   float lo, float hi) {
#pragma omp simd
  for (int64_t i = 0; i < cols; ++i)
    store(out + i, clamp(add_towards(load(x[i]), scale * shift[i] / length, T{}), lo, hi));
}

template <class T>
void start_l2(T* out, const T* x, int64_t cols, Stream stream, double radius, float lo, float hi,
              double* shift) {
  fill_normals(shift, stream, 0, cols);
  double square = 0;
#pragma omp simd reduction(+ : square)
  for (int64_t i = 0; i < cols; ++i) square += shift[i] * shift[i];
  const double level = to_uniform(word_at(stream, cols + cols % 2));  // normals use whole pairs of words
  start_shifted(out, x, cols, shift, radius * std::pow(level, 1.0 / static_cast<double>(cols)),
                square > 0 ? std::sqrt(square) : 1.0, lo, hi);
}

template <class T>
void start_l1(T* out, const T* x, int64_t cols, Stream stream, double radius, float lo, float hi,
              double* shift) {
  const auto size = [](uint32_t word) {
    return minus_log((1 << 24) - static_cast<int32_t>(word >> 8));
  };  // -log(1 - u)
  for_words(stream, 0, cols,
            [=](int64_t i, uint32_t word) { shift[i] = word & 1 ? -size(word) : size(word); });
  double total = size(word_at(stream, cols));
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < cols; ++i) total += std::fabs(shift[i]);
  start_shifted(out, x, cols, shift, radius, total > 0 ? total : 1.0, lo, hi);
}

// The coordinates of the smallest words are drawn.
template <class T>
void start_l0(T* out, const T* x, int64_t cols, Stream stream, double radius, Box box, float lo, float hi,
              double* scratch) {
  double *gain = scratch, *value = scratch + cols;
  for_words(stream, 0, cols,
            [=](int64_t i, uint32_t word) { gain[i] = static_cast<double>(0xFFFFFFFFu - word); });
  for_words(stream, cols, 2 * cols,
            [=](int64_t i, uint32_t word) { value[i] = box.lo + (box.hi - box.lo) * to_uniform(word); });
  for_selected(gain, cols, select_largest(gain, cols, radius), [&](int64_t i, bool drawn) {
    store(out + i, clamp(drawn ? nearest(static_cast<float>(value[i]), T{}) : load(x[i]), lo, hi));
  });
}

template <class T>
void random_start(T* out, const T* x, int64_t cols, Stream stream, Norm norm, double radius, Box box,
                  Scratch scratch) {
  const float lo = nearest(static_cast<float>(box.lo), T{}), hi = nearest(static_cast<float>(box.hi), T{});
  if (norm == Norm::linf) return start_linf(out, x, cols, stream, radius, lo, hi);
  if (norm == Norm::l2) return start_l2(out, x, cols, stream, radius, lo, hi, scratch.doubles);
  if (norm == Norm::l1) return start_l1(out, x, cols, stream, radius, lo, hi, scratch.doubles);
  start_l0(out, x, cols, stream, radius, box, lo, hi, scratch.doubles);
}
