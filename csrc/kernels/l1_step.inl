// l1_step: the step's length goes to the coordinates of the largest |grad|, each up to the edge of the box;
// then the projection (see l1.inl).

// Coordinates in order, with |grad| and the room ahead of each.
struct L1Steepest {
  float *size, *part;
  double *room, *index, *part_room;
  int64_t listed;
  float check;  // NaN where a gradient is not finite

  // List those of every `stride`-th run that have room and a |grad| of at least `least`.
  template <class T>
  void list(const T* x_adv, const T* grad, int64_t cols, int64_t stride, float lo, float hi, float least) {
    listed = 0;
    check = 0;
    l1_runs(cols, kL1Run, stride, kL1Stay, [&](L1Run run) {
      int any = 0;
#pragma omp simd reduction(| : any)
      for (int64_t i = run.from; i < run.to; ++i) any |= !(std::fabs(load(grad[i])) < least);  // NaN, too
      if (!any) return;
      for (int64_t i = run.from; i < run.to; ++i) {
        const float gradient = load(grad[i]);
        const double at = load(x_adv[i]);
        size[listed] = std::fabs(gradient);
        room[listed] = gradient > 0 ? hi - at : at - lo;
        index[listed] = static_cast<double>(i);
        listed += (size[listed] >= least) & (room[listed] > 0);  // neither for a NaN
        check += gradient * 0.0f;
      }
    });
  }

  // The bits from which on all that are listed fit into the step; they are listed from `least` on. Nothing is
  // sorted: the bits of a float have the same order as the float. The step loses what they take. Down from
  // the largest by factors of 2, 4, 16 ..., then bisection between.
  uint32_t level(uint32_t least, double& step) {
    std::copy_n(size, listed, part);
    std::copy_n(room, listed, part_room);
    float most = 0;
#pragma omp simd reduction(max : most)
    for (int64_t i = 0; i < listed; ++i) most = part[i] > most ? part[i] : most;
    uint32_t below = least - 1, level = std::max(bits_of(most) + 1, least), jump = 1 << 23;
    for (int64_t count = listed; level - below > 1;) {
      const bool down = below < least && jump < level - below;
      const uint32_t middle = down ? level - jump : below + (level - below) / 2;
      if (down) jump *= 2;
      const float edge = float_of(middle);
      double sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < count; ++i) sum += part[i] >= edge ? part_room[i] : 0.0;
      const bool fits = sum <= step;
      if (fits) step -= sum;
      (fits ? level : below) = middle;
      int64_t left = 0;
      for (int64_t i = 0; i < count; ++i) {
        part[left] = part[i];
        part_room[left] = part_room[i];
        left += (part[left] >= edge) != fits;
      }
      count = left;
    }
    return level;
  }
};

// Steepest ascent of length `step`; none along a gradient that is not finite.
template <class T>
L1Ascent l1_ascent(const T* x_adv, const T* grad, int64_t cols, double step, float lo, float hi,
                   Scratch scratch) {
  L1Steepest steepest{scratch.floats,
                      scratch.floats + cols,
                      scratch.doubles,
                      scratch.doubles + cols,
                      scratch.doubles + 2 * cols,
                      0,
                      0};
  double left = step * kL1Excess / kL1Sample;
  steepest.list(x_adv, grad, cols, kL1Sample, lo, hi, float_of(1));
  uint32_t least = std::max(steepest.level(1, left), 2u) - 1, level;
  for (uint32_t drop = 1 << 23;; drop *= 2) {
    steepest.list(x_adv, grad, cols, 1, lo, hi, float_of(least));
    left = step;
    level = steepest.level(least, left);
    if (level > least || least == 1) break;
    least = least > drop ? least - drop : 1;  // the guess was too high
  }
  if (steepest.check != 0) return kL1Stay;
  const float all = float_of(level), some = float_of(level - 1);
  // of those just below the level, the lower index goes first; a zero never goes
  for (int64_t i = 0; level > 1 && i < steepest.listed; ++i) {
    if (steepest.size[i] != some) continue;
    if (steepest.room[i] > left) {
      const int64_t last = static_cast<int64_t>(steepest.index[i]);
      return {some, all, last, load(grad[last]) > 0 ? left : -left};
    }
    left -= steepest.room[i];
  }
  return level > 1 ? L1Ascent{some, some, INT64_MAX, 0} : L1Ascent{all, all, INT64_MAX, 0};
}

template <class T>
void l1_step(T* out, const T* x_adv, const T* grad, const T* x, int64_t cols, double radius, double step,
             Box box, Scratch scratch) {
  const float lo = nearest(static_cast<float>(box.lo), T{}), hi = nearest(static_cast<float>(box.hi), T{});
  const L1Ascent ascent = l1_ascent(x_adv, grad, cols, step, lo, hi, scratch);
  const auto point = [=](int64_t i, float least) {
    const float at = load(x_adv[i]), gradient = load(grad[i]);
    const float edge = gradient > 0 ? (at < hi ? hi : at) : at > lo ? lo : at;
    return std::fabs(gradient) >= least ? edge : at;
  };
  l1_project(out, point, x, cols, ascent, radius, box, scratch);
}
