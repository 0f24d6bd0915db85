// Proposals of Sparse-RS: coordinates with the largest words leave a set, those with the smallest come. The
// mathematics is on the op's page.

// Put the indices below `cols` for which test(i) holds into `found`; returns how many. They are few: most
// spans of indices are passed over at once.
template <class Test>
int64_t gather(int64_t* found, int64_t cols, const Test& test) {
  constexpr int64_t kSpan = 16;
  int64_t count = 0, i = 0;
  const auto look = [&](int64_t last) {
    for (; i < last; ++i)
      if (test(i)) found[count++] = i;
  };
  while (i + kSpan <= cols) {
    int any = 0;
#pragma omp simd reduction(| : any)
    for (int64_t k = 0; k < kSpan; ++k) any |= test(i + k) ? 1 : 0;
    if (any)
      look(i + kSpan);
    else
      i += kSpan;
  }
  look(cols);
  return count;
}

// Bring the `wanted` first of so many indices in the order of `before` to the front; returns how many those
// are.
template <class Before>
int64_t to_front(int64_t* found, int64_t count, int64_t wanted, const Before& before) {
  if (wanted <= 0) return 0;
  if (wanted >= count) return count;
  std::nth_element(found, found + wanted, found + count, before);
  return wanted;
}

template <class T>
void sparse_rs(T* out, const T* best, const T* x, int64_t cols, Stream stream, int64_t leaving, int64_t count,
               Box box, const bool* mask, Scratch scratch) {
  const float low = nearest(static_cast<float>(box.lo), T{}), high = nearest(static_cast<float>(box.hi), T{});
  auto* found = reinterpret_cast<int64_t*>(scratch.doubles);
  auto* words = reinterpret_cast<uint32_t*>(scratch.floats);
  for_words(stream, 0, cols, [=](int64_t i, uint32_t word) { words[i] = word; });
  std::copy(best, best + cols, out);

  const int64_t moved = gather(found, cols, [=](int64_t i) { return load(best[i]) != load(x[i]); });
  const int64_t left = to_front(found, moved, leaving, [=](int64_t i, int64_t j) {
    return words[i] != words[j] ? words[i] > words[j] : i < j;
  });
  for (int64_t k = 0; k < left; ++k) out[found[k]] = x[found[k]];

  const int64_t wanted = count - (moved - left);
  if (wanted <= 0) return;
  const auto free_below = [=](uint32_t bound) {
    const int64_t low_words = gather(found, cols, [=](int64_t i) { return words[i] <= bound; });
    int64_t free = 0;
    for (int64_t k = 0; k < low_words; ++k) {
      const int64_t i = found[k];
      if (load(out[i]) == load(x[i]) && (!mask || mask[i])) found[free++] = i;
    }
    return free;
  };
  // as a rule enough words lie below a bound, which spares the others; else all are looked at
  constexpr uint32_t kAll = 0xFFFFFFFF;
  const auto most = static_cast<double>(wanted);
  const double share = (most + 4 * std::sqrt(most) + 4) / static_cast<double>(cols);
  int64_t free = share < 1 ? free_below(static_cast<uint32_t>(share * kAll)) : 0;
  if (free < wanted) free = free_below(kAll);
  const int64_t come = to_front(found, free, wanted, [=](int64_t i, int64_t j) {
    return words[i] != words[j] ? words[i] < words[j] : i < j;
  });
  for (int64_t k = 0; k < come; ++k) {
    const int64_t i = found[k];
    const float now = load(best[i]);
    store(out + i, now == low || (now != high && (words[i] & 1)) ? high : low);
  }
}
