// A point judged by its logits, and kept where it is better: for the search, and for the climb alone.

// The class that is decided for: the lowest index of the largest logit.
inline int64_t decided(const float* logits, int64_t classes) {
  int64_t best = 0;
  for (int64_t k = 1; k < classes; ++k) best = logits[k] > logits[best] ? k : best;
  return best;
}

template <class T>
void climb(Climb<T> known, const T* rival, int64_t cols, const float* logits, int64_t classes, LossKind kind,
           int64_t label, int64_t target, float* z) {
  float loss;
  logit_loss(z + classes, &loss, logits, classes, kind, label, target, false, z);
  if (loss != loss) *known.not_finite = true;
  const int64_t found = decided(logits, classes);
  const bool success = loss == loss && (target < 0 ? found != label : found == target);
  keep_best(known.best, rival, cols, known.best_loss, known.best_success, loss, success);
  bool none = false;
  keep_best(known.own, rival, cols, known.own_loss, &none, loss, false);
}
