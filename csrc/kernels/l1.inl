// The exact Euclidean projection on an L1 ball inside a box, which project_l1 and l1_step share. With v =
// point - x, w = |v| and c the room before the edge of the box, the result is x + sign(v) clamp(w - t, 0, c)
// with one threshold t >= 0. The sum of those sizes is piecewise linear in t and falls as t rises. A Newton
// step solves for t as if the current piece were the only one, and is exact once it stays on its piece.
// Bisection takes over where a step leaves the bracket.

struct L1Piece {
  double kept;            // sum of the sizes
  double sloping, count;  // sum and number of the w that shrink as t rises
  double capped, caps;    // sum and number of the sizes that the box caps
};

inline double l1_room(double v, double center, Box box) { return v > 0 ? box.hi - center : center - box.lo; }

template <class T>
L1Piece l1_piece(const double* v, const T* x, int64_t cols, double t, Box box) {
  double kept = 0, sloping = 0, count = 0, capped = 0, caps = 0;
#pragma omp simd reduction(+ : kept, sloping, count, capped, caps)
  for (int64_t i = 0; i < cols; ++i) {
    const double w = std::fabs(v[i]), room = l1_room(v[i], load(x[i]), box);
    const bool positive = w > t, cap = positive && w - t >= room, shrinks = positive && !cap;
    kept += cap ? room : shrinks ? w - t : 0.0;
    sloping += shrinks ? w : 0.0;
    count += shrinks ? 1.0 : 0.0;
    capped += cap ? room : 0.0;
    caps += cap ? 1.0 : 0.0;
  }
  return {kept, sloping, count, capped, caps};
}

template <class T>
double l1_threshold(const double* v, const T* x, int64_t cols, double radius, Box box) {
  L1Piece piece = l1_piece(v, x, cols, 0.0, box);
  if (piece.kept <= radius * kRounding) return 0.0;
  double t = 0, below = 0, above = 0;
#pragma omp simd reduction(max : above)
  for (int64_t i = 0; i < cols; ++i) above = std::fabs(v[i]) > above ? std::fabs(v[i]) : above;
  if (radius == 0) return above;
  for (int round = 0; round < 200; ++round) {
    const double solved = (piece.sloping + piece.capped - radius) / piece.count;
    const bool newton = round % 3 != 2 && solved > below && solved < above;  // false where no w shrinks
    t = newton ? solved : (below + above) / 2;
    if (t <= below || t >= above) break;
    const L1Piece next = l1_piece(v, x, cols, t, box);
    if (newton && next.count == piece.count && next.caps == piece.caps)
      return next.kept <= radius ? t : std::nextafter(t + (next.kept - radius) / next.count, HUGE_VAL);
    (next.kept <= radius ? above : below) = t;
    if (next.kept == radius) break;
    piece = next;
  }
  return above;
}

// `out` may be the batch the shifts came from.
template <class T>
void l1_write(T* out, const double* v, const T* x, int64_t cols, double radius, Box box) {
  const double t = l1_threshold(v, x, cols, radius, box);
  const float lo = nearest(static_cast<float>(box.lo), T{}), hi = nearest(static_cast<float>(box.hi), T{});
#pragma omp simd
  for (int64_t i = 0; i < cols; ++i) {
    const float center = load(x[i]);
    const double past = std::fabs(v[i]) - t, room = l1_room(v[i], center, box);
    const double size = past < 0 ? 0.0 : past > room ? room : past;  // NaN stays
    store(out + i, clamp(add_towards(center, v[i] > 0 ? size : -size, T{}), lo, hi));
  }
}
