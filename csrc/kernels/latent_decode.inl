// latent_decode: the forward pass of latent_fit alone.

template <class E>
void decode(const LatentProblem& problem, const float* packed, const float* z, float* image, float* space) {
  const Fit<E> one{problem, packed, space};
  const LatentLayer& last = problem.layers[problem.depth - 1];
  const int64_t values = last.cout * last.out * last.out;
  std::memset(space, 0, problem.workspace * sizeof(float));  // padding
  one.logits_of(z);
  const float* logits = one.logits();
  int64_t i = 0;
  for (; i + kLanes <= values; i += kLanes) store_vec(image + i, sigmoid(load_vec(logits + i)));
  if (i < values) {
    float rest[kLanes];
    store_vec(rest, sigmoid(load_vec(logits + i)));
    std::memcpy(image + i, rest, (values - i) * sizeof(float));
  }
}

template <class E>
constexpr LatentKernels latent_kernels() {
  return {.plan = plan<E>, .pack = pack<E>, .fit = fit<E>, .decode = decode<E>};
}
