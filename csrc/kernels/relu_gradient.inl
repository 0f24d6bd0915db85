// relu_gradient: a gradient to relu's result where that is positive or NaN, 0 elsewhere.

inline float passed(float gradient, float value) { return value <= 0 ? 0.0f : gradient; }
// by its bits: positive, or NaN of either sign
inline bf16 passed(bf16 gradient, bf16 value) {
  const bool positive = static_cast<int16_t>(value.bits) > 0, unknown = (value.bits & 0x7FFF) > 0x7F80;
  return {static_cast<uint16_t>((positive | unknown) ? gradient.bits : 0)};
}

template <class T>
void relu_gradient(T* out, const T* gradient, const T* value, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) out[i] = passed(gradient[i], value[i]);
}
