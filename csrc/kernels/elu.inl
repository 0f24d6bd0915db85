// elu: x where x > 0, alpha (e^x - 1) elsewhere; elu_slope: a gradient to the result, times the slope there.
// NaN stays.

constexpr int64_t kEluBlock = 16 * kLanes;

FASTADV_INLINE vec elu(vec x, vec alpha) { return x > vec{} ? x : alpha * elu<false>(x); }

template <class T>
void elu(T* out, const T* x, int64_t count, float alpha) {
  const vec factor = splat(alpha);
  int64_t first = 0;
  if constexpr (sizeof(T) == sizeof(float))
    for (; first + kLanes <= count; first += kLanes) store_vec(out + first, elu(load_vec(x + first), factor));
  // what is narrow, or left, is widened in blocks that are filled up with zeros
  for (; first < count; first += kEluBlock) {
    const int64_t size = std::min(kEluBlock, count - first);
    float values[kEluBlock] = {};
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) values[i] = load(x[first + i]);
    for (int64_t i = 0; i < size; i += kLanes) store_vec(values + i, elu(load_vec(values + i), factor));
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) store(out + first + i, values[i]);
  }
}

template <class T>
void elu_slope(T* out, const T* gradient, const T* value, int64_t count, float alpha) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const float result = load(value[i]);
    store(out + i, load(gradient[i]) * (result > 0 ? 1.0f : result + alpha));
  }
}
