// project_l2: the projection of x_adv as it stands (see l2.inl).

template <class T>
void project_l2(T* out, const T* x_adv, const T* x, int64_t cols, double radius, Box box, Scratch scratch) {
  l2_move(out, x_adv, x_adv, 0.0, x, cols, radius, box, scratch);
}
