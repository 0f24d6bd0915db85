// elu: x where x > 0, alpha (e^x - 1) elsewhere; elu_gradient: a gradient to the result,
// times elu's own at x. NaN stays.

constexpr int64_t kEluBlock = 16 * kLanes;

FASTADV_INLINE vec elu(vec x, vec alpha) { return x > vec{} ? x : alpha * elu<false>(x); }

// Not by the result: that rounds to -alpha long before the gradient is 0.
FASTADV_INLINE vec elu_gradient(vec x, vec alpha) {
  const vec least = splat(-87.0f);
  const Exponential e = exponential(larger(least, x));  // unused where x > 0
  const vec power = x < least ? vec{} : fma(e.scale, e.part, e.scale);
  return x > vec{} ? splat(1.0f) : alpha * power;
}

// give(i, value) for all x[i], widened in blocks that are filled up with zeros, and changed.
template <class T, class Change, class Give>
FASTADV_INLINE void in_blocks(const T* x, int64_t from, int64_t to, const Change& change, const Give& give) {
  for (; from < to; from += kEluBlock) {
    const int64_t size = std::min(kEluBlock, to - from);
    float values[kEluBlock] = {};
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) values[i] = load(x[from + i]);
    for (int64_t i = 0; i < size; i += kLanes) store_vec(values + i, change(load_vec(values + i)));
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) give(from + i, values[i]);
  }
}

template <class T>
void elu(T* out, const T* x, int64_t count, float alpha) {
  const vec factor = splat(alpha);
  int64_t first = 0;
  if constexpr (sizeof(T) == sizeof(float))
    for (; first + kLanes <= count; first += kLanes) store_vec(out + first, elu(load_vec(x + first), factor));
  in_blocks(
      x, first, count, [&](vec value) __attribute__((always_inline)) { return elu(value, factor); },
      [&](int64_t i, float value) __attribute__((always_inline)) { store(out + i, value); });
}

template <class T>
void elu_gradient(T* out, const T* gradient, const T* x, int64_t count, float alpha) {
  const vec factor = splat(alpha);
  int64_t first = 0;
  if constexpr (sizeof(T) == sizeof(float))
    for (; first + kLanes <= count; first += kLanes)
      store_vec(out + first, load_vec(gradient + first) * elu_gradient(load_vec(x + first), factor));
  in_blocks(
      x, first, count, [&](vec value) __attribute__((always_inline)) { return elu_gradient(value, factor); },
      [&](int64_t i, float factor)
          __attribute__((always_inline)) { store(out + i, load(gradient[i]) * factor); });
}
