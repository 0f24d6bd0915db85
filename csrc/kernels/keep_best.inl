// The stronger of two points: a success beats a failure, then the higher loss wins; NaN never wins.

template <class T>
void keep_best(T* best, const T* rival, int64_t cols, float* best_loss, bool* best_success, float loss,
               bool success) {
  const bool wins = loss == loss && (success != *best_success ? success : loss > *best_loss);
  if (!wins) return;
  std::memmove(best, rival, static_cast<size_t>(cols) * sizeof(T));  // they may be one batch
  *best_loss = loss;
  *best_success = success;
}
