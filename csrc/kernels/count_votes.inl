// count_votes: the class of the largest logit, the lower one among equals; -1 unless all are finite.

template <class T>
int64_t vote(const T* logits, int64_t classes) {
  int64_t best = 0;
  bool finite = true;
  for (int64_t k = 0; k < classes; ++k) {
    const float value = load(logits[k]);
    finite &= std::isfinite(value);
    if (value > load(logits[best])) best = k;
  }
  return finite && classes ? best : -1;
}
