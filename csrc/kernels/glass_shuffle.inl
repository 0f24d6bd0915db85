// glass_shuffle: pixel numbers are moved, in place and in order, and then looked up in every channel.

inline void glass_shuffle(uint8_t* out, const uint8_t* x, Image image, Stream stream, int64_t distance,
                          int64_t rounds, int32_t* scratch) {
  const int64_t size = image.height * image.width, first = distance + 1, lowest = image.height - distance,
                rightmost = image.width - distance, begin = first * image.width + first;
  const bool inside = lowest >= first && rightmost >= first;
  int32_t *pixels = scratch, *moves = scratch + size;
  std::iota(pixels, pixels + size, 0);
  const int32_t width = static_cast<int32_t>(image.width), far = static_cast<int32_t>(distance);
  for (int64_t draw = 0; inside && draw < rounds; ++draw) {
    stream.draw = static_cast<uint32_t>(draw);
    for_words(stream, begin, lowest * image.width + rightmost + 1, [=](int64_t i, uint32_t word) {
      const int32_t down = (static_cast<int32_t>(word & 0xFFFF) * 2 * far >> 16) - far,
                    right = (static_cast<int32_t>(word >> 16) * 2 * far >> 16) - far;
      moves[i] = down * width + right;
    });
    for (int64_t h = lowest; h >= first; --h)
      for (int64_t at = h * width + rightmost; at >= h * width + first; --at)
        pixels[at] = pixels[at + moves[at - begin]];
  }
  for (int64_t channel = 0; channel < image.channels; ++channel, out += size, x += size)
    for (int64_t at = 0; at < size; ++at) out[at] = x[pixels[at]];
}
