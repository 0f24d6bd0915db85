// The L2 step and projection: in float wherever float decides, in double (l2_exact.inl) where it does not.
//
// With v = point - x, a = v^2 and b the squared room before the edge of the box, the squared norm of the
// projected shift is F(u) = sum min(u a, b), u = t^2. F is concave, so every tangent meets radius^2 at or
// below the true u: Newton's steps never pass it, and end on it once the set of u a > b is right.

// The relative amount by which t is reduced, because float products and sums are inexact. Rounding towards x
// reduces the norm by more.
constexpr double kFloatMargin = 3e-7;

// Where the tangent to F at u meets `square`.
inline double l2_tangent(const float* v, const float* caps, int64_t cols, double square, float u) {
  const int64_t half = cols / 2;
  double rising = 0, capped = 0;
#pragma omp simd reduction(+ : rising, capped)
  for (int64_t i = 0; i < half; ++i) {  // two terms meet in float, the rest in double
    const float size = v[i] * v[i], cap = caps[i], other = v[i + half] * v[i + half],
                other_cap = caps[i + half];
    const bool met = u * size > cap, other_met = u * other > other_cap;
    const float free = met ? 0.0f : size, held = met ? cap : 0.0f, other_free = other_met ? 0.0f : other,
                other_held = other_met ? other_cap : 0.0f;
    rising += free + other_free;
    capped += held + other_held;
  }
  if (cols % 2) {
    const float size = v[cols - 1] * v[cols - 1], cap = caps[cols - 1];
    (u * size > cap ? capped : rising) += u * size > cap ? cap : size;
  }
  return (square - capped) / rising;
}

// The u with F(u) = square, starting from an upper bound of it; 0 where float arithmetic yields none.
inline double l2_solve(const float* v, const float* caps, int64_t cols, double square, double u) {
  double best = 0;
  for (int round = 0; round < 100; ++round) {
    const double met = l2_tangent(v, caps, cols, square, static_cast<float>(u));
    if (!(met > 0)) {  // too far above
      u /= 2;
      continue;
    }
    if (!std::isfinite(met) || !(met > best * (1 + 2e-7))) break;
    u = best = met;
  }
  return best;
}

// Project x_adv + scale grad; false, with nothing written, where float cannot tell on which side of the
// ball's edge the point lies.
template <class T>
bool l2_fast(T* out, const T* x_adv, const T* grad, double scale, const T* x, int64_t cols, double radius,
             Box box, float* v, float* caps) {
  const float lo = nearest(static_cast<float>(box.lo), T{}), hi = nearest(static_cast<float>(box.hi), T{}),
              rate = static_cast<float>(scale);
  const double square = radius * radius;
  if (!(square > 1e-24)) return false;  // shifts of such a length, and much longer ones, square to 0 in float
  const auto kept = [=](int64_t i) {
    const float center = load(x[i]), shift = (load(x_adv[i]) + rate * load(grad[i])) - center;
    const float room = (shift > 0 ? hi : lo) - center, size = shift * shift, cap = room * room;
    v[i] = shift;
    caps[i] = cap;
    return size < cap ? size : cap;
  };
  const int64_t half = cols / 2;
  double inside = cols % 2 ? kept(cols - 1) : 0.0f;
#pragma omp simd reduction(+ : inside)
  for (int64_t i = 0; i < half; ++i) inside += kept(i) + kept(i + half);
  if (inside <= square * (1 - 1e-6)) {
#pragma omp simd
    for (int64_t i = 0; i < cols; ++i)
      store(out + i, clamp(round_towards(load(x_adv[i]) + rate * load(grad[i]), load(x[i]), T{}), lo, hi));
    return true;
  }
  if (!(inside > square * (1 + 1e-5)) || !(inside < 1e30)) return false;
  // F(u) >= u F(1), so the true u is at most this
  const double u = l2_solve(v, caps, cols, square, square / inside);
  if (!(u > 0)) return false;
  const float t = static_cast<float>(std::sqrt(u) * (1 - kFloatMargin));
#pragma omp simd
  for (int64_t i = 0; i < cols; ++i) store(out + i, clamp(add_towards(load(x[i]), t * v[i], T{}), lo, hi));
  return true;
}

template <class T>
void l2_move(T* out, const T* x_adv, const T* grad, double scale, const T* x, int64_t cols, double radius,
             Box box, Scratch scratch) {
  // a short row costs nothing in double, and one coordinate may carry its whole norm
  const bool plain = cols >= 64 && (scale == 0 || (std::fabs(scale) > 1e-30 && std::fabs(scale) < 1e30));
  if (plain && l2_fast(out, x_adv, grad, scale, x, cols, radius, box, scratch.floats, scratch.floats + cols))
    return;
  l2_exact(out, x_adv, grad, scale, x, cols, radius, box, scratch.doubles);
}
