// project_l1: the projection of x_adv as it stands (see l1.inl).

template <class T>
void project_l1(T* out, const T* x_adv, const T* x, int64_t cols, double radius, Box box, Scratch scratch) {
  const auto point = [=](int64_t i, float) { return load(x_adv[i]); };
  l1_project(out, point, x, cols, kL1Stay, radius, box, scratch);
}
