// The `count` largest of non-negative numbers, the lower index first among equals. Nothing is sorted: the
// bits of a double have the same order as the double, so bisection on them yields a number between the last
// to keep and the next, or the last itself where others equal it.

struct Selection {
  double above;  // everything larger is kept,
  int64_t ties;  // and this many of those equal to it, lowest index first
};

inline double double_of(uint64_t bits) {
  double value;
  std::memcpy(&value, &bits, 8);
  return value;
}

// Infinity may be among the numbers, NaN may not.
inline Selection select_largest(const double* size, int64_t cols, double count) {
  if (!(count < static_cast<double>(cols))) return {-1.0, 0};
  const auto at_least = [&](double value) {
    int64_t number = 0;
#pragma omp simd reduction(+ : number)
    for (int64_t i = 0; i < cols; ++i) number += size[i] >= value ? 1 : 0;
    return number;
  };
  const int64_t wanted = static_cast<int64_t>(count);  // rounds down
  if (wanted == 0) return {HUGE_VAL, 0};
  double most = 0;
#pragma omp simd reduction(max : most)
  for (int64_t i = 0; i < cols; ++i) most = size[i] > most ? size[i] : most;
  // at least `wanted` numbers are >= low, fewer are >= high. The least of them is seldom much smaller than
  // the largest: down from there by a factor of 2, 4, 16 ..., then bisection between.
  uint64_t low = 0, high, step = uint64_t{1} << 52;
  std::memcpy(&high, &most, 8);
  ++high;
  while (high - low > 1) {
    const bool down = low == 0 && step < high;
    const uint64_t middle = down ? high - step : low + (high - low) / 2;
    if (down) step *= 2;
    const int64_t number = at_least(double_of(middle));
    if (number == wanted) return {double_of(middle - 1), 0};
    (number > wanted ? low : high) = middle;
  }
  const double least = double_of(low);
  return {least, wanted - (low == 0x7FF0000000000000 ? 0 : at_least(double_of(low + 1)))};
}

// Call body(i, kept) for each index in order.
template <class Body>
void for_selected(const double* size, int64_t cols, Selection selection, const Body& body) {
  if (selection.ties == 0) {
#pragma omp simd
    for (int64_t i = 0; i < cols; ++i) body(i, size[i] > selection.above);
    return;
  }
  int64_t ties = selection.ties;
  for (int64_t i = 0; i < cols; ++i)
    body(i, size[i] > selection.above || (size[i] == selection.above && ties-- > 0));
}
