// nearest_prototype: a matrix product in registers tells, within its error bound, which prototypes can be
// nearest; those few are measured again by differences in double. Only the products of one tile are stored.

constexpr int kTileImages = kLanes == 16 ? 4 : 2, kTilePrototypes = kLanes / kTileImages;
constexpr int64_t kNearestChunk =
    1024;  // values of a row at a time, so that a tile of prototypes stays in the nearest cache
constexpr double kHalfUlp = 5.9604644775390625e-8;
static_assert(kTilePrototypes <= kNearestTile && kNearestBlock % kTileImages == 0);

inline double exact_distance(const float* x, const float* prototype, int64_t size) {
  double parts[8] = {};
  int64_t i = 0;
  for (; i + 8 <= size; i += 8)
    for (int j = 0; j < 8; ++j) {
      const double apart = static_cast<double>(x[i + j]) - prototype[i + j];
      parts[j] += apart * apart;
    }
  for (; i < size; ++i) {
    const double apart = static_cast<double>(x[i]) - prototype[i];
    parts[0] += apart * apart;
  }
  return ((parts[0] + parts[4]) + (parts[2] + parts[6])) + ((parts[1] + parts[5]) + (parts[3] + parts[7]));
}

inline double square_norm(const float* row, int64_t size) {
  double parts[8] = {};
  int64_t i = 0;
  for (; i + 8 <= size; i += 8)
    for (int j = 0; j < 8; ++j) parts[j] += static_cast<double>(row[i + j]) * row[i + j];
  for (; i < size; ++i) parts[0] += static_cast<double>(row[i]) * row[i];
  return ((parts[0] + parts[4]) + (parts[2] + parts[6])) + ((parts[1] + parts[5]) + (parts[3] + parts[7]));
}

// Inner products of a tile: lane i * kTilePrototypes + s is image i with prototype s.
inline vec tile_products(const float* x, const float* prototypes, int64_t width, int64_t from, int64_t to) {
  vec sums[kLanes];
  unroll<kLanes>([&](auto i) __attribute__((always_inline)) { sums[i] = vec{}; });
  for (int64_t at = from; at < to; at += kLanes) {
    vec rows[kTilePrototypes];
    unroll<kTilePrototypes>(
        [&](auto s) __attribute__((always_inline)) { rows[s] = load_vec(prototypes + s * width + at); });
    unroll<kTileImages>([&](auto i) __attribute__((always_inline)) {
      const vec image = load_vec(x + i * width + at);
      unroll<kTilePrototypes>([&](auto s) __attribute__((always_inline)) {
        sums[i * kTilePrototypes + s] = fma(image, rows[s], sums[i * kTilePrototypes + s]);
      });
    });
  }
  halve<0, kRounds>(sums);
  return sums[0];
}

// The largest float product form that may still hide a distance of at most `best`. See `search` for the
// bound.
inline float threshold(double best, double square, double slack) {
  const double limit = best - square * (1 - slack);
  return static_cast<float>(limit + std::fabs(limit) * 4 * kHalfUlp + 1e-37);
}

// Load a tile of prototypes; returns the least that each may add to -2 x.p, infinity where the tile has
// fewer.
inline vec load_tile(float* tile, const float* prototypes, const float* bias, const NearestProblem& problem,
                     int64_t count, double slack) {
  float least[kTilePrototypes];
  for (int64_t s = 0; s < kTilePrototypes; ++s) {
    least[s] = INFINITY;
    if (s >= count) continue;
    const float* row = prototypes + s * problem.size;
    std::memcpy(tile + s * problem.width, row, problem.size * sizeof(float));
    const double offset = bias[s], value = square_norm(row, problem.size) * (1 - slack) + offset;
    least[s] = static_cast<float>(value - (std::fabs(value) + std::fabs(offset)) * 4 * kHalfUlp);
  }
  vec lanes;
  for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = least[lane % kTilePrototypes];
  return lanes;
}

// ||x - p||^2 + bias = (||p||^2 + bias) - 2 x.p + ||x||^2. The error of a chain of n rounded multiply-adds is
// at most n half-ulps of ||x|| ||p|| <= (||x||^2 + ||p||^2) / 2, so a prototype can be skipped where
// (1 - slack) ||p||^2 + bias - 2 x.p exceeds best - (1 - slack) ||x||^2. NaN is never skipped.
inline void search(const NearestProblem& problem, const float* prototypes, const float* bias, int64_t from,
                   int64_t to, double* best, int64_t* index, float* scratch) {
  const int64_t width = problem.width, size = problem.size, images = problem.images;
  const double slack =
      (static_cast<double>(width) / kLanes + static_cast<double>(width) / kNearestChunk + 16) * 1.01 *
      kHalfUlp;
  // thresholds and products have a lane for each image and prototype of a tile
  float *tile = scratch, *thresholds = tile + kTilePrototypes * width,
        *products = thresholds + (kNearestBlock + kNearestTile) * kTilePrototypes;
  std::memset(tile, 0, kTilePrototypes * width * sizeof(float));
  for (int64_t i = 0; i < images; ++i) best[i] = INFINITY, index[i] = from;
  const auto set_threshold = [&](int64_t place, float value) {
    for (int64_t s = 0; s < kTilePrototypes; ++s) thresholds[place * kTilePrototypes + s] = value;
  };
  for (int64_t block = 0; block < images; block += kNearestBlock) {
    const int64_t end = images - block < kNearestBlock ? images : block + kNearestBlock;
    for (int64_t i = block; i < end; ++i)
      set_threshold(i - block, threshold(best[i], problem.squares[i], slack));
    for (int64_t i = end; i < end + kTileImages; ++i) set_threshold(i - block, -INFINITY);
    for (int64_t first = from; first < to; first += kTilePrototypes) {
      const int64_t count = to - first < kTilePrototypes ? to - first : kTilePrototypes;
      const vec least = load_tile(tile, prototypes + first * size, bias + first, problem, count, slack);
      const char* next = reinterpret_cast<const char*>(prototypes + (first + kTilePrototypes) * size);
      const int64_t bytes = (to - first < 2 * kTilePrototypes ? 0 : kTilePrototypes) * size *
                            static_cast<int64_t>(sizeof(float));
      const int64_t share = bytes * kTileImages / (end - block) +
                            64;  // of the next tile, fetched beside each of these products
      int64_t fetched = 0;
      for (int64_t at = 0; at < width; at += kNearestChunk)
        for (int64_t i = block; i < end; i += kTileImages) {
          for (int64_t goal = fetched + share; fetched < goal && fetched < bytes; fetched += 64)
            __builtin_prefetch(next + fetched);
          const int64_t tile_of = i / kTileImages, begin = problem.begins[tile_of],
                        stop = problem.ends[tile_of];
          const int64_t limit = at + kNearestChunk;
          vec product = tile_products(problem.x + i * width, tile, width, begin > at ? begin : at,
                                      stop < limit ? stop : limit);
          float* place = products + (i - block) * kTilePrototypes;
          if (at) product += load_vec(place);
          if (limit < width) {
            store_vec(place, product);
            continue;
          }
          const vec bound = fma(product, splat(-2.0f), least);
          uint32_t open = not_above(bound, load_vec(thresholds + (i - block) * kTilePrototypes));
          for (; open; open &= open - 1) {
            const int lane = __builtin_ctz(open);
            const int64_t image = i + lane / kTilePrototypes, s = first + lane % kTilePrototypes;
            if (image >= end || s >= to || best[image] != best[image]) continue;
            const double distance =
                exact_distance(problem.x + image * width, prototypes + s * size, size) + bias[s];
            if (distance >= best[image]) continue;
            best[image] = distance;
            index[image] = s;
            set_threshold(image - block, threshold(distance, problem.squares[image], slack));
          }
        }
    }
  }
}
