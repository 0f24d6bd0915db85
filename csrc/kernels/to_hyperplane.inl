// to_hyperplane: the least displacement to a hyperplane, in the box. The mathematics is on the op's page.

// The t at which sum size min(t pace, room) = wanted, with pace = size, or 1 for Linf.
template <bool IsLinf>
double hyperplane_level(const double* size, const double* room, int64_t cols, double wanted) {
  double level = 0;
  for (int64_t round = 0; round <= cols; ++round) {
    double rate = 0, held = 0;
#pragma omp simd reduction(+ : rate, held)
    for (int64_t i = 0; i < cols; ++i) {
      const double pace = IsLinf ? 1.0 : size[i];
      const bool free = pace * level < room[i];
      rate += free ? size[i] * pace : 0.0;
      held += free ? 0.0 : size[i] * room[i];
    }
    const double higher = (wanted - held) / rate;
    if (!(higher > level) || !(rate > 0)) break;
    level = std::min(higher, std::numeric_limits<double>::max());
  }
  return level;
}

// The size of which coordinates are used up in part, and how much of `wanted` is left for them: those of
// larger size are used up, those of smaller size stay.
struct Greedy {
  float cut;
  double left;
};
inline Greedy hyperplane_greedy(const float* size, const double* room, int64_t cols, double wanted) {
  const auto gain = [&](float least) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < cols; ++i) sum += size[i] >= least ? static_cast<double>(size[i]) * room[i] : 0.0;
    return sum;
  };
  // floats >= 0 are in the order of their bits: the largest size that gains enough
  uint32_t low = 1, high = 0x7F800000;
  while (high - low > 1) {
    const uint32_t middle = low + (high - low) / 2;
    (gain(float_of(middle)) >= wanted ? low : high) = middle;
  }
  return {float_of(low), wanted - gain(float_of(high))};
}

template <class T>
void to_hyperplane(T* out, const T* points, const T* normal, int64_t cols, double lack, Norm norm, Box box,
                   Scratch scratch) {
  double *size = scratch.doubles, *room = size + cols;
  float* weight = scratch.floats;
  const bool falls = lack < 0;
  const float sign = falls ? -1.0f : 1.0f;
  float check = 0;
#pragma omp simd reduction(+ : check)
  for (int64_t i = 0; i < cols; ++i) {
    const float steep = sign * load(normal[i]), point = load(points[i]);
    check += steep * 0.0f;  // NaN for one that is not finite
    weight[i] = std::fabs(steep);
    size[i] = weight[i];
    const double way = steep > 0 ? box.hi - point : point - box.lo;
    room[i] = steep != 0 && way > 0 ? way : 0.0;
  }
  const double wanted = std::fabs(lack);
  if (!std::isfinite(lack) || check != 0) {
    for (int64_t i = 0; i < cols; ++i) store(out + i, 0.0f);
    return;
  }
  const auto write = [&](int64_t i, double length) {
    const bool down = (load(normal[i]) < 0) != falls;
    store(out + i, static_cast<float>(down ? -length : length));
  };
  if (norm == Norm::l1) {
    Greedy greedy = hyperplane_greedy(weight, room, cols, wanted);
    for (int64_t i = 0; i < cols; ++i) {
      double length = weight[i] > greedy.cut ? room[i] : 0.0;
      if (weight[i] == greedy.cut) {
        length = std::min(std::max(greedy.left, 0.0) / size[i], room[i]);
        greedy.left -= size[i] * room[i];
      }
      write(i, length);
    }
    return;
  }
  const bool is_linf = norm == Norm::linf;
  const double level = is_linf ? hyperplane_level<true>(size, room, cols, wanted)
                               : hyperplane_level<false>(size, room, cols, wanted);
#pragma omp simd
  for (int64_t i = 0; i < cols; ++i) {
    const double reach = is_linf ? level : size[i] * level, length = reach < room[i] ? reach : room[i];
    const bool down = (load(normal[i]) < 0) != falls;
    store(out + i, static_cast<float>(down ? -length : length));
  }
}
