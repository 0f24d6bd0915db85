// l2_step: a step along the gradient of its row, then the projection (see l2.inl).

template <class T>
void l2_step(T* out, const T* x_adv, const T* grad, const T* x, int64_t cols, double radius, double step,
             Box box, Scratch scratch) {
  double square = 0;
#pragma omp simd reduction(+ : square)
  for (int64_t i = 0; i < cols; ++i) square += static_cast<double>(load(grad[i])) * load(grad[i]);
  if (!(square > 0) || !std::isfinite(square)) return project_l2(out, x_adv, x, cols, radius, box, scratch);
  l2_move(out, x_adv, grad, step / std::sqrt(square), x, cols, radius, box, scratch);
}
