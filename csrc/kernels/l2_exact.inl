// Rows that the float path of l2.inl cannot settle, in double.
//
// The exact Euclidean projection on an L2 ball inside a box. With v = point - x the result is x + clamp(t v,
// lo - x, hi - x) for one t in (0, 1]; the norm of that shift rises with t. Starting from t =
// radius / |v|, solve for t as if no further coordinate met the box: each such t is at most the true one, and
// each round adds a clamped coordinate or ends.

struct L2Sums {
  double free, clamped;  // sum of v^2 where the box is not met, of the squared clamped shift where it is
};

template <class T>
L2Sums l2_sums(const double* v, const T* x, int64_t cols, double t, Box box) {
  double free = 0, clamped = 0;
#pragma omp simd reduction(+ : free, clamped)
  for (int64_t i = 0; i < cols; ++i) {
    const double center = load(x[i]), wanted = t * v[i];
    const double given = clamp(wanted, box.lo - center, box.hi - center);
    const bool met = given != wanted;
    free += met ? 0.0 : v[i] * v[i];
    clamped += met ? given * given : 0.0;
  }
  return {free, clamped};
}

template <class T>
double l2_scale(const double* v, const T* x, int64_t cols, double radius, Box box) {
  const double square = radius * radius;
  L2Sums sums = l2_sums(v, x, cols, 1.0, box);
  if (sums.free + sums.clamped <= square * kRounding) return 1.0;
  double norm = 0;
#pragma omp simd reduction(+ : norm)
  for (int64_t i = 0; i < cols; ++i) norm += v[i] * v[i];
  double t = std::sqrt(square / norm);
  for (int64_t round = 0; round <= cols; ++round) {
    sums = l2_sums(v, x, cols, t, box);
    const double grown = std::sqrt((square > sums.clamped ? square - sums.clamped : 0.0) / sums.free);
    if (!(grown > t * (1 + 1e-15)) || !std::isfinite(grown)) break;
    t = grown;
  }
  return t;
}

// `out` may be the batch the shifts came from.
template <class T>
void l2_write(T* out, const double* v, const T* x, int64_t cols, double radius, Box box) {
  const double t = l2_scale(v, x, cols, radius, box);
  const float lo = nearest(static_cast<float>(box.lo), T{}), hi = nearest(static_cast<float>(box.hi), T{});
#pragma omp simd
  for (int64_t i = 0; i < cols; ++i) {
    const float center = load(x[i]);
    const double shift = clamp(t * v[i], box.lo - center, box.hi - center);
    store(out + i, clamp(add_towards(center, shift, T{}), lo, hi));
  }
}

// Project x_adv + scale grad.
template <class T>
void l2_exact(T* out, const T* x_adv, const T* grad, double scale, const T* x, int64_t cols, double radius,
              Box box, double* v) {
#pragma omp simd
  for (int64_t i = 0; i < cols; ++i)
    v[i] = load(x_adv[i]) + (scale != 0 ? scale * load(grad[i]) : 0.0) - load(x[i]);
  l2_write(out, v, x, cols, radius, box);
}
