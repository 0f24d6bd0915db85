// The exact Euclidean projection on an L1 ball inside a box, which project_l1 and l1_step share. With v =
// point - x, w = |v| and c the room before the edge of the box, the result is x + sign(v) clamp(w - t, 0, c)
// with one threshold t >= 0. The sum of those sizes is piecewise linear in t and falls as t rises.
//
// A row is read three times, whatever the threshold: for the sum at t = 0, for what may lie above t, and to
// write. A sample of the row tells about where t is. What lies above a lower guess is listed, and t is solved
// for on the list; where the guess was too high, the row is listed again from a bound.

// What a row does before it is projected: coordinates before `last` whose |grad| is at least `least`, and
// those after it with at least `after`, go to the edge of the box; `last` goes by `rest`. NaN: none goes.
struct L1Ascent {
  float least, after;
  int64_t last;
  double rest;
};
constexpr L1Ascent kL1Stay = {NAN, NAN, INT64_MAX, 0};

// Coordinates that are looked at together: those without a candidate are done with. One run in kL1Sample is
// in the sample, of which kL1Excess times its share is asked.
constexpr int64_t kL1Run = 32, kL1Sample = 32;
constexpr double kL1Excess = 1.5;

// Coordinates [from, to): those as steep as `least` are at the edge, and all are `extra` beyond their points.
struct L1Run {
  int64_t from, to;
  float least;
  double extra;
};

template <class Body>
void l1_runs(int64_t cols, int64_t size, int64_t stride, const L1Ascent& ascent, const Body& body) {
  const auto walk = [&](int64_t from, int64_t to, float least) {
    for (; from < to; from += size * stride) body(L1Run{from, std::min(to, from + size), least, 0.0});
  };
  const int64_t last = std::min(cols, ascent.last);
  walk(0, last, ascent.least);
  if (last < cols && stride == 1) body(L1Run{last, last + 1, NAN, ascent.rest});
  walk(last + 1, cols, ascent.after);
}

inline double l1_room(double v, double center, Box box) { return v > 0 ? box.hi - center : center - box.lo; }

struct L1Piece {
  double kept;            // sum of the sizes
  double sloping, count;  // sum and number of the w that shrink as t rises
  double capped, caps;    // sum and number of the sizes that the box caps
};

inline L1Piece l1_piece(const double* w, const double* rooms, int64_t cols, double t) {
  double kept = 0, sloping = 0, count = 0, capped = 0, caps = 0;
#pragma omp simd reduction(+ : kept, sloping, count, capped, caps)
  for (int64_t i = 0; i < cols; ++i) {
    const double room = rooms[i];
    const bool positive = w[i] > t, cap = positive && w[i] - t >= room, shrinks = positive && !cap;
    kept += cap ? room : shrinks ? w[i] - t : 0.0;
    sloping += shrinks ? w[i] : 0.0;
    count += shrinks ? 1.0 : 0.0;
    capped += cap ? room : 0.0;
    caps += cap ? 1.0 : 0.0;
  }
  return {kept, sloping, count, capped, caps};
}

// The least t >= `below` that keeps no more than the radius. A Newton step solves for t as if the current
// piece were the only one, and is exact once it stays on its piece: without a box, after few. Bisection takes
// over where a step leaves the bracket.
inline double l1_solve(const double* w, const double* rooms, int64_t cols, double radius, double below) {
  L1Piece piece = l1_piece(w, rooms, cols, below);
  if (piece.kept <= radius) return below;
  double t = below, above = 0;
#pragma omp simd reduction(max : above)
  for (int64_t i = 0; i < cols; ++i) above = w[i] > above ? w[i] : above;
  for (int round = 0; round < 200; ++round) {
    const double solved = (piece.sloping + piece.capped - radius) / piece.count;
    const bool newton =
        (round < 8 || round % 3 != 2) && solved > below && solved < above;  // false where no w shrinks
    t = newton ? solved : (below + above) / 2;
    if (t <= below || t >= above) break;
    const L1Piece next = l1_piece(w, rooms, cols, t);
    if (newton && next.count == piece.count && next.caps == piece.caps)
      return next.kept <= radius ? t : std::nextafter(t + (next.kept - radius) / next.count, HUGE_VAL);
    (next.kept <= radius ? above : below) = t;
    if (next.kept == radius) break;
    piece = next;
  }
  return above;
}

// The loops over a run. Each takes values and is a function of its own, as compilers vectorize none whose
// operands they may have to load again.

// The sum of the sizes of a run at t = 0.
template <class T, class Point>
[[gnu::noinline]] double l1_kept(Point point, const T* x, L1Run run, Box box) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = run.from; i < run.to; ++i) {
    const double center = load(x[i]), v = point(i, run.least) - center + run.extra;
    const double size = std::fabs(v), room = l1_room(v, center, box);
    const double kept = size < room ? size : room;
    sum += size > 0 ? kept : 0.0;
  }
  return sum;
}

// Write |v| of a run in float, and return whether one reaches `bar`.
template <class T, class Point>
[[gnu::noinline]] bool l1_reach(Point point, const T* x, L1Run run, float bar, float* apart) {
  float most = -1;  // NaN reaches nothing
#pragma omp simd reduction(max : most)
  for (int64_t i = run.from; i < run.to; ++i) {
    const float size = std::fabs(point(i, run.least) - load(x[i]));
    apart[i - run.from] = size;
    most = size > most ? size : most;
  }
  return most >= bar;
}

// Whether a coordinate of a run has more than `bar`, or is NaN.
template <class T, class Point>
[[gnu::noinline]] bool l1_moves(Point point, const T* x, L1Run run, float bar) {
  int moves = 0;
#pragma omp simd reduction(| : moves)
  for (int64_t i = run.from; i < run.to; ++i)
    moves |= std::fabs(point(i, run.least) - load(x[i])) < bar ? 0 : 1;
  return moves;
}

// Whether a coordinate of a run is outside of [first, last], or NaN, or its center is.
template <class T, class Point>
[[gnu::noinline]] bool l1_leaves(Point point, const T* x, L1Run run, float first, float last) {
  int leaves = 0;
#pragma omp simd reduction(| : leaves)
  for (int64_t i = run.from; i < run.to; ++i) {
    const float at = point(i, run.least), apart = at - load(x[i]);
    const int low = at >= first ? 0 : 1, high = at <= last ? 0 : 1, nan = apart == apart ? 0 : 1;
    leaves |= low | high | nan;
  }
  return leaves;
}

// Write the projection of a run.
template <class T, class Point>
[[gnu::noinline]] void l1_write(T* out, Point point, const T* x, L1Run run, double t, Box box, float lo,
                                float hi) {
#pragma omp simd
  for (int64_t i = run.from; i < run.to; ++i) {
    const float center = load(x[i]);
    const double v = point(i, run.least) - static_cast<double>(center) + run.extra;
    const double past = std::fabs(v) - t, room = l1_room(v, center, box);
    const double most = past > room ? room : past, size = past < 0 ? 0.0 : most;  // NaN stays
    const double shift = (v > 0 ? size : -size) + (v - v);                        // and comes of infinity
    store(out + i, clamp(add_towards(center, shift, T{}), lo, hi));
  }
}

// List w and room of the coordinates with w > least in every `stride`-th run, and return their number.
// `point(i, least)` is a coordinate after the ascent.
template <class T, class Point>
int64_t l1_list(const Point& point, const T* x, int64_t cols, int64_t stride, const L1Ascent& ascent, Box box,
                double least, double* w, double* rooms) {
  const float bar = rounded_down(least);  // a difference above `least` rounds to `bar` or more
  int64_t listed = 0;
  l1_runs(cols, kL1Run, stride, ascent, [&](L1Run run) {
    float apart[kL1Run];
    int64_t near[kL1Run], count = 0;
    if (!l1_reach(point, x, run, bar, apart) && run.extra == 0) return;
    for (int64_t i = run.from; i < run.to; ++i) {
      near[count] = i;
      count += apart[i - run.from] >= bar || run.extra != 0;
    }
    for (int64_t k = 0; k < count; ++k) {
      const double center = load(x[near[k]]), v = point(near[k], run.least) - center + run.extra;
      w[listed] = std::fabs(v);
      rooms[listed] = l1_room(v, center, box);
      listed += w[listed] > least;
    }
  });
  return listed;
}

template <class T, class Point>
double l1_threshold(const Point& point, const T* x, int64_t cols, const L1Ascent& ascent, double radius,
                    Box box, Scratch scratch) {
  if (!(radius > 0)) return HUGE_VAL;  // NaN, too: nothing moves
  double kept = 0, *w = scratch.doubles, *rooms = w + cols;
  l1_runs(cols, cols, 1, ascent, [&](L1Run run) { kept += l1_kept(point, x, run, box); });
  if (kept <= radius * kRounding) return 0.0;
  const auto solve = [&](int64_t stride, double limit, double least) {
    const int64_t listed = l1_list(point, x, cols, stride, ascent, box, least, w, rooms);
    return l1_solve(w, rooms, listed, limit, least);
  };
  // the sum falls by no more than `cols` as t rises by 1
  const double bound = (kept - radius) / (static_cast<double>(cols) * kRounding);
  double least = solve(kL1Sample, radius * kL1Excess / kL1Sample, bound);
  for (double part = 0.75;; part *= part) {
    const double t = solve(1, radius, least);
    if (t > least || least == bound) return t;
    least = std::max(bound, least * part);  // the guess was too high
  }
}

// `out` may be the batch the points came from.
template <class T, class Point>
void l1_project(T* out, const Point& point, const T* x, int64_t cols, const L1Ascent& ascent, double radius,
                Box box, Scratch scratch) {
  const double t = l1_threshold(point, x, cols, ascent, radius, box, scratch);
  const float lo = nearest(static_cast<float>(box.lo), T{}), hi = nearest(static_cast<float>(box.hi), T{});
  const float bar = rounded_down(t);  // a difference that rounds to less is less than t
  const float first = -rounded_down(-box.lo), last = rounded_down(box.hi);
  l1_runs(cols, kL1Run, 1, ascent, [&](L1Run run) {
    const bool moves =
        run.extra != 0 || (t > 0 ? l1_moves(point, x, run, bar) : l1_leaves(point, x, run, first, last));
    if (!moves && t > 0) {
#pragma omp simd
      for (int64_t i = run.from; i < run.to; ++i) store(out + i, clamp(load(x[i]), lo, hi));
      return;
    }
    if (!moves) {
#pragma omp simd
      for (int64_t i = run.from; i < run.to; ++i) store(out + i, point(i, run.least));
      return;
    }
    l1_write(out, point, x, run, t, box, lo, hi);
  });
}
