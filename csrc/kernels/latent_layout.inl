// How latent_fit lays out weights and activations for this instruction set: tables of row kernels, offsets,
// packing.

constexpr int kForwardPixels[2] = {kRegisters == 32 ? 13 : 6,
                                   kRegisters == 32 ? 6 : 3};  // by stride: their sums fill the registers
constexpr int kBackwardPixels[2] = {kRegisters == 32 ? 13 : 8, kRegisters == 32 ? 6 : 4};  // by planes
constexpr int kLeastTaps = 3, kMostTaps = 5;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Vectors of pixels in a narrow block: its sums should fill as many registers as there are lanes, to be added
// up together.
template <class E>
constexpr int narrow_most(int64_t stride) {
  const int most = (kLanes - 4) / (stride * E::kPack) + 1;
  return most < 13 ? most : 13;
}

template <class E>
struct Tables {
  using Forward = void (*)(float*, const ForwardRow<E>&);
  using Backward = void (*)(const BackwardRow<E>&);
  Forward wide[2][3][13], narrow[2][3][13];  // [stride][taps][pixels]
  Backward backward[2][4][13];               // [planes][step][pixels]
};

template <class E, int S, int T, int... P>
constexpr void fill_forward(Tables<E>& tables, std::integer_sequence<int, P...>) {
  ((tables.wide[S - 1][T - kLeastTaps][P] = forward_wide<E, P + 1, T, S>), ...);
}
template <class E, int S, int T, int... P>
constexpr void fill_narrow(Tables<E>& tables, std::integer_sequence<int, P...>) {
  ((tables.narrow[S - 1][T - kLeastTaps][P] = forward_narrow<E, P + 1, T, S>), ...);
}
template <class E, int Q, int... P>
constexpr void fill_backward(Tables<E>& tables, std::integer_sequence<int, P...>) {
  ((tables.backward[Q - 1][0][P] = backward_block<E, P + 1, Q, 1>), ...);
  ((tables.backward[Q - 1][1][P] = backward_block<E, P + 1, Q, 2>), ...);
  ((tables.backward[Q - 1][2][P] = backward_block<E, P + 1, Q, kLanes>), ...);
  ((tables.backward[Q - 1][3][P] = backward_block<E, P + 1, Q, 2 * kLanes>), ...);
}
template <class E, int S>
constexpr void fill_stride(Tables<E>& tables) {
  constexpr auto wide = std::make_integer_sequence<int, kForwardPixels[S - 1]>{};
  constexpr auto narrow = std::make_integer_sequence<int, narrow_most<E>(S)>{};
  fill_forward<E, S, 3>(tables, wide), fill_forward<E, S, 4>(tables, wide),
      fill_forward<E, S, 5>(tables, wide);
  fill_narrow<E, S, 3>(tables, narrow), fill_narrow<E, S, 4>(tables, narrow),
      fill_narrow<E, S, 5>(tables, narrow);
}
template <class E>
constexpr Tables<E> make_tables() {
  Tables<E> tables{};
  fill_stride<E, 1>(tables), fill_stride<E, 2>(tables);
  fill_backward<E, 1>(tables, std::make_integer_sequence<int, kBackwardPixels[0]>{});
  fill_backward<E, 2>(tables, std::make_integer_sequence<int, kBackwardPixels[1]>{});
  return tables;
}
template <class E>
constexpr Tables<E> kTables = make_tables<E>();

// A layer as this instruction set lays it out. Rows of hidden layers hold a multiple of kPack pixels, zero
// where there are none; the last layer's output is the image, planes of single values.
struct Layout {
  int64_t in_planes, out_planes, out_lanes, taps, run, in_row, in_plane, out_row, out_plane;
  Layout(const LatentLayer& layer, bool last, int pack)
      : in_planes(ceil_div(layer.cin, kLanes)),
        out_planes(last ? layer.cout : ceil_div(layer.cout, kLanes)),
        out_lanes(last ? 1 : kLanes),
        taps(layer.kernel < kLeastTaps ? kLeastTaps : layer.kernel),
        run(ceil_div(layer.kernel * out_lanes, pack) * pack),
        in_row(ceil_div(layer.in, pack) * pack * kLanes),
        in_plane(layer.in * in_row),
        out_row(last ? layer.out : ceil_div(layer.out, pack) * pack * kLanes),
        out_plane(layer.out * out_row) {}
  int64_t values() const { return ceil_div(out_planes * out_plane, kLanes) * kLanes; }
};

template <class E>
void plan(LatentProblem& problem) {
  int64_t packed = 0, space = 0, widest = 0;
  const auto take = [](int64_t& total, int64_t count) {
    const int64_t from = total;
    total += ceil_div(count, 16) * 16;
    return from;
  };
  for (int64_t l = 0; l < problem.depth; ++l) {
    LatentLayer& layer = problem.layers[l];
    const bool last = l + 1 == problem.depth;
    const Layout at(layer, last, E::kPack);
    if (l == 0) {
      layer.forward = layer.backward = take(packed, layer.cin * at.values());
      layer.shift = take(packed, at.values());
    } else {
      const int64_t in = at.in_planes * kLanes, spare = kMostTaps * kLanes;
      layer.forward = take(packed, at.out_planes * (last ? 1 : kLanes) * layer.kernel * at.taps * in + spare);
      layer.backward = take(packed, at.out_planes * layer.kernel * at.run * in + spare);
      layer.shift = take(packed, at.out_planes * at.out_lanes);
    }
    // a run of taps padded to pairs reads past the last row, and narrow rows pass it by two vectors
    layer.activation = take(space, at.values() + 2 * kLanes + layer.stride);
    layer.gradient = take(space, at.values() + kLanes);
    widest = layer.out > widest ? layer.out : widest;
  }
  problem.row = take(space, (widest + kMostTaps) * kLanes);
  problem.image = take(space, Layout(problem.layers[problem.depth - 1], true, 1).values());
  problem.moments = take(space, 3 * problem.latents);
  problem.packed = packed;
  problem.workspace = space;
}

// The value a plain array [cin, cout, kernel, kernel] holds, zero beyond its channels and taps.
inline float weight_at(const LatentLayer& layer, const float* weight, int64_t ci, int64_t co, int64_t ky,
                       int64_t kx) {
  if (ci >= layer.cin || co >= layer.cout || kx >= layer.kernel) return 0;
  return weight[((ci * layer.cout + co) * layer.kernel + ky) * layer.kernel + kx];
}

inline void set_element(float* to, float value) { *to = value; }
inline void set_element(uint16_t* to, float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  *to = static_cast<uint16_t>(value == value ? (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
                                             : (bits >> 16) | 0x40);
}

// The first layer sees one pixel, so it is a matrix from the latents to the whole of its output.
inline void pack_first(const LatentLayer& layer, const Layout& at, const float* weight, const float* bias,
                       float* packed) {
  for (int64_t co = 0; co < layer.cout; ++co)
    for (int64_t pixel = 0; pixel < layer.out * layer.out; ++pixel) {
      const int64_t place = co / at.out_lanes * at.out_plane + pixel / layer.out * at.out_row +
                            pixel % layer.out * at.out_lanes + co % at.out_lanes;
      packed[layer.shift + place] = bias[co];
      for (int64_t ci = 0; ci < layer.cin; ++ci)
        packed[layer.forward + ci * at.values() + place] =
            weight_at(layer, weight, ci, co, pixel / layer.out, pixel % layer.out);
    }
}

// Forward: [plane of cout][ky][plane of cin][cin / kPack][kx][cout][kPack], and [cout][ky][plane of
// cin][kx][kPack][cin] for the image. Backward: [pair of planes of cin][plane of cout][ky][(kx, cout) /
// kPack][which of the pair][cin][kPack].
template <class E>
void pack_layer(const LatentLayer& layer, const Layout& at, bool last, const float* weight, float* packed) {
  constexpr int kPack = E::kPack;
  auto* to = reinterpret_cast<typename E::Element*>(packed + layer.forward);
  for (int64_t cp = 0; cp < at.out_planes; ++cp)
    for (int64_t ky = 0; ky < layer.kernel; ++ky)
      for (int64_t ip = 0; ip < at.in_planes; ++ip)
        for (int64_t c = 0; c < (last ? 1 : kLanes); c += kPack)
          for (int64_t kx = 0; kx < at.taps; ++kx)
            for (int i = 0; i < kLanes * kPack; ++i) {
              const int64_t ci = ip * kLanes + (last ? i % kLanes : c + i % kPack),
                            co = last ? cp : cp * kLanes + i / kPack;
              set_element(to++, weight_at(layer, weight, ci, co, ky, kx));
            }
  to = reinterpret_cast<typename E::Element*>(packed + layer.backward);
  for (int64_t first = 0; first < at.in_planes; first += 2)
    for (int64_t cp = 0; cp < at.out_planes; ++cp)
      for (int64_t ky = 0; ky < layer.kernel; ++ky)
        for (int64_t i = 0; i < at.run; i += kPack)
          for (int64_t ip = first; ip < first + 2 && ip < at.in_planes; ++ip)
            for (int lane = 0; lane < kLanes; ++lane)
              for (int64_t j = i; j < i + kPack; ++j)
                set_element(to++, weight_at(layer, weight, ip * kLanes + lane,
                                            cp * at.out_lanes + j % at.out_lanes, ky, j / at.out_lanes));
}

template <class E>
void pack(const LatentProblem& problem, int64_t label, float* packed) {
  std::memset(packed, 0, problem.packed * sizeof(float));
  for (int64_t l = 0; l < problem.depth; ++l) {
    const LatentLayer& layer = problem.layers[l];
    const bool last = l + 1 == problem.depth;
    const Layout at(layer, last, E::kPack);
    const float* weight = layer.weight + label * layer.cin * layer.cout * layer.kernel * layer.kernel;
    const float* bias = layer.bias + label * layer.cout;
    if (l == 0) {
      pack_first(layer, at, weight, bias, packed);
    } else {
      pack_layer<E>(layer, at, last, weight, packed);
      std::memcpy(packed + layer.shift, bias, layer.cout * sizeof(float));
    }
  }
}
