// Losses on logits with their gradients, a row at a time in float. `z` holds the row's logits and ends as its
// gradient.

// exp(x) for x <= 0 to about one ulp (range reduction by ln 2 in two parts, then the exponential series); 0
// below the smallest normal float.
inline float exp_negative(float x) {
  const float bounded = x < -87.0f ? -87.0f : x;
  const float shifted =
      bounded * 1.44269504f + 12582912.0f;  // 1.5 * 2^23 leaves the nearest integer in the low bits
  const float count = shifted - 12582912.0f;
  const float r = (bounded - count * 0.693359375f) + count * 2.12194440e-4f;
  const float series =
      1 + r * (1 + r * (0.5f + r * (1.0f / 6 + r * (1.0f / 24 + r * (1.0f / 120 + r * (1.0f / 720))))));
  return x < -87.0f ? 0.0f : series * float_of((bits_of(shifted) << 23) + 0x3F800000u);
}

// z <- exp((z - the largest) / unit), the unit 1 unless `scaled`; returns the sum.
template <bool scaled = false>
float exponentiate(float* z, int64_t classes, float& top, float unit = 1) {
  float largest = -HUGE_VALF, sum = 0;
#pragma omp simd reduction(max : largest)
  for (int64_t k = 0; k < classes; ++k) largest = z[k] > largest ? z[k] : largest;
#pragma omp simd reduction(+ : sum)
  for (int64_t k = 0; k < classes; ++k) {
    z[k] = exp_negative(scaled ? (z[k] - largest) / unit : z[k] - largest);
    sum += z[k];
  }
  top = largest;
  return sum;
}

// log(sum of the others' exponentials) - z[label] is the gap; the loss is log(1 + exp(gap)), whose digits
// survive where the label is almost sure. With `scaled`, of the logits over their unit.
template <bool scaled>
double ce_row(float* z, int64_t classes, int64_t label, bool direction, float unit = 1) {
  const double own = z[label];
  z[label] = -HUGE_VALF;
  float top;
  const float sum = exponentiate<scaled>(z, classes, top, unit);
  const double others = std::log(static_cast<double>(sum)),
               gap = scaled ? others + (top - own) / unit : top + others - own;
  float wrong = direction ? 1.0f : static_cast<float>(1 / (1 + std::exp(-gap)));
  if (scaled && !direction) wrong /= unit;
  const float scale = wrong / sum;
#pragma omp simd
  for (int64_t k = 0; k < classes; ++k) z[k] *= scale;
  z[label] = -wrong;
  return gap > 50 ? gap : std::log1p(std::exp(gap));
}

// What dlr and ce_sharp divide by at least, and the range of what decides that ce_sharp takes as it is.
constexpr float kLeast = 1e-30f, kRange = 4;

// The lowest index of the largest logit other than `label`.
inline int64_t rival_of(const float* z, int64_t classes, int64_t label) {
  int64_t best = label == 0;
  for (int64_t k = best + 1; k < classes; ++k) best = k != label && z[k] > z[best] ? k : best;
  return best;
}

inline void clear(float* z, int64_t classes) {
  for (int64_t k = 0; k < classes; ++k) z[k] = 0;
}

inline double margin_row(float* z, int64_t classes, int64_t label) {
  const int64_t rival = rival_of(z, classes, label);
  const float loss = z[rival] - z[label];
  clear(z, classes);
  z[rival] += 1;
  z[label] -= 1;
  return loss;
}

// Indices of the four largest logits in order, the lower index first among equals. Where there are fewer, the
// last one is repeated.
struct Order {
  int64_t at[4];
};
inline Order largest_four(const float* z, int64_t classes) {
  Order order{};
  int64_t filled = 0;
  for (int64_t k = 0; k < classes; ++k) {
    int64_t place = filled < 4 ? filled++ : 4;
    for (; place > 0 && z[k] > z[order.at[place - 1]]; --place)
      if (place < 4) order.at[place] = order.at[place - 1];
    if (place < 4) order.at[place] = k;
  }
  for (; filled < 4; ++filled) order.at[filled] = order.at[filled - 1];
  return order;
}

// By what ce_sharp divides the logits: see ops/logit_loss.py.
inline float sharp_unit_of(const float* z, int64_t classes, int64_t aim) {
  const Order order = largest_four(z, classes);
  return std::clamp((z[order.at[0]] - std::min(z[order.at[2]], z[aim])) / kRange, kLeast, 1.0f);
}

// For three classes or more; `target` < 0 where none is given.
inline double dlr_row(float* z, int64_t classes, int64_t label, int64_t target) {
  const Order order = largest_four(z, classes);
  const int64_t above = target < 0 ? rival_of(z, classes, label) : target, third = order.at[2],
                fourth = target < 0 ? third : order.at[3];
  const float wide = z[order.at[0]] - 0.5f * (z[third] + z[fourth]), width = wide > kLeast ? wide : kLeast;
  const float loss = (z[above] - z[label]) / width;
  clear(z, classes);
  z[above] += 1;
  z[label] -= 1;
  z[order.at[0]] -= loss;
  z[third] += 0.5f * loss;
  z[fourth] += 0.5f * loss;
#pragma omp simd
  for (int64_t k = 0; k < classes; ++k) z[k] /= width;
  return loss;
}

// ce_sharp. Apart, so that the code of the others stays as short as it is.
[[gnu::noinline]] inline float sharp_row(float* z, int64_t classes, int64_t label, int64_t target,
                                         bool direction) {
  const int64_t aim = target < 0 ? label : target;
  const double loss = classes == 2 ? margin_row(z, classes, aim)
                                   : ce_row<true>(z, classes, aim, direction, sharp_unit_of(z, classes, aim));
  if (target < 0) return static_cast<float>(loss);
  for (int64_t k = 0; k < classes; ++k) z[k] = -z[k];
  return static_cast<float>(-loss);
}

inline float loss_row(float* z, int64_t classes, LossKind kind, int64_t label, int64_t target,
                      bool direction) {
  if (kind == LossKind::ce_sharp) return sharp_row(z, classes, label, target, direction);
  const bool ratio = kind == LossKind::dlr && classes > 2;
  if (ratio) return static_cast<float>(dlr_row(z, classes, label, target));
  const int64_t aim = target < 0 ? label : target;
  double loss =
      kind == LossKind::ce ? ce_row<false>(z, classes, aim, direction) : margin_row(z, classes, aim);
  float sign = target < 0 ? 1.0f : -1.0f;
  loss *= sign;
  if (kind == LossKind::cw && !(loss < 0)) loss = sign = 0;
  if (sign != 1) {
#pragma omp simd
    for (int64_t k = 0; k < classes; ++k) z[k] *= sign;
  }
  return static_cast<float>(loss);
}

template <class T>
void logit_loss(T* grad, float* loss, const T* logits, int64_t classes, LossKind kind, int64_t label,
                int64_t target, bool direction, float* z) {
  float check = 0;
#pragma omp simd reduction(+ : check)
  for (int64_t k = 0; k < classes; ++k) {
    z[k] = load(logits[k]);
    check += z[k] * 0.0f;  // NaN for a logit that is not finite
  }
  const bool finite = check == 0;
  *loss = finite ? loss_row(z, classes, kind, label, target, direction) : NAN;
#pragma omp simd
  for (int64_t k = 0; k < classes; ++k) store(grad + k, finite ? z[k] : NAN);
}
