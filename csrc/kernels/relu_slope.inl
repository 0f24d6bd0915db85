// relu_slope: a gradient to relu's result where that is positive, 0 elsewhere; where it is NaN, the gradient.

template <class T>
void relu_slope(T* out, const T* gradient, const T* value, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) out[i] = load(value[i]) <= 0 ? T{} : gradient[i];
}
