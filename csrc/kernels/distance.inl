// distance: the norm of x_adv - x over a row in double, and whether every coordinate of x_adv is in the box.

// The sum of term(x_adv - x). `outside` counts coordinates that are not in the box; neither bound holds for
// NaN.
template <class T, class Term>
double sum_of(const T* x_adv, const T* x, int64_t cols, float lo, float hi, int& outside, const Term& term) {
  double sum = 0;
  int out = 0;
#pragma omp simd reduction(+ : sum, out)
  for (int64_t i = 0; i < cols; ++i) {
    const float value = load(x_adv[i]);
    out += !((value >= lo) & (value <= hi));
    sum += term(static_cast<double>(value) - static_cast<double>(load(x[i])));
  }
  outside = out;
  return sum;
}

template <class T>
double largest_of(const T* x_adv, const T* x, int64_t cols, float lo, float hi, int& outside) {
  double most = 0;
  int out = 0, unknown = 0;
#pragma omp simd reduction(max : most) reduction(+ : out, unknown)
  for (int64_t i = 0; i < cols; ++i) {
    const float value = load(x_adv[i]);
    const double size = std::fabs(static_cast<double>(value) - static_cast<double>(load(x[i])));
    out += !((value >= lo) & (value <= hi));
    unknown += size != size;
    most = size > most ? size : most;
  }
  outside = out;
  return unknown ? NAN : most;
}

template <class T>
double distance(const T* x_adv, const T* x, int64_t cols, double order, Box box, bool* inside) {
  const float lo = nearest(static_cast<float>(box.lo), T{}), hi = nearest(static_cast<float>(box.hi), T{});
  int outside = 0;
  const auto sum = [&](const auto& term) { return sum_of(x_adv, x, cols, lo, hi, outside, term); };
  double length = 0;
  if (order == 2)
    length = std::sqrt(sum([](double away) { return away * away; }));
  else if (order == 1)
    length = sum([](double away) { return std::fabs(away); });
  else if (order == 0)
    length = sum([](double away) { return away != 0 ? 1.0 : 0.0; });
  else if (order == HUGE_VAL)
    length = largest_of(x_adv, x, cols, lo, hi, outside);
  else
    length = std::pow(sum([order](double away) { return std::pow(std::fabs(away), order); }), 1 / order);
  *inside = outside == 0;
  return length;
}
