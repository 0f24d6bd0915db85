// linf_step: x_adv + step * sign(grad), clamped to the ball's edges (rounded towards x) and to the box. A
// gradient that is not finite counts as 0. The gradient may be narrower than the points.

template <class T, class G>
void linf_step(T* out, const T* x_adv, const G* grad, const T* x, int64_t from, int64_t to, double radius,
               double step_size, Box box) {
  const float limit = rounded_down(radius), step = static_cast<float>(step_size);
  const float lo = nearest(static_cast<float>(box.lo), T{}), hi = nearest(static_cast<float>(box.hi), T{});
#pragma omp simd
  for (int64_t i = from; i < to; ++i) {
    const float center = load(x[i]), gradient = load(grad[i]);
    const float lower = clamp(ceil_to(lower_edge(center, limit), T{}), lo, hi);
    const float upper = clamp(floor_to(upper_edge(center, limit), T{}), lo, hi);
    const bool finite = std::fabs(gradient) < HUGE_VALF;
    const float move = !finite ? 0.0f : gradient > 0 ? step : gradient < 0 ? -step : 0.0f;
    float moved = nearest(load(x_adv[i]) + move, T{});
    moved = moved < lower ? lower : moved;  // NaN stays
    moved = moved > upper ? upper : moved;
    store(out + i, moved);
  }
}
