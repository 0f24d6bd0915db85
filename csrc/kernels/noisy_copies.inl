// noisy_copies: one copy of an image on a grid, plus noise of an alias table. The bits are on the op's page.

template <class T>
void noisy_copy(T* out, const int32_t* levels, int64_t cols, Stream stream, const AliasTable& table,
                double step) {
  constexpr int64_t kElements = kWords / 2;
  uint32_t words[kWords];
  const int width = table.width;
  for (int64_t start = 0; start < cols; start += kElements) {
    philox_chunk(words, stream, start / kElements);
    const int64_t count = std::min(cols - start, kElements);
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
      const uint64_t word = static_cast<uint64_t>(words[2 * i]) << 32 | words[2 * i + 1];
      const int64_t column = static_cast<int64_t>(word >> (64 - width)), entry = table.entries[column],
                    bits = static_cast<int64_t>(word << width >> (64 - kChoiceBits));
      const int32_t choice = static_cast<int32_t>(bits < entry >> kAliasBits ? column : entry & kLastAlias);
      store(out + start + i, static_cast<float>((levels[start + i] + choice - table.center) * step));
    }
  }
}
