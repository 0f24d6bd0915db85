// The stronger of two points: a success beats a failure, then the higher loss wins; NaN never wins.

template <class T>
void keep_best(T* out, const T* best, const T* rival, int64_t cols, float* best_loss, bool* best_success,
               float loss, bool success) {
  const bool wins = loss == loss && (success != *best_success ? success : loss > *best_loss);
  const T* kept = wins ? rival : best;
  if (out != kept) std::memcpy(out, kept, static_cast<size_t>(cols) * sizeof(T));
  if (!wins) return;
  *best_loss = loss;
  *best_success = success;
}
