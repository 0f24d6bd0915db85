// Keep the `radius` coordinates whose reset to x would cost the most; the others go back to x.

template <class T>
void project_l0(T* out, const T* x_adv, const T* x, int64_t cols, double radius, Box box, Scratch scratch) {
  double* gain = scratch.doubles;
  const float lo = nearest(static_cast<float>(box.lo), T{}), hi = nearest(static_cast<float>(box.hi), T{});
#pragma omp simd
  for (int64_t i = 0; i < cols; ++i) {
    const double point = load(x_adv[i]), moved = point - load(x[i]),
                 lost = point - clamp(load(x_adv[i]), lo, hi);
    const double saved = moved * moved - lost * lost;
    gain[i] = saved > 0 ? saved : saved == saved ? 0.0 : HUGE_VAL;  // NaN is kept, not hidden
  }
  for_selected(gain, cols, select_largest(gain, cols, radius), [&](int64_t i, bool kept) {
    store(out + i, kept ? clamp(load(x_adv[i]), lo, hi) : load(x[i]));
  });
}
