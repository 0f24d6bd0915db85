// A point judged by its logits, and kept where it is better. Its gradient, if there is one, leaves its size,
// and moves the point where `move` has centers. Where logits are not finite its size says nothing. With
// `stop`, a row that is a success stays as it is. For T the type of the gradient: points are floats.

// The class that is decided for: the lowest index of the largest logit.
inline int64_t decided(const float* logits, int64_t classes) {
  int64_t best = 0;
  for (int64_t k = 1; k < classes; ++k) best = logits[k] > logits[best] ? k : best;
  return best;
}

template <class T>
void judge(Judged known, float* rival, const T* gradient, int64_t cols, const float* logits, int64_t classes,
           float loss, int64_t label, int64_t target, bool margin_at_zero, bool stop, Move move) {
  if (stop && *known.best_success) {
    *known.success = true;
    return;
  }
  float check = 0;
  for (int64_t k = 0; k < classes; ++k) check += logits[k] * 0.0f;  // NaN for one that is not finite
  const bool finite = check == 0;
  const int64_t found = decided(logits, classes);
  const bool success = finite && (target < 0 ? found != label : found == target);
  *known.success = success;
  if (!finite) *known.not_finite = true;
  float rank = loss;
  if (margin_at_zero && !(loss > 0)) rank = logits[rival_of(logits, classes, label)] - logits[label];
  if (!finite) rank = NAN;
  if (success && rank != rank) rank = -HUGE_VALF;
  keep_best(known.best, rival, cols, known.best_rank, known.best_success, rank, success);

  if (!gradient) return;
  T most;
  largest(&most, gradient, cols);
  const float size = load(most);
  if (finite && (size != size || size > *known.steepest)) *known.steepest = size;  // NaN stays

  float* ranks = known.ranks;
  ranks[0] += 1;
  if (ranks[1] != ranks[1]) ranks[1] = *known.best_rank;
  std::memmove(ranks + 2, ranks + 3, static_cast<size_t>(known.noted - 3) * sizeof(float));
  ranks[known.noted - 1] = *known.best_rank;

  if (move.x) linf_step(rival, rival, gradient, move.x, 0, cols, move.radius, move.step, move.box);
}
