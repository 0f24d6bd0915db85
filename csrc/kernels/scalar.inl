// Element conversions and the rounding that keeps a point inside its ball. Compiled once for each instruction
// set.

// Double sums taken in another order differ by this much; a point that exceeds the radius by no more is
// inside and stays where it is.
constexpr double kRounding = 1 + 1e-13;

inline float load(float value) { return value; }
inline float load(bf16 value) {
  const uint32_t bits = uint32_t{value.bits} << 16;
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}

inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}
inline float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// Round to nearest even; NaN stays NaN.
inline void store(float* out, float value) { *out = value; }
inline void store(bf16* out, float value) {
  const uint32_t bits = bits_of(value);
  const uint32_t near = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  out->bits = static_cast<uint16_t>(value == value ? near : (bits >> 16) | 0x40);
}

// The element type's value nearest to a float, as a float.
inline float nearest(float value, float) { return value; }
inline float nearest(float value, bf16) {
  const uint32_t bits = bits_of(value);
  return value == value ? float_of((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000u) : value;
}

// The largest element-type value <= a float, and the smallest >= it.
inline float floor_to(float value, float) { return value; }
inline float ceil_to(float value, float) { return value; }
inline float floor_to(float value, bf16) {
  const uint32_t bits = bits_of(value);
  return float_of((value < 0 ? bits + 0xFFFF : bits) & 0xFFFF0000u);
}
inline float ceil_to(float value, bf16) {
  const uint32_t bits = bits_of(value);
  return float_of((value > 0 ? bits + 0xFFFF : bits) & 0xFFFF0000u);
}

// The float next to `value`, which is not zero: a sum of two floats that rounds to zero is exact.
inline float neighbor(float value, bool down) {
  return float_of(bits_of(value) + ((value > 0) == down ? -1 : 1));
}

// The largest float <= x + radius, and the smallest >= x - radius, for radius >= 0. Knuth's two-sum gives the
// rounding error exactly.
inline float upper_edge(float x, float radius) {
  const float sum = x + radius, part = sum - x;
  const float error = (x - (sum - part)) + (radius - part);
  return error < 0 ? neighbor(sum, true) : sum;
}
inline float lower_edge(float x, float radius) {
  const float sum = x - radius, part = sum - x;
  const float error = (x - (sum - part)) + (-radius - part);
  return error > 0 ? neighbor(sum, false) : sum;
}

// x + shift rounded towards x, so that |result - x| <= |shift|. Beside a subnormal x the sum may round to
// zero without being zero.
inline float add_towards(float x, double shift, float) {
  const float near = static_cast<float>(x + shift);
  const bool over = std::fabs(static_cast<double>(near) - x) > std::fabs(shift);
  const float inner = near == 0 ? std::copysign(0x1p-149f, x) : neighbor(near, shift > 0);
  return over ? inner : near;
}
inline float add_towards(float x, double shift, bf16) {
  const float near = add_towards(x, shift, float{});
  return shift > 0 ? floor_to(near, bf16{}) : ceil_to(near, bf16{});
}

// The same for a float shift: two-sum tells on which side of x + shift the nearest float lies.
inline float add_towards(float x, float shift, float) {
  const float sum = x + shift, part = sum - x;
  const float error = (x - (sum - part)) + (shift - part);
  return (shift > 0 ? error < 0 : error > 0) ? neighbor(sum, shift > 0) : sum;
}
inline float add_towards(float x, float shift, bf16) {
  const float near = add_towards(x, shift, float{});
  return shift > 0 ? floor_to(near, bf16{}) : ceil_to(near, bf16{});
}

// A value rounded to the element type, towards x where that type is narrower.
inline float round_towards(float value, float, float) { return value; }
inline float round_towards(float value, float x, bf16) {
  return value > x ? floor_to(value, bf16{}) : ceil_to(value, bf16{});
}

// NaN stays. In two steps, which vectorize as a maximum and a minimum.
template <class Real>
Real clamp(Real value, Real lo, Real hi) {
  const Real raised = value < lo ? lo : value;
  return raised > hi ? hi : raised;
}

// A radius as the largest float that does not exceed it.
inline float rounded_down(double value) {
  const float near = static_cast<float>(value);
  return near > value ? neighbor(near, true) : near;
}
