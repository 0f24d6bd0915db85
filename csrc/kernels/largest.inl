// largest: max |value| of a row. Without their sign, floats are in the order of their bits, and NaN comes
// last.

inline uint32_t size_bits(float value) { return bits_of(value) & 0x7FFFFFFFu; }
inline uint32_t size_bits(bf16 value) { return value.bits & 0x7FFFu; }
inline void store_bits(float* out, uint32_t bits) { *out = float_of(bits); }
inline void store_bits(bf16* out, uint32_t bits) { out->bits = static_cast<uint16_t>(bits); }

template <class T>
void largest(T* out, const T* values, int64_t cols) {
  uint32_t most = 0;
#pragma omp simd reduction(max : most)
  for (int64_t i = 0; i < cols; ++i) {
    const uint32_t bits = size_bits(values[i]);
    most = bits > most ? bits : most;
  }
  store_bits(out, most);
}
