// project_l1: the projection of x_adv as it stands (see l1.inl).

template <class T>
void project_l1(T* out, const T* x_adv, const T* x, int64_t cols, double radius, Box box, Scratch scratch) {
  double* v = scratch.doubles;
#pragma omp simd
  for (int64_t i = 0; i < cols; ++i) v[i] = static_cast<double>(load(x_adv[i])) - load(x[i]);
  l1_write(out, v, x, cols, radius, box);
}
