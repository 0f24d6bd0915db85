// Proposals of the Square Attack: windows of images, placed by random words. The mathematics is on the ops'
// pages.

// The low 32 bits of a word as one of `count` numbers from 0 on.
inline int64_t number_of(int64_t word, int64_t count) { return (word & 0xFFFFFFFF) * count >> 32; }
inline Window window_at(const int64_t* words, Image image, int64_t tall, int64_t wide) {
  return {number_of(words[0], image.height - tall + 1), number_of(words[1], image.width - wide + 1), tall,
          wide};
}
inline bool holds(Window window, int64_t row, int64_t column) {
  return row >= window.top && row < window.top + window.tall && column >= window.left &&
         column < window.left + window.wide;
}

// Call body(row, column, place) for the pixels of a window; `place` is that in one channel.
template <class Body>
void for_pixels(Window window, Image image, const Body& body) {
  for (int64_t row = window.top; row < window.top + window.tall; ++row)
    for (int64_t column = window.left; column < window.left + window.wide; ++column)
      body(row, column, row * image.width + column);
}

// How many bits of its last word each choose for a channel of square_linf.
constexpr int64_t kSpare = 24;

template <class T>
void square_linf(T* out, const T* best, const T* lower, const T* upper, const int64_t* words, Image image,
                 int64_t tall, int64_t wide) {
  const int64_t pixels = image.height * image.width;
  std::copy(best, best + image.channels * pixels, out);
  const Window window = window_at(words, image, tall, wide);
  bool same = true;
  const auto place = [&](const auto& up) {
    for (int64_t channel = 0; channel < image.channels; ++channel) {
      const int64_t skip = channel * pixels;
      const T* end = (up(channel) ? upper : lower) + skip;
      for_pixels(window, image, [&](int64_t, int64_t, int64_t at) {
        same &= load(end[at]) == load(best[skip + at]);
        out[skip + at] = end[at];
      });
    }
  };
  const auto drawn = [&](int64_t channel) { return (words[2 + channel] & 1) != 0; };
  place(drawn);
  if (!same) return;
  const int64_t spare = words[2 + image.channels] & 0xFFFFFFFF, one = spare % image.channels;
  place([&](int64_t channel) {
    const bool other = channel == one || (channel < kSpare && (spare >> 8 >> channel & 1));
    return drawn(channel) != other;
  });
}

constexpr double kShortest = 1e-12;

// One channel: two bumps in `window`, which take the length of what is in `other`, and `unspent`.
template <class T>
void square_bumps(double* delta, double* fresh, const T* bumps, double sign, Window window, Window other,
                  Image image, double unspent) {
  double old = 0, both = 0;
  for_pixels(window, image, [&](int64_t, int64_t, int64_t at) { old += delta[at] * delta[at]; });
  for_pixels(other, image, [&](int64_t row, int64_t column, int64_t at) {
    if (!holds(window, row, column)) both += delta[at] * delta[at];
  });
  both += old;
  const double length = std::max(std::sqrt(old), kShortest);
  double size = 0;
  int64_t next = 0;
  for_pixels(window, image, [&](int64_t, int64_t, int64_t at) {
    const double value = sign * load(bumps[next]) + delta[at] / length;
    fresh[next++] = value;
    size += value * value;
  });
  const double scale = std::sqrt(unspent + both) / std::max(std::sqrt(size), kShortest);
  for_pixels(other, image, [&](int64_t, int64_t, int64_t at) { delta[at] = 0; });
  next = 0;
  for_pixels(window, image, [&](int64_t, int64_t, int64_t at) { delta[at] = scale * fresh[next++]; });
}

// bumps: first those that lie one above the other, then those beside each other.
template <class T>
void square_l2(T* out, const T* best, const T* x, const int64_t* words, const T* bumps, Image image,
               int64_t tall, int64_t wide, double radius, Box box, Scratch scratch) {
  const int64_t pixels = image.height * image.width, cols = image.channels * pixels;
  double *delta = scratch.doubles, *fresh = delta + cols;
  double spent = 0;
#pragma omp simd reduction(+ : spent)
  for (int64_t i = 0; i < cols; ++i) {
    delta[i] = static_cast<double>(load(best[i])) - load(x[i]);
    spent += delta[i] * delta[i];
  }
  const double unspent = std::max(radius * radius - spent, 0.0) / static_cast<double>(image.channels);
  const Window window = window_at(words, image, tall, wide), other = window_at(words + 2, image, tall, wide);
  const T* chosen = bumps + (words[4] & 1) * tall * wide;
  for (int64_t channel = 0; channel < image.channels; ++channel)
    square_bumps(delta + channel * pixels, fresh, chosen, words[5 + channel] & 1 ? -1.0 : 1.0, window, other,
                 image, unspent);
  double length = 0;
#pragma omp simd reduction(+ : length)
  for (int64_t i = 0; i < cols; ++i) length += delta[i] * delta[i];
  const double scale = radius / std::max(std::sqrt(length), kShortest);
#pragma omp simd
  for (int64_t i = 0; i < cols; ++i)
    store(out + i, static_cast<float>(clamp(load(x[i]) + scale * delta[i], box.lo, box.hi)));
  project_l2(out, out, x, cols, radius, box, scratch);
}
