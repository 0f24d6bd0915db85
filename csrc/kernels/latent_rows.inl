// Register kernels: a block of neighboring pixels of one row, with their sums in registers and each weight
// vector loaded once for all of them. Activations lie in planes of kLanes channels, [plane][y][x][kLanes], so
// that the way from a pixel to the next is known to the compiler.

// How weights and activations are held and multiplied. `Unit` is what one multiplication broadcasts: a
// number, or a pair of bfloat16.
struct Single {
  using Element = float;
  static constexpr int kPack = 1;
  static FASTADV_INLINE vec load(const Element* from) { return load_vec(from); }
  static FASTADV_INLINE void store(Element* to, vec value) { store_vec(to, value); }
  static FASTADV_INLINE vec spread(const Element* from) { return splat(*from); }
  static FASTADV_INLINE vec multiply_add(vec a, vec b, vec sum) { return fma(a, b, sum); }
};

#ifdef FASTADV_BF16
struct Paired {
  using Element = uint16_t;
  static constexpr int kPack = 2;
  static FASTADV_INLINE vec load(const Element* from) {
    return load_vec(reinterpret_cast<const bf16*>(from));
  }
  static FASTADV_INLINE void store(Element* to, vec value) {
    const __m256bh rounded = _mm512_cvtneps_pbh((__m512)value);
    std::memcpy(to, &rounded, sizeof rounded);
  }
  static FASTADV_INLINE vec spread(const Element* from) {
    int32_t pair;
    std::memcpy(&pair, from, sizeof pair);
    return (vec)_mm512_set1_epi32(pair);
  }
  static FASTADV_INLINE vec multiply_add(vec a, vec b, vec sum) {
    return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
  }
};
#endif

// A vector of elements as they lie in memory: kLanes of them, or as many pairs.
template <class E>
FASTADV_INLINE vec load_raw(const E* from) {
  vec value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

// The forward pass of a transposed convolution along a row: P input pixels and T neighboring taps contribute
// to S * (P - 1) + T output pixels. `rows` input rows contribute; from one to the next the input moves by
// `in_step` and the weights by `weight_step`.
template <class E>
struct ForwardRow {
  const typename E::Element* in;
  const typename E::Element* weight;
  int64_t rows, in_step, weight_step;      // between contributing rows
  int64_t planes, in_plane, weight_plane;  // between planes of input channels
  int64_t taps;                            // vectors from one channel's weights to the next
  // Wide rows whose taps fit one block go straight to elu's values; the T - S sums that the next block shares
  // are handed on in `sums`.
  typename E::Element* value;  // null where sums are only added up
  const float* bias;
  bool last;     // block of its row
  int64_t tail;  // output pixels beyond the last block's S * P
  // Narrow rows: where vectors hold two pixels, the outputs of the second are this many pixels further on.
  int64_t apart;
};

template <class E, int P, int T, int S>
void forward_wide(float* out, const ForwardRow<E>& row) {
  constexpr int kSums = S * (P - 1) + T, kDone = S * P, kShared = T - S;
  vec sums[kSums];
  unroll<kShared>([&](auto i) __attribute__((always_inline)) { sums[i] = load_vec(out + i * kLanes); });
  if (row.value) {
    const vec bias = load_vec(row.bias);
    unroll<kSums - kShared>([&](auto i) __attribute__((always_inline)) { sums[kShared + i] = bias; });
  } else {
    unroll<kSums - kShared>([&](auto i) __attribute__((always_inline)) {
      sums[kShared + i] = load_vec(out + (kShared + i) * kLanes);
    });
  }
  const int64_t next = row.taps * kLanes * E::kPack;
  for (int64_t r = 0; r < row.rows; ++r)
    for (int64_t plane = 0; plane < row.planes; ++plane) {
      const auto* in = row.in + r * row.in_step + plane * row.in_plane;
      const auto* weight = row.weight + r * row.weight_step + plane * row.weight_plane;
      for (int c = 0; c < kLanes; c += E::kPack, weight += next) {
        vec taps[T];
        unroll<T>([&](auto t)
                      __attribute__((always_inline)) { taps[t] = load_raw(weight + t * kLanes * E::kPack); });
        unroll<P>([&](auto p) __attribute__((always_inline)) {
          const vec value = E::spread(in + p * kLanes + c);
          unroll<T>([&](auto t) __attribute__((always_inline)) {
            sums[S * p + t] = E::multiply_add(value, taps[t], sums[S * p + t]);
          });
        });
      }
    }
  if (!row.value) {
    unroll<kSums>([&](auto i) __attribute__((always_inline)) { store_vec(out + i * kLanes, sums[i]); });
    return;
  }
  unroll<kDone>([&](auto i) __attribute__((always_inline)) {
    E::store(row.value + i * kLanes, elu<E::kPack == 2>(sums[i]));
  });
  unroll<kShared>([&](auto i) __attribute__((always_inline)) {
    if (!row.last)
      store_vec(out + i * kLanes, sums[kDone + i]);
    else if (i < row.tail)
      E::store(row.value + (kDone + i) * kLanes, elu<E::kPack == 2>(sums[kDone + i]));
  });
}

// The same into one channel, added to single values: a vector holds the input channels of kPack neighboring
// pixels, and the lanes of each sum are added up at the end. Values up to a vector beyond the block's are
// read and written back.
template <class E, int P, int T, int S>
void forward_narrow(float* out, const ForwardRow<E>& row) {
  constexpr int kApart = S * E::kPack, kSums = kApart * (P - 1) + T, kGroups = (kSums + kLanes - 1) / kLanes;
  vec sums[kGroups * kLanes];
  unroll<kGroups * kLanes>([&](auto i) __attribute__((always_inline)) { sums[i] = vec{}; });
  for (int64_t r = 0; r < row.rows; ++r)
    for (int64_t plane = 0; plane < row.planes; ++plane) {
      const auto* in = row.in + r * row.in_step + plane * row.in_plane;
      const auto* weight = row.weight + r * row.weight_step + plane * row.weight_plane;
      vec taps[T];
      unroll<T>([&](auto t)
                    __attribute__((always_inline)) { taps[t] = load_raw(weight + t * kLanes * E::kPack); });
      unroll<P>([&](auto p) __attribute__((always_inline)) {
        const vec value = load_raw(in + p * kLanes * E::kPack);
        unroll<T>([&](auto t) __attribute__((always_inline)) {
          sums[kApart * p + t] = E::multiply_add(value, taps[t], sums[kApart * p + t]);
        });
      });
    }
  unroll<kGroups>([&](auto group) __attribute__((always_inline)) {
    vec* parts = sums + group * kLanes;
    float* to = out + group * kLanes;
    halve<0, E::kPack == 1 ? kRounds : kRounds - 1>(parts);
    if constexpr (E::kPack == 1) {
      store_vec(to, load_vec(to) + parts[0]);
    } else {
      store_vec(to, load_vec(to) + pick<kRounds - 1, 0>(parts[0], parts[1]));
      store_vec(to + row.apart, load_vec(to + row.apart) + pick<kRounds - 1, 1>(parts[0], parts[1]));
    }
  });
}

// The backward pass: for P input pixels of a row and Q planes of input channels, the sum over all output
// values that they contributed to. Along a row these are `length` contiguous values; those of the next pixel
// start `Step` values later.
template <class E>
struct BackwardRow {
  const typename E::Element* out;     // gradient at the first pixel's first tap
  const typename E::Element* weight;  // [plane][row][length][Q]
  int64_t planes, out_plane;          // planes of output channels
  int64_t rows, out_step;
  int64_t length;                    // a multiple of kPack
  const typename E::Element* value;  // elu's value at the first pixel; its derivative follows from it
  typename E::Element* gradient;     // the result, at the first pixel
  int64_t in_plane;
};

template <class E, int P, int Q, int Step>
void backward_block(const BackwardRow<E>& row) {
  vec sums[Q][P];
  unroll<Q>([&](auto q) __attribute__((always_inline)) {
    unroll<P>([&](auto p) __attribute__((always_inline)) { sums[q][p] = vec{}; });
  });
  const auto* weight = row.weight;
  for (int64_t plane = 0; plane < row.planes; ++plane)
    for (int64_t r = 0; r < row.rows; ++r) {
      const auto* out = row.out + plane * row.out_plane + r * row.out_step;
      for (int64_t i = 0; i < row.length; i += E::kPack, weight += Q * kLanes * E::kPack) {
        vec weights[Q];
        unroll<Q>([&](auto q) __attribute__((always_inline)) {
          weights[q] = load_raw(weight + q * kLanes * E::kPack);
        });
        unroll<P>([&](auto p) __attribute__((always_inline)) {
          const vec value = E::spread(out + i + p * Step);
          unroll<Q>([&](auto q) __attribute__((always_inline)) {
            sums[q][p] = E::multiply_add(value, weights[q], sums[q][p]);
          });
        });
      }
    }
  unroll<Q>([&](auto q) __attribute__((always_inline)) {
    unroll<P>([&](auto p) __attribute__((always_inline)) {
      const int64_t place = q * row.in_plane + p * kLanes;
      E::store(row.gradient + place, sums[q][p] * (smaller(vec{}, E::load(row.value + place)) + splat(1.0f)));
    });
  });
}
