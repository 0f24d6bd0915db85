// stencil: rows are copied with their edges repeated, so that every tap is a shifted load of whole vectors.

// Rows [from, to) of a plane, and those that their taps reach.
template <class T>
void repeat_edges(float* rows, const T* plane, Image image, const Stencil& taps, int64_t from, int64_t to) {
  const int64_t before = std::max<int64_t>(-taps.left, 0),
                inside = std::min(image.width - taps.left, taps.pitch);
  for (int64_t i = from + taps.top; i < to + taps.bottom; ++i, rows += taps.pitch) {
    const T* row = plane + std::clamp<int64_t>(i, 0, image.height - 1) * image.width;
    std::fill(rows, rows + before, load(row[0]));
    for (int64_t j = before; j < inside; ++j) rows[j] = load(row[taps.left + j]);
    std::fill(rows + inside, rows + taps.pitch, load(row[image.width - 1]));
  }
}

// So many vectors of sums of what lies at the places behind `from`, of which `count` elements are wanted.
template <int Vectors, class T>
void sum_taps(T* out, const float* from, const Stencil& taps, int64_t count) {
  vec sums[Vectors] = {};
  for (int64_t t = 0; t < taps.count; ++t)
    unroll<Vectors>(
        [&](auto v) { sums[v] += splat(taps.weights[t]) * load_vec(from + taps.places[t] + v * kLanes); });
  float line[Vectors * kLanes];
  unroll<Vectors>([&](auto v) { store_vec(line + v * kLanes, sums[v]); });
  for (int64_t k = 0; k < count; ++k) store(out + k, line[k]);
}

template <class T>
void stencil(T* out, const T* plane, Image image, const Stencil& taps, int64_t from, int64_t to,
             float* scratch) {
  constexpr int kVectors = 4;
  constexpr int64_t kBlock = kVectors * kLanes;
  repeat_edges(scratch, plane, image, taps, from, to);
  for (int64_t i = from; i < to; ++i, scratch += taps.pitch) {
    T* row = out + i * image.width;
    int64_t j = 0;
    for (; j + kBlock <= image.width; j += kBlock) sum_taps<kVectors>(row + j, scratch + j, taps, kBlock);
    for (; j < image.width; j += kLanes)
      sum_taps<1>(row + j, scratch + j, taps, std::min<int64_t>(kLanes, image.width - j));
  }
}
