// l1_step: the steepest coordinate moves, then the projection (see l1.inl).

// The steepest coordinate the box lets move, the lower one on ties; -1 where none moves or the row is not
// finite.
template <class T>
int64_t l1_steepest(const T* x_adv, const T* grad, int64_t cols, float lo, float hi) {
  float best = 0, check = 0;
  const auto size = [&](int64_t i) {
    const float slope = load(grad[i]), at = load(x_adv[i]);
    return (slope > 0 ? at < hi : at > lo) ? std::fabs(slope) : 0.0f;
  };
#pragma omp simd reduction(max : best) reduction(+ : check)
  for (int64_t i = 0; i < cols; ++i) {
    best = size(i) > best ? size(i) : best;
    check += load(grad[i]) * 0.0f;  // NaN for a slope that is not finite
  }
  if (!(check == 0) || !(best > 0)) return -1;
  int64_t at = 0;
  while (size(at) != best) ++at;
  return at;
}

template <class T>
void l1_step(T* out, const T* x_adv, const T* grad, const T* x, int64_t cols, double radius, double step,
             Box box, Scratch scratch) {
  double* v = scratch.doubles;
  const float lo = nearest(static_cast<float>(box.lo), T{}), hi = nearest(static_cast<float>(box.hi), T{});
  const int64_t best = l1_steepest(x_adv, grad, cols, lo, hi);
#pragma omp simd
  for (int64_t i = 0; i < cols; ++i) v[i] = static_cast<double>(load(x_adv[i])) - load(x[i]);
  if (best >= 0) v[best] = (load(x_adv[best]) + (load(grad[best]) > 0 ? step : -step)) - load(x[best]);
  l1_write(out, v, x, cols, radius, box);
}
