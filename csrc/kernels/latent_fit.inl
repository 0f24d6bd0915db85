// latent_fit: decoder forward, loss, backward to the latents, Adam and clip, all steps for one image and one
// class, whose activations stay in cache.

// One thread's work on one image and class.
template <class E>
struct Fit {
  using Element = typename E::Element;
  const LatentProblem& problem;
  const float* packed;
  float* space;

  Element* activation(int64_t l) const {
    return reinterpret_cast<Element*>(space + problem.layers[l].activation);
  }
  Element* gradient(int64_t l) const {
    return reinterpret_cast<Element*>(space + problem.layers[l].gradient);
  }
  float* logits() const { return space + problem.layers[problem.depth - 1].activation; }

  void first_forward(const float* z) const {
    const LatentLayer& layer = problem.layers[0];
    const bool last = problem.depth == 1;
    const int64_t values = Layout(layer, last, E::kPack).values();
    for (int64_t i = 0; i < values; i += kLanes) {
      vec sum = load_vec(packed + layer.shift + i);
      for (int64_t c = 0; c < layer.cin; ++c)
        sum = fma(splat(z[c]), load_vec(packed + layer.forward + c * values + i), sum);
      if (last)
        store_vec(logits() + i, sum);
      else
        E::store(activation(0) + i, elu<E::kPack == 2>(sum));
    }
  }

  void first_backward(float* grad) const {
    const LatentLayer& layer = problem.layers[0];
    const int64_t values = Layout(layer, problem.depth == 1, E::kPack).values();
    for (int64_t c = 0; c < layer.cin; ++c) {
      vec even{}, odd{};
      const float* weight = packed + layer.forward + c * values;
      int64_t i = 0;
      for (; i + 2 * kLanes <= values; i += 2 * kLanes) {
        even = fma(E::load(gradient(0) + i), load_vec(weight + i), even);
        odd = fma(E::load(gradient(0) + i + kLanes), load_vec(weight + i + kLanes), odd);
      }
      if (i < values) even = fma(E::load(gradient(0) + i), load_vec(weight + i), even);
      grad[c] = sum(even + odd);
    }
  }

  // One output row of one plane: into elu's values where `work.value` says so, else added to what `out`
  // holds, `lanes` values a pixel.
  void forward_row(const LatentLayer& layer, const Layout& at, const Element* in, int64_t plane, int64_t y,
                   float* out, ForwardRow<E> work) const {
    // the last input row that contributes to this output row does so through weight row `ky`
    const int64_t stride = layer.stride, below = y / stride, top = below < layer.in ? below : layer.in - 1;
    const int64_t ky = y - stride * top, end = y < layer.kernel ? y + 1 : layer.kernel;
    constexpr int kVector = kLanes * E::kPack;
    const bool narrow = at.out_lanes == 1;
    work.weight_plane = (narrow ? 1 : kLanes / E::kPack) * at.taps * kVector;
    const int64_t weight_row = at.in_planes * work.weight_plane;
    const Element* weight =
        reinterpret_cast<const Element*>(packed + layer.forward) + (plane * layer.kernel + ky) * weight_row;
    work.rows = ky < end ? ceil_div(end - ky, stride) : 0, work.in_step = -at.in_row,
    work.weight_step = stride * weight_row;
    work.planes = at.in_planes, work.in_plane = at.in_plane, work.taps = at.taps;
    const auto& table = (narrow ? kTables<E>.narrow : kTables<E>.wide)[stride == 2];
    const int64_t unit = narrow ? E::kPack : 1, units = ceil_div(layer.in, unit);  // pixels a vector
    const int64_t most = stride > 2 ? 1
                         : narrow   ? narrow_most<E>(stride)
                                    : kForwardPixels[stride - 1],
                  parts = ceil_div(units, most);
    for (int64_t part = 0, x = 0; part < parts; ++part) {
      const int64_t next = units * (part + 1) / parts;
      work.in = in + top * at.in_row + x * unit * kLanes;
      work.last = part == parts - 1;
      for (int64_t kx = 0, left = at.taps; left;) {
        const int64_t taps = ceil_div(left, ceil_div(left, kMostTaps));
        work.weight = weight + kx * kVector;
        float* to = work.value ? out : out + (stride * unit * x + kx) * at.out_lanes;
        table[taps - kLeastTaps][next - x - 1](to, work);
        kx += taps;
        left -= taps;
      }
      if (work.value) work.value += stride * (next - x) * kLanes;
      x = next;
    }
  }

  void layer_forward(int64_t l) const {
    const LatentLayer& layer = problem.layers[l];
    const Layout at(layer, false, E::kPack);
    const bool straight = at.taps <= kMostTaps && layer.stride <= 2 && layer.kernel >= layer.stride;
    float* row = space + problem.row;
    ForwardRow<E> work{};
    work.tail = layer.kernel - layer.stride;
    for (int64_t plane = 0; plane < at.out_planes; ++plane) {
      work.bias = packed + layer.shift + plane * kLanes;
      const vec bias = load_vec(work.bias);
      for (int64_t y = 0; y < layer.out; ++y) {
        Element* to = activation(l) + plane * at.out_plane + y * at.out_row;
        work.value = straight ? to : nullptr;
        for (int64_t x = 0; x < (straight ? kMostTaps : layer.out); ++x) store_vec(row + x * kLanes, bias);
        forward_row(layer, at, activation(l - 1), plane, y, row, work);
        if (straight) continue;
        for (int64_t x = 0; x < layer.out; ++x)
          E::store(to + x * kLanes, elu<E::kPack == 2>(load_vec(row + x * kLanes)));
      }
    }
  }

  void image_forward() const {
    const int64_t l = problem.depth - 1;
    const LatentLayer& layer = problem.layers[l];
    const Layout at(layer, true, E::kPack);
    for (int64_t channel = 0; channel < layer.cout; ++channel)
      for (int64_t i = 0; i < at.out_plane; ++i)
        logits()[channel * at.out_plane + i] = packed[layer.shift + channel];
    ForwardRow<E> work{};
    work.apart = layer.stride;
    for (int64_t channel = 0; channel < layer.cout; ++channel)
      for (int64_t y = 0; y < layer.out; ++y)
        forward_row(layer, at, activation(l - 1), channel, y,
                    logits() + channel * at.out_plane + y * at.out_row, work);
  }

  // Squared distance of sigmoid(logits) to x, and half its gradient with respect to the logits.
  float distance() const {
    const LatentLayer& layer = problem.layers[problem.depth - 1];
    const int64_t values = layer.cout * layer.out * layer.out;
    const float* x = space + problem.image;
    Element* grad = gradient(problem.depth - 1);
    vec total{};
    for (int64_t i = 0; i < values; i += kLanes) {
      const vec g = sigmoid(load_vec(logits() + i)), apart = g - load_vec(x + i);
      total = fma(apart, apart, total);
      E::store(grad + i, apart * g * (splat(1.0f) - g));
    }
    return sum(total);
  }

  void layer_backward(int64_t l) const {
    const LatentLayer& layer = problem.layers[l];
    const bool last = l + 1 == problem.depth;
    const Layout at(layer, last, E::kPack);
    const int64_t stride = layer.stride;
    BackwardRow<E> work{};
    work.weight = reinterpret_cast<const Element*>(packed + layer.backward);
    work.planes = at.out_planes, work.out_plane = at.out_plane;
    work.rows = layer.kernel, work.out_step = at.out_row, work.length = at.run;
    work.in_plane = at.in_plane;
    for (int64_t plane = 0; plane < at.in_planes; plane += 2) {
      const int64_t planes = at.in_planes - plane < 2 ? 1 : 2;
      const int64_t parts = ceil_div(layer.in, stride <= 2 ? kBackwardPixels[planes - 1] : 1);
      const auto& table = kTables<E>.backward[planes - 1][(last ? 0 : 2) + (stride == 2)];
      for (int64_t y = 0; y < layer.in; ++y)
        for (int64_t part = 0, x = 0; part < parts; ++part) {
          const int64_t next = layer.in * (part + 1) / parts,
                        place = plane * at.in_plane + y * at.in_row + x * kLanes;
          work.out = gradient(l) + stride * (y * at.out_row + x * at.out_lanes);
          work.value = activation(l - 1) + place;
          work.gradient = gradient(l - 1) + place;
          table[next - x - 1](work);
          x = next;
        }
      work.weight += planes * kLanes * at.out_planes * layer.kernel * at.run;
    }
  }

  void logits_of(const float* z) const {
    first_forward(z);
    for (int64_t l = 1; l + 1 < problem.depth; ++l) layer_forward(l);
    if (problem.depth > 1) image_forward();
  }

  void backward(float* grad) const {
    for (int64_t l = problem.depth - 1; l > 0; --l) layer_backward(l);
    first_backward(grad);
  }
};

template <class E>
float fit(const LatentProblem& problem, const float* packed, const float* x, float* z, float* space) {
  const Fit<E> one{problem, packed, space};
  const int64_t latents = problem.latents;
  const LatentLayer& last = problem.layers[problem.depth - 1];
  const int64_t values = last.cout * last.out * last.out;
  std::memset(space, 0, problem.workspace * sizeof(float));  // padding and moments
  // beyond the image: logits of 0 against pixels of 1/2 add nothing
  for (int64_t i = 0; i < ceil_div(values, kLanes) * kLanes; ++i)
    space[problem.image + i] = i < values ? x[i] : 0.5f;
  float *grad = space + problem.moments, *mean = grad + latents, *square = mean + latents;
  const double scale = 1.0 / static_cast<double>(values);
  double mean_decay = 1, square_decay = 1;
  for (int64_t step = 1;; ++step) {
    double norm = 0;
    for (int64_t i = 0; i < latents; ++i) norm += static_cast<double>(z[i]) * z[i];
    one.logits_of(z);
    const double distance = one.distance();
    if (step >= problem.steps) return static_cast<float>((distance + 0.5 * problem.beta * norm) * scale);
    one.backward(grad);
    mean_decay *= 0.9;
    square_decay *= 0.999;
    const double rate = problem.step_size / (1 - mean_decay), root = std::sqrt(1 - square_decay);
    norm = 0;
    for (int64_t i = 0; i < latents; ++i) {
      const float g = static_cast<float>((2.0 * grad[i] + static_cast<double>(problem.beta) * z[i]) * scale);
      mean[i] += 0.1f * (g - mean[i]);
      square[i] = 0.999f * square[i] + 0.001f * g * g;
      z[i] -= static_cast<float>(rate * mean[i] / (std::sqrt(static_cast<double>(square[i])) / root + 1e-8));
      norm += static_cast<double>(z[i]) * z[i];
    }
    if (norm > static_cast<double>(problem.max_norm) * problem.max_norm) {
      const float shrink = static_cast<float>(problem.max_norm / std::sqrt(norm));
      for (int64_t i = 0; i < latents; ++i) z[i] *= shrink;
    }
  }
}
