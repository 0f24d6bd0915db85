// l1_step: the step's length goes to the coordinates of the largest |grad|, each up to the edge of the box;
// then the projection (see l1.inl).

// The room that the box leaves all coordinates whose |grad| is at least `level`.
inline double l1_room_from(float level, const float* size, const double* ahead, int64_t cols) {
  double room = 0;
#pragma omp simd reduction(+ : room)
  for (int64_t i = 0; i < cols; ++i) room += size[i] >= level ? std::fabs(ahead[i]) : 0.0;
  return room;
}

// Add steepest ascent of length `step` to the shifts v; `size` is |grad|, `ahead` the way to the edge.
// Nothing is sorted: the bits of a float have the same order as the float, so bisection on them yields the
// level from which on every coordinate goes to its edge. Those just below it use up the rest of the step, the
// lower index first.
inline void l1_fill(double* v, const float* size, const double* ahead, int64_t cols, double step) {
  uint32_t below = 0, level = 0x7F800000;
  while (level - below > 1) {
    const uint32_t middle = below + (level - below) / 2;
    (l1_room_from(float_of(middle), size, ahead, cols) <= step ? level : below) = middle;
  }
  const float least = float_of(level), next = float_of(below);
  double left = step - l1_room_from(least, size, ahead, cols);
#pragma omp simd
  for (int64_t i = 0; i < cols; ++i) v[i] += size[i] >= least ? ahead[i] : 0.0;
  for (int64_t i = 0; below > 0 && left > 0 && i < cols; ++i) {
    if (size[i] != next) continue;
    const double taken = std::min(std::fabs(ahead[i]), left);
    v[i] += std::copysign(taken, ahead[i]);
    left -= taken;
  }
}

template <class T>
void l1_step(T* out, const T* x_adv, const T* grad, const T* x, int64_t cols, double radius, double step,
             Box box, Scratch scratch) {
  double *v = scratch.doubles, *ahead = scratch.doubles + cols;
  float* size = scratch.floats;
  const double lo = nearest(static_cast<float>(box.lo), T{}), hi = nearest(static_cast<float>(box.hi), T{});
  float check = 0;
#pragma omp simd reduction(+ : check)
  for (int64_t i = 0; i < cols; ++i) {
    const float gradient = load(grad[i]);
    const double at = load(x_adv[i]), way = gradient > 0 ? hi - at : lo - at;
    v[i] = at - load(x[i]);
    ahead[i] = (gradient > 0 ? way > 0 : gradient < 0 && way < 0) ? way : 0.0;  // 0 for a NaN too
    size[i] = std::fabs(gradient);
    check += gradient * 0.0f;  // NaN for a gradient that is not finite
  }
  if (check == 0) l1_fill(v, size, ahead, cols, step);
  l1_write(out, v, x, cols, radius, box);
}
