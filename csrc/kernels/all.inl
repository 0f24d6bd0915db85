// Every kernel, in the namespace and for the instruction set of the file that includes this.

#include "kernels/scalar.inl"

#include "kernels/l2.inl"
#include "kernels/linf_step.inl"

template <class T>
constexpr Kernels<T> table() {
  return {linf_step<T>, l2_step<T>, project_l2<T>};
}
