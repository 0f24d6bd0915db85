// The extension: binds each kernel, one line each, below the functions that split its rows over threads.
#include <vector>

#include "arrays.h"
#include "parallel.h"

namespace fastadv {
namespace {

void linf_step(Array out, Array x_adv, Array grad, Array x, double radius, OptionalRows radius_rows, double step, OptionalRows step_rows, double lo,
               double hi) {
  for (const auto& array : {x_adv, grad, x}) same_size(out, array);
  with_kernels(out, [&](auto element, const auto& kernels) {
    using T = decltype(element);
    const auto to = as_rows<T>(out);
    const auto from = as_rows<const T>(x_adv), slope = as_rows<const T>(grad), center = as_rows<const T>(x);
    const PerRow radii = as_per_row(radius, radius_rows, to.rows), steps = as_per_row(step, step_rows, to.rows);
    // flat ranges: threads share a single long row as well as many short ones
    parallel_for(to.rows * to.cols, 1, [&](int64_t first, int64_t last) {
      while (first < last) {
        const int64_t row = first / to.cols, begin = first - row * to.cols, end = std::min(to.cols, last - row * to.cols);
        kernels.linf_step(to[row], from[row], slope[row], center[row], begin, end, radii[row], steps[row], {lo, hi});
        first = row * to.cols + end;
      }
    });
  });
}

// The step ops that work a row at a time with a row of scratch.
template <auto Member>
void row_step(Array out, Array x_adv, Array grad, Array x, double radius, OptionalRows radius_rows, double step, OptionalRows step_rows, double lo,
              double hi) {
  for (const auto& array : {x_adv, grad, x}) same_size(out, array);
  with_kernels(out, [&](auto element, const auto& kernels) {
    using T = decltype(element);
    const auto to = as_rows<T>(out);
    const auto from = as_rows<const T>(x_adv), slope = as_rows<const T>(grad), center = as_rows<const T>(x);
    const PerRow radii = as_per_row(radius, radius_rows, to.rows), steps = as_per_row(step, step_rows, to.rows);
    parallel_for(to.rows, to.cols, [&](int64_t first, int64_t last) {
      std::vector<double> scratch(to.cols);
      for (int64_t row = first; row < last; ++row)
        Member(kernels)(to[row], from[row], slope[row], center[row], to.cols, radii[row], steps[row], Box{lo, hi}, scratch.data());
    });
  });
}

template <auto Member>
void projection(Array out, Array x_adv, Array x, double radius, OptionalRows radius_rows, double lo, double hi) {
  for (const auto& array : {x_adv, x}) same_size(out, array);
  with_kernels(out, [&](auto element, const auto& kernels) {
    using T = decltype(element);
    const auto to = as_rows<T>(out);
    const auto from = as_rows<const T>(x_adv), center = as_rows<const T>(x);
    const PerRow radii = as_per_row(radius, radius_rows, to.rows);
    parallel_for(to.rows, to.cols, [&](int64_t first, int64_t last) {
      std::vector<double> scratch(to.cols);
      for (int64_t row = first; row < last; ++row)
        Member(kernels)(to[row], from[row], center[row], to.cols, radii[row], Box{lo, hi}, scratch.data());
    });
  });
}

std::vector<std::string> isas() {
  std::vector<std::string> names;
  for (const auto* set : available_sets()) names.emplace_back(set->name);
  return names;
}

int threads() {
#ifdef _OPENMP
  return omp_get_max_threads();
#else
  return 1;
#endif
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "C++ kernels over NumPy views; called by fastadv.ops.";
  module.def("isa", [] { return std::string(active_set().name); }, "The instruction set in use.");
  module.def("isas", isas, "The instruction sets this processor has, best last.");
  module.def("threads", threads, "The threads a parallel kernel may use.");
  module.def("linf_step", linf_step);
  module.def("l2_step", row_step<[](const auto& kernels) { return kernels.l2_step; }>);
  module.def("project_l2", projection<[](const auto& kernels) { return kernels.project_l2; }>);
}

}  // namespace fastadv
