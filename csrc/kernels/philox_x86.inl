// Philox blocks in 64-bit lanes, whose upper halves never count: one instruction multiplies the lower halves.
// Compilers find it for no loop over 32-bit words, and take twice as long.

#ifdef FASTADV_AVX512
// Masked with every lane on: gcc warns that the plain forms use an uninitialized value.
typedef uint64_t Lanes __attribute__((vector_size(64)));
inline Lanes product(uint64_t factor, Lanes c) {
  return (Lanes)_mm512_maskz_mul_epu32(0xFF, _mm512_set1_epi64(static_cast<long long>(factor)), (__m512i)c);
}
// Pairs of words from the even lanes of `a` and `b`, and from the odd ones; `blocks_of` numbers the lanes
// such that the words of the lower half of the blocks come first, in order.
inline Lanes blocks_of() { return Lanes{0, 4, 1, 5, 2, 6, 3, 7}; }
inline Lanes even(Lanes a, Lanes b) {
  return (Lanes)_mm512_maskz_unpacklo_epi64(0xFF, (__m512i)a, (__m512i)b);
}
inline Lanes odd(Lanes a, Lanes b) {
  return (Lanes)_mm512_maskz_unpackhi_epi64(0xFF, (__m512i)a, (__m512i)b);
}
#else
typedef uint64_t Lanes __attribute__((vector_size(32)));
inline Lanes product(uint64_t factor, Lanes c) {
  return (Lanes)_mm256_mul_epu32(_mm256_set1_epi64x(static_cast<long long>(factor)), (__m256i)c);
}
inline Lanes blocks_of() { return Lanes{0, 2, 1, 3}; }
inline Lanes even(Lanes a, Lanes b) { return (Lanes)_mm256_unpacklo_epi64((__m256i)a, (__m256i)b); }
inline Lanes odd(Lanes a, Lanes b) { return (Lanes)_mm256_unpackhi_epi64((__m256i)a, (__m256i)b); }
#endif

inline void philox_chunk(uint32_t* words, Stream stream, int64_t chunk) {
  constexpr uint32_t kBlocks = sizeof(Lanes) / 8;
  const uint32_t first = static_cast<uint32_t>(chunk * (kWords / 4));
  const uint32_t key0 = static_cast<uint32_t>(stream.seed), key1 = static_cast<uint32_t>(stream.seed >> 32);
  const Lanes zero = {}, low = zero + 0xFFFFFFFF;
#pragma GCC unroll 4
  for (uint32_t block = 0; block < kWords / 4; block += kBlocks) {
    Lanes c0 = blocks_of() + uint64_t{first + block}, c1 = zero + uint64_t{stream.draw},
          c2 = zero + stream.id, c3 = zero + (stream.id >> 32);
#pragma GCC unroll 10
    for (uint32_t round = 0; round < 10; ++round) {
      const Lanes product0 = product(0xD2511F53, c0), product1 = product(0xCD9E8D57, c2);
      c0 = (product1 >> 32) ^ c1 ^ (zero + uint64_t{key0 + round * 0x9E3779B9u});
      c2 = (product0 >> 32) ^ c3 ^ (zero + uint64_t{key1 + round * 0xBB67AE85u});
      c1 = product1;
      c3 = product0;
    }
    const Lanes a = (c0 & low) | (c1 << 32), b = (c2 & low) | (c3 << 32);
    const Lanes halves[2] = {even(a, b), odd(a, b)};
    std::memcpy(words + 4 * block, halves, sizeof halves);
  }
}
