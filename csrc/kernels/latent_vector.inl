// Vectors as wide as the instruction set's registers, in the GNU notation that gcc and clang share on every
// processor.

#ifndef FASTADV_LANES
#define FASTADV_LANES 4  // SSE2, NEON
#endif
constexpr int kLanes = FASTADV_LANES;
#if FASTADV_LANES == 16 || defined(__aarch64__)
constexpr int kRegisters = 32;
#else
constexpr int kRegisters = 16;
#endif

#define FASTADV_INLINE inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(kLanes * 4)));
typedef int32_t ivec __attribute__((vector_size(kLanes * 4)));
typedef uint16_t halves __attribute__((vector_size(kLanes * 2)));

FASTADV_INLINE vec splat(float value) { return value - vec{}; }
FASTADV_INLINE vec load_vec(const float* from) {
  vec value;
  std::memcpy(&value, from, sizeof value);
  return value;
}
FASTADV_INLINE vec load_vec(const bf16* from) {
  halves bits;
  std::memcpy(&bits, from, sizeof bits);
  return (vec)(__builtin_convertvector(bits, ivec) << 16);
}
// The value, which is loaded once: compilers load it at each use otherwise, twice as slowly where it crosses
// a cache line.
FASTADV_INLINE vec in_register(vec value) {
#if FASTADV_LANES == 16
  asm("" : "+v"(value));
#elif defined(FASTADV_X86)
  asm("" : "+x"(value));
#elif defined(__aarch64__)
  asm("" : "+w"(value));
#endif
  return value;
}
FASTADV_INLINE void store_vec(float* to, vec value) { std::memcpy(to, &value, sizeof value); }

// a * b + c in one rounding where the set has it. The build forbids the compiler to contract, so this says
// it. Where an operand is NaN, smaller and larger return `second`: a NaN stays visible. not_above has a bit
// for each lane where a > b does not hold.
#if FASTADV_LANES == 16
FASTADV_INLINE vec fma(vec a, vec b, vec c) { return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
FASTADV_INLINE uint32_t not_above(vec a, vec b) {
  return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_NGT_UQ);
}
FASTADV_INLINE vec smaller(vec first, vec second) {
  return (vec)_mm512_mask_min_ps((__m512)first, 0xFFFF, (__m512)first, (__m512)second);
}
FASTADV_INLINE vec larger(vec first, vec second) {
  return (vec)_mm512_mask_max_ps((__m512)first, 0xFFFF, (__m512)first, (__m512)second);
}
#elif FASTADV_LANES == 8
FASTADV_INLINE vec fma(vec a, vec b, vec c) { return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
FASTADV_INLINE uint32_t not_above(vec a, vec b) {
  return _mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_NGT_UQ));
}
FASTADV_INLINE vec smaller(vec first, vec second) {
  return (vec)_mm256_min_ps((__m256)first, (__m256)second);
}
FASTADV_INLINE vec larger(vec first, vec second) { return (vec)_mm256_max_ps((__m256)first, (__m256)second); }
#else
FASTADV_INLINE vec fma(vec a, vec b, vec c) { return a * b + c; }
FASTADV_INLINE uint32_t not_above(vec a, vec b) {
  uint32_t lanes = 0;
  for (int i = 0; i < kLanes; ++i) lanes |= static_cast<uint32_t>(!(a[i] > b[i])) << i;
  return lanes;
}
FASTADV_INLINE vec smaller(vec first, vec second) { return first < second ? first : second; }
FASTADV_INLINE vec larger(vec first, vec second) { return first > second ? first : second; }
#endif

// body(0), ..., body(N - 1) with constant arguments, so that arrays indexed by them live in registers.
template <class Body, int... I>
FASTADV_INLINE void unroll(std::integer_sequence<int, I...>, const Body& body) {
  (body(std::integral_constant<int, I>{}), ...);
}
template <int N, class Body>
FASTADV_INLINE void unroll(const Body& body) {
  unroll(std::make_integer_sequence<int, N>{}, body);
}

// Lane `lane` of a shuffle of a and b (whose lanes follow a's). The first two rounds pick every second float
// of each quarter of 4, the later ones every second quarter: shuffles that need no index register.
constexpr int picked(int round, int odd, int lane) {
  if (round < 2) return (lane & ~3) + 2 * (lane & 1) + odd + (lane & 2 ? kLanes : 0);
  return 4 * (2 * (lane / 4) + odd) + (lane & 3);
}
template <int Round, int Odd, int... I>
FASTADV_INLINE vec pick(vec a, vec b, std::integer_sequence<int, I...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, picked(Round, Odd, I)...);
#else
  return __builtin_shuffle(a, b, ivec{picked(Round, Odd, I)...});
#endif
}
template <int Round, int Odd>
FASTADV_INLINE vec pick(vec a, vec b) {
  return pick<Round, Odd>(a, b, std::make_integer_sequence<int, kLanes>{});
}

// Add up the lanes of kLanes vectors, Rounds times halving both their number and the lanes behind each sum.
template <int Round, int Rounds>
FASTADV_INLINE void halve(vec* parts) {
  if constexpr (Round < Rounds) {
    unroll<(kLanes >> (Round + 1))>([&](auto i) __attribute__((always_inline)) {
      parts[i] =
          pick<Round, 0>(parts[2 * i], parts[2 * i + 1]) + pick<Round, 1>(parts[2 * i], parts[2 * i + 1]);
    });
    halve<Round + 1, Rounds>(parts);
  }
}
constexpr int kRounds = kLanes == 16 ? 4 : kLanes == 8 ? 3 : 2;

// The lower (Upper 0) or upper half of a's lanes, each followed by that of b.
template <int Upper, int... I>
FASTADV_INLINE vec zipped(vec a, vec b, std::integer_sequence<int, I...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, (Upper * kLanes / 2 + I / 2 + (I & 1) * kLanes)...);
#else
  return __builtin_shuffle(a, b, ivec{(Upper * kLanes / 2 + I / 2 + (I & 1) * kLanes)...});
#endif
}

// Let lane j of vector i be lane i of vector j, for kLanes vectors.
FASTADV_INLINE void transpose(vec* block) {
  constexpr auto lanes = std::make_integer_sequence<int, kLanes>{};
  unroll<kRounds>([&](auto) __attribute__((always_inline)) {
    vec zips[kLanes];
    unroll<kLanes / 2>([&](auto i) __attribute__((always_inline)) {
      zips[2 * i] = zipped<0>(block[i], block[i + kLanes / 2], lanes);
      zips[2 * i + 1] = zipped<1>(block[i], block[i + kLanes / 2], lanes);
    });
    unroll<kLanes>([&](auto i) __attribute__((always_inline)) { block[i] = zips[i]; });
  });
}

FASTADV_INLINE float sum(vec value) {
  float total = 0;
  for (int i = 0; i < kLanes; ++i) total += value[i];
  return total;
}

// e^x = scale * (1 + part) for x in [-87, 0], with scale = 2^n, n the integer nearest x / ln 2, and part =
// expm1(x - n ln 2) by a polynomial that is minimax in relative error on [-ln 2 / 2, ln 2 / 2]: 1.7e-8,
// or 2.1e-5 where the result is rounded to bfloat16 anyway. One constant for ln 2 is enough: its error
// is at most e^x times 2e-9 n.
struct Exponential {
  vec scale, part;
};
template <bool kRough = false>
FASTADV_INLINE Exponential exponential(vec x) {
  const vec shifted =
      fma(x, splat(1.44269504f), splat(12582912.0f + 127.0f));  // n + 127 in the low bits of the mantissa
  const vec n = shifted - splat(12582912.0f + 127.0f);
  const vec r = fma(n, splat(-0.693147181f), x);
  vec tail;
  if constexpr (kRough) {
    tail = fma(fma(splat(4.16099578e-2f), r, splat(1.67497113e-1f)), r, splat(0.500016571f));
  } else {
    tail = fma(splat(1.38825248e-3f), r, splat(8.36654752e-3f));
    tail = fma(tail, r, splat(4.16672006e-2f));
    tail = fma(tail, r, splat(1.66665435e-1f));
    tail = fma(tail, r, splat(0.49999997f));
  }
  ivec bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits <<= 23;
  Exponential result;
  std::memcpy(&result.scale, &bits, sizeof bits);
  result.part = fma(r * r, tail, r);
  return result;
}

// x where x > 0, e^x - 1 elsewhere.
template <bool kRough>
FASTADV_INLINE vec elu(vec x) {
  const Exponential e = exponential<kRough>(larger(splat(-87.0f), x));  // unused where x > 0
  return x > vec{} ? x : fma(e.scale, e.part, e.scale - splat(1.0f));
}

// 1 / (1 + e^-x), through e^-|x| so that nothing overflows.
FASTADV_INLINE vec sigmoid(vec x) {
  const vec negative = smaller(-x, x);
  const Exponential e = exponential(larger(splat(-87.0f), negative));
  const vec small = fma(e.scale, e.part, e.scale);
  return (x < vec{} ? small : splat(1.0f)) / (splat(1.0f) + small);
}
