// Philox 4x32-10 (Salmon et al. 2011). Key: the seed. Counter: (block, draw, id low, id high); element e is
// word e % 4 of block e / 4.

constexpr int64_t kWords = kPhiloxWords;  // made at once, as 16 blocks side by side

// Words [kWords * chunk, kWords * (chunk + 1)) of a stream.
#ifdef FASTADV_LANES
#include "philox_x86.inl"
#else
inline void philox_chunk(uint32_t* words, Stream stream, int64_t chunk) {
  const uint32_t first = static_cast<uint32_t>(chunk * (kWords / 4));
  const uint32_t low = static_cast<uint32_t>(stream.id), high = static_cast<uint32_t>(stream.id >> 32);
  const uint32_t key0 = static_cast<uint32_t>(stream.seed), key1 = static_cast<uint32_t>(stream.seed >> 32);
#pragma omp simd
  for (uint32_t block = 0; block < kWords / 4; ++block) {
    uint32_t c0 = first + block, c1 = stream.draw, c2 = low, c3 = high;
#pragma GCC unroll 10
    for (uint32_t round = 0; round < 10; ++round) {
      const uint64_t product0 = uint64_t{0xD2511F53} * c0, product1 = uint64_t{0xCD9E8D57} * c2;
      c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ (key0 + round * 0x9E3779B9u);
      c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ (key1 + round * 0xBB67AE85u);
      c1 = static_cast<uint32_t>(product1);
      c3 = static_cast<uint32_t>(product0);
    }
    words[4 * block] = c0;
    words[4 * block + 1] = c1;
    words[4 * block + 2] = c2;
    words[4 * block + 3] = c3;
  }
}
#endif

// Call body(i, word) for the words [from, to) of a stream, i counted from `from`; loops over it vectorize.
template <class Body>
void for_words(Stream stream, int64_t from, int64_t to, const Body& body) {
  uint32_t words[kWords];
  for (int64_t chunk = from / kWords; chunk * kWords < to; ++chunk) {
    philox_chunk(words, stream, chunk);
    const int64_t start = chunk * kWords, first = from > start ? from - start : 0,
                  last = to - start < kWords ? to - start : kWords;
#pragma omp simd
    for (int64_t i = first; i < last; ++i) body(start + i - from, words[i]);
  }
}

inline uint32_t word_at(Stream stream, int64_t index) {
  uint32_t words[kWords];
  philox_chunk(words, stream, index / kWords);
  return words[index % kWords];
}

// The top 24 bits, in [0, 1), exact.
inline double to_uniform(uint32_t word) {
  return static_cast<double>(static_cast<int32_t>(word >> 8)) * 0x1p-24;
}

// -log(count / 2^24) for count in 1 .. 2^24, to a few double ulps: 2 atanh((m - 1) / (m + 1)) for the
// mantissa m in [sqrt 1/2, sqrt 2).
inline double minus_log(int32_t count) {
  const uint32_t bits = bits_of(static_cast<float>(count));
  const int32_t exponent = static_cast<int32_t>(bits - 0x3F3504F3) >> 23;
  const double mantissa = float_of(bits - (static_cast<uint32_t>(exponent) << 23));
  const double s = (mantissa - 1) / (mantissa + 1), z = s * s;
  const double series =
      1 +
      z * (1.0 / 3 +
           z * (1.0 / 5 + z * (1.0 / 7 + z * (1.0 / 9 + z * (1.0 / 11 + z * (1.0 / 13 + z * (1.0 / 15)))))));
  return (24 - exponent) * 0.6931471805599453 - 2 * s * series;
}

// Box-Muller: two standard normals from two words. The angle is reduced to an eighth turn in integers,
// exactly.
inline void to_normals(uint32_t size, uint32_t turn, double* first, double* second) {
  const double radius = std::sqrt(2 * minus_log(static_cast<int32_t>(size >> 8) + 1));
  const int32_t place = static_cast<int32_t>(turn >> 8), quarter = (place + (1 << 21)) >> 22;
  const double angle = (place - quarter * (1 << 22)) * (6.283185307179586 * 0x1p-24), z = angle * angle;
  // products with constants: a division takes as long as ten of them
  constexpr double s1 = 1.0 / 6, s2 = 1.0 / 20, s3 = 1.0 / 42, s4 = 1.0 / 72, s5 = 1.0 / 110, s6 = 1.0 / 156;
  constexpr double c1 = 1.0 / 2, c2 = 1.0 / 12, c3 = 1.0 / 30, c4 = 1.0 / 56, c5 = 1.0 / 90, c6 = 1.0 / 132;
  const double sine =
      angle * (1 - z * s1 * (1 - z * s2 * (1 - z * s3 * (1 - z * s4 * (1 - z * s5 * (1 - z * s6))))));
  const double cosine = 1 - z * c1 * (1 - z * c2 * (1 - z * c3 * (1 - z * c4 * (1 - z * c5 * (1 - z * c6)))));
  const bool swapped = quarter & 1;
  const double across = swapped ? sine : cosine, up = swapped ? cosine : sine;
  *first = radius * (quarter == 1 || quarter == 2 ? -across : across);
  *second = radius * (quarter == 2 || quarter == 3 ? -up : up);
}

// Normals [from, to) of a stream; `from` is a multiple of kWords.
template <class Out>
void fill_normals(Out* out, Stream stream, int64_t from, int64_t to) {
  uint32_t words[kWords];
  double normals[kWords];
  for (int64_t start = from; start < to; start += kWords) {
    philox_chunk(words, stream, start / kWords);
#pragma omp simd
    for (int64_t pair = 0; pair < kWords / 2; ++pair)
      to_normals(words[2 * pair], words[2 * pair + 1], normals + 2 * pair, normals + 2 * pair + 1);
    const int64_t count = to - start < kWords ? to - start : kWords;
    for (int64_t i = 0; i < count; ++i) out[start + i] = static_cast<Out>(normals[i]);
  }
}

// Elements [from, to) of one row; `from` is a multiple of kWords.
inline void philox_bits(int64_t* out, Stream stream, int64_t from, int64_t to) {
  for_words(stream, from, to, [out = out + from](int64_t i, uint32_t word) { out[i] = word; });
}
inline void philox_uniform(float* out, Stream stream, int64_t from, int64_t to) {
  for_words(stream, from, to, [out = out + from](int64_t i, uint32_t word) {
    out[i] = static_cast<float>(static_cast<int32_t>(word >> 8)) * 0x1p-24f;
  });
}
inline void philox_normal(float* out, Stream stream, int64_t from, int64_t to) {
  fill_normals(out, stream, from, to);
}

// Bit i % 32 of word i / 32 as a sign; `from` is a multiple of 32.
inline void philox_sign(float* out, Stream stream, int64_t from, int64_t to) {
  uint32_t words[kWords];
  for (int64_t at = from; at < to; at += 32) {
    const int64_t word = at / 32;
    if (at == from || word % kWords == 0) philox_chunk(words, stream, word / kWords);
    const uint32_t signs = words[word % kWords];
    const int64_t count = std::min<int64_t>(to - at, 32);
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) out[at + i] = signs >> i & 1 ? 1.0f : -1.0f;
  }
}
