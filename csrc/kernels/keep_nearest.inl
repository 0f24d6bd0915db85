// Of the candidates that are successes, the one nearest to x: it takes the place of a failure, or of a
// success that is farther away. `length` [count] is written.

template <class T>
void keep_nearest(T* best, float* best_rank, bool* best_success, float* length, const T* x, const T* points,
                  int64_t count, int64_t cols, const bool* success, double order) {
  int64_t nearest = -1;
  bool inside;
  for (int64_t i = 0; i < count; ++i) {
    length[i] =
        static_cast<float>(distance(points + i * cols, x, cols, order, {-HUGE_VAL, HUGE_VAL}, &inside));
    if (success[i] && length[i] < (nearest < 0 ? HUGE_VALF : length[nearest])) nearest = i;
  }
  if (nearest >= 0)
    keep_best(best, points + nearest * cols, cols, best_rank, best_success, -length[nearest], true);
}
