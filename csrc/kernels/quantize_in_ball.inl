// Rounding to the grid lo + k (hi - lo) / levels without leaving the ball. The mathematics is on the op's
// page.

template <class T>
float grid_value(Grid grid, double level, T) {
  return nearest(static_cast<float>(grid.box.lo + (grid.box.hi - grid.box.lo) * (level / grid.levels)), T{});
}
inline double grid_place(Grid grid, double value) {
  return clamp((value - grid.box.lo) / (grid.box.hi - grid.box.lo) * grid.levels, 0.0, grid.levels);
}

template <class T>
void quantize_linf(T* out, const T* x_adv, const T* x, int64_t cols, double radius, Grid grid) {
#pragma omp simd
  for (int64_t i = 0; i < cols; ++i) {
    const double center = load(x[i]), place = grid_place(grid, load(x_adv[i]));
    const double nearest_level = clamp(std::floor(place + 0.5), 0.0, grid.levels);
    double best = nearest_level, least = HUGE_VAL;
    for (int turn = 0; turn < 3; ++turn) {  // the nearest grid point, then the one below and the one above
      const double level = clamp(nearest_level + (turn == 0 ? 0 : 2 * turn - 3), 0.0, grid.levels),
                   misfit = std::fabs(level - place);
      const bool better = std::fabs(grid_value(grid, level, T{}) - center) <= radius && misfit < least;
      best = better ? level : best;
      least = better ? misfit : least;
    }
    store(out + i, grid_value(grid, best, T{}));
  }
}

// One coordinate between its grid points: `inner` towards x, `outer` away from it, at `fraction` of the way.
struct Between {
  double inner, outer, fraction;
};
inline Between grid_between(Grid grid, double value, double center) {
  const double place = grid_place(grid, value), below = std::floor(place), above = std::ceil(place);
  const bool outward = value >= center;
  const double inner = outward ? below : above;
  return {inner, outward ? above : below, std::fabs(place - inner)};
}

inline double norm_share(Norm norm, double shift) {
  return norm == Norm::l2 ? shift * shift : norm == Norm::l1 ? std::fabs(shift) : shift != 0 ? 1.0 : 0.0;
}

template <class T>
void quantize_in_ball(T* out, const T* x_adv, const T* x, int64_t cols, Norm norm, double radius, Grid grid,
                      Scratch scratch) {
  if (norm == Norm::linf) return quantize_linf(out, x_adv, x, cols, radius, grid);
  double *inner = scratch.doubles, *outer = inner + cols, *fraction = outer + cols;
#pragma omp simd
  for (int64_t i = 0; i < cols; ++i) {
    const double center = load(x[i]);
    const Between between = grid_between(grid, load(x_adv[i]), center);
    inner[i] = norm_share(norm, grid_value(grid, between.inner, T{}) - center);
    outer[i] = norm_share(norm, grid_value(grid, between.outer, T{}) - center);
    fraction[i] = between.fraction;
  }
  constexpr int64_t kThresholds = 4096;
  const auto threshold = [](int64_t step) { return 0.5 + static_cast<double>(step) / (2 * kThresholds - 2); };
  int64_t low = 0, high = kThresholds;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    const double from = threshold(middle);
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < cols; ++i) sum += fraction[i] >= from ? outer[i] : inner[i];
    if ((norm == Norm::l2 ? std::sqrt(sum) : sum) <= radius)
      high = middle;
    else
      low = middle + 1;
  }
  const double from = threshold(low);
#pragma omp simd
  for (int64_t i = 0; i < cols; ++i) {
    const Between between = grid_between(grid, load(x_adv[i]), load(x[i]));
    store(out + i, grid_value(grid, between.fraction >= from ? between.outer : between.inner, T{}));
  }
}
