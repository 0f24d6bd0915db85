// Proposals of the Square Attack: windows of images, placed by random words. The mathematics is on the ops'
// pages.

// The low 32 bits of a word as one of `count` numbers from 0 on.
inline int64_t number_of(int64_t word, int64_t count) { return (word & 0xFFFFFFFF) * count >> 32; }
// One of the numbers from 0 to `last`, the first and the last of them half as often.
inline int64_t middle_of(int64_t word, int64_t last) {
  return ((word & 0xFFFFFFFF) * last + (int64_t{1} << 31)) >> 32;
}
inline Window window_at(const int64_t* words, Image image, int64_t tall, int64_t wide) {
  return {number_of(words[0], image.height - tall + 1), number_of(words[1], image.width - wide + 1), tall,
          wide};
}
inline Window middle_window_at(const int64_t* words, Image image, int64_t tall, int64_t wide) {
  return {middle_of(words[0], image.height - tall), middle_of(words[1], image.width - wide), tall, wide};
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

// Lengths in L2 and L1: a function of a sum over values.
struct Squares {
  static double of(double value) { return value * value; }
  static double length(double sum) { return std::sqrt(sum); }
};
struct Sizes {
  static double of(double value) { return std::fabs(value); }
  static double length(double sum) { return sum; }
};

template <class Measure>
double square_measured(const double* delta, int64_t cols) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < cols; ++i) sum += Measure::of(delta[i]);
  return sum;
}

// One channel: two bumps in `window`, which take `times` the length of what is in `other`, and `unspent`.
template <class Measure, class T>
void square_channel(double* delta, double* fresh, const T* bumps, double sign, Window window, Window other,
                    Image image, double unspent, double times) {
  double old = 0, both = 0;
  for_pixels(window, image, [&](int64_t, int64_t, int64_t at) { old += Measure::of(delta[at]); });
  for_pixels(other, image, [&](int64_t row, int64_t column, int64_t at) {
    if (!holds(window, row, column)) both += Measure::of(delta[at]);
  });
  both += old;
  const double length = std::max(Measure::length(old), kShortest);
  double size = 0;
  int64_t next = 0;
  for_pixels(window, image, [&](int64_t, int64_t, int64_t at) {
    const double value = sign * load(bumps[next]) + delta[at] / length;
    fresh[next++] = value;
    size += Measure::of(value);
  });
  const double scale = times * Measure::length(unspent + both) / std::max(Measure::length(size), kShortest);
  for_pixels(other, image, [&](int64_t, int64_t, int64_t at) { delta[at] = 0; });
  next = 0;
  for_pixels(window, image, [&](int64_t, int64_t, int64_t at) { delta[at] = scale * fresh[next++]; });
}

// All channels of best - x, and the bumps that go into them.
template <class Measure, class T>
void square_proposed(double* delta, double* fresh, const int64_t* words, const T* bumps, Image image,
                     Window window, Window other, double radius, double times) {
  const int64_t pixels = image.height * image.width;
  const double spent = square_measured<Measure>(delta, image.channels * pixels);
  const double unspent = std::max(Measure::of(radius) - spent, 0.0) / static_cast<double>(image.channels);
  const T* chosen = bumps + (words[4] & 1) * window.tall * window.wide;
  for (int64_t channel = 0; channel < image.channels; ++channel)
    square_channel<Measure>(delta + channel * pixels, fresh, chosen, words[5 + channel] & 1 ? -1.0 : 1.0,
                            window, other, image, unspent, times);
}

// bumps: first those that lie one above the other, then those beside each other.
template <class T>
void square_bumps(T* out, const T* best, const T* x, const int64_t* words, const T* bumps, Image image,
                  int64_t tall, int64_t wide, Norm norm, double radius, Box box, Scratch scratch) {
  const int64_t cols = image.channels * image.height * image.width;
  double *delta = scratch.doubles, *fresh = delta + cols;
#pragma omp simd
  for (int64_t i = 0; i < cols; ++i) delta[i] = static_cast<double>(load(best[i])) - load(x[i]);
  if (norm == Norm::l1) {
    const Window window = middle_window_at(words, image, tall, wide),
                 other = middle_window_at(words + 2, image, tall, wide);
    square_proposed<Sizes>(delta, fresh, words, bumps, image, window, other, radius,
                           static_cast<double>(image.channels));
#pragma omp simd
    for (int64_t i = 0; i < cols; ++i) store(out + i, static_cast<float>(load(x[i]) + delta[i]));
    project_l1(out, out, x, cols, radius, box, scratch);
    return;
  }
  const Window window = window_at(words, image, tall, wide), other = window_at(words + 2, image, tall, wide);
  square_proposed<Squares>(delta, fresh, words, bumps, image, window, other, radius, 1.0);
  const double scale = radius / std::max(std::sqrt(square_measured<Squares>(delta, cols)), kShortest);
#pragma omp simd
  for (int64_t i = 0; i < cols; ++i)
    store(out + i, static_cast<float>(clamp(load(x[i]) + scale * delta[i], box.lo, box.hi)));
  project_l2(out, out, x, cols, radius, box, scratch);
}
