// Ops on batches of points: what splits their rows over threads, and one binding a kernel.
#include <vector>

#include "arrays.h"
#include "bind.h"

namespace fastadv {
namespace {

// Call body(row, scratch) for every row; each thread has its own scratch.
template <class Body>
void each_row(int64_t rows, int64_t cols, const Body& body) {
  parallel_without_gil(rows, cols, [&](int64_t first, int64_t last) {
    std::vector<double> scratch(static_cast<size_t>(kScratch * cols));
    for (int64_t row = first; row < last; ++row) body(row, scratch.data());
  });
}

// The arguments of a step as its loops read them.
template <class T>
struct Step {
  Rows<T> to;
  Rows<const T> from, slope, center;
  PerRow radii, sizes;
};

// Call body(kernels, step) for the element type of `out`.
template <class Body>
void with_step(const Array& out, const Array& x_adv, const Array& grad, const Array& x, double radius,
               const OptionalRows& radius_rows, double step, const OptionalRows& step_rows,
               const Body& body) {
  for (const auto& array : {x_adv, grad, x}) same_size(out, array);
  with_kernels(out, [&](auto element, const auto& kernels) {
    using T = decltype(element);
    const auto to = as_rows<T>(out);
    body(kernels, Step<T>{to, as_rows<const T>(x_adv), as_rows<const T>(grad), as_rows<const T>(x),
                          as_per_row(radius, radius_rows, to.rows), as_per_row(step, step_rows, to.rows)});
  });
}

void linf_step(Array out, Array x_adv, Array grad, Array x, double radius, OptionalRows radius_rows,
               double step, OptionalRows step_rows, double lo, double hi) {
  with_step(out, x_adv, grad, x, radius, radius_rows, step, step_rows,
            [&](const auto& kernels, const auto& at) {
              // flat ranges: threads share a single long row as well as many short ones
              parallel_without_gil(at.to.rows * at.to.cols, 1, [&](int64_t first, int64_t last) {
                while (first < last) {
                  const int64_t row = first / at.to.cols, begin = first - row * at.to.cols,
                                end = std::min(at.to.cols, last - row * at.to.cols);
                  kernels.linf_step(at.to[row], at.from[row], at.slope[row], at.center[row], begin, end,
                                    at.radii[row], at.sizes[row], {lo, hi});
                  first = row * at.to.cols + end;
                }
              });
            });
}

template <auto Member>
void row_step(Array out, Array x_adv, Array grad, Array x, double radius, OptionalRows radius_rows,
              double step, OptionalRows step_rows, double lo, double hi) {
  with_step(out, x_adv, grad, x, radius, radius_rows, step, step_rows,
            [&](const auto& kernels, const auto& at) {
              each_row(at.to.rows, at.to.cols, [&](int64_t row, double* scratch) {
                Member(kernels)(at.to[row], at.from[row], at.slope[row], at.center[row], at.to.cols,
                                at.radii[row], at.sizes[row], Box{lo, hi}, scratch);
              });
            });
}

template <auto Member>
void projection(Array out, Array x_adv, Array x, double radius, OptionalRows radius_rows, double lo,
                double hi) {
  for (const auto& array : {x_adv, x}) same_size(out, array);
  with_kernels(out, [&](auto element, const auto& kernels) {
    using T = decltype(element);
    const auto to = as_rows<T>(out);
    const auto from = as_rows<const T>(x_adv), center = as_rows<const T>(x);
    const PerRow radii = as_per_row(radius, radius_rows, to.rows);
    each_row(to.rows, to.cols, [&](int64_t row, double* scratch) {
      Member(kernels)(to[row], from[row], center[row], to.cols, radii[row], Box{lo, hi}, scratch);
    });
  });
}

void random_start(Array out, Array x, Array ids, int norm, double radius, OptionalRows radius_rows, double lo,
                  double hi, uint64_t seed, uint32_t draw) {
  same_size(out, x);
  with_kernels(out, [&](auto element, const auto& kernels) {
    using T = decltype(element);
    const auto to = as_rows<T>(out);
    const auto center = as_rows<const T>(x);
    const PerRow radii = as_per_row(radius, radius_rows, to.rows);
    const auto* id = as_column<const uint64_t>(ids, to.rows);
    each_row(to.rows, to.cols, [&](int64_t row, double* scratch) {
      const Stream stream{seed, id[row], draw};
      kernels.random_start(to[row], center[row], to.cols, stream, Norm{norm}, radii[row], Box{lo, hi},
                           scratch);
    });
  });
}

void quantize_in_ball(Array out, Array x_adv, Array x, int norm, double radius, OptionalRows radius_rows,
                      double lo, double hi, double levels) {
  for (const auto& array : {x_adv, x}) same_size(out, array);
  with_kernels(out, [&](auto element, const auto& kernels) {
    using T = decltype(element);
    const auto to = as_rows<T>(out);
    const auto from = as_rows<const T>(x_adv), center = as_rows<const T>(x);
    const PerRow radii = as_per_row(radius, radius_rows, to.rows);
    each_row(to.rows, to.cols, [&](int64_t row, double* scratch) {
      kernels.quantize_in_ball(to[row], from[row], center[row], to.cols, Norm{norm}, radii[row],
                               Grid{{lo, hi}, levels}, scratch);
    });
  });
}

void keep_best(Array out, Array best_x, Array x_adv, Array best_loss, Array best_success, Array loss,
               Array success) {
  for (const auto& array : {best_x, x_adv}) same_size(out, array);
  with_kernels(out, [&](auto element, const auto& kernels) {
    using T = decltype(element);
    const auto to = as_rows<T>(out);
    const auto best = as_rows<const T>(best_x), rival = as_rows<const T>(x_adv);
    auto* kept_loss = as_column<float>(best_loss, to.rows);
    auto* kept_success = as_column<bool>(best_success, to.rows);
    const auto* rival_loss = as_column<const float>(loss, to.rows);
    const auto* rival_success = as_column<const bool>(success, to.rows);
    parallel_without_gil(to.rows, to.cols, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row)
        kernels.keep_best(to[row], best[row], rival[row], to.cols, kept_loss + row, kept_success + row,
                          rival_loss[row], rival_success[row]);
    });
  });
}

}  // namespace

void bind_points(py::module_& module) {
  module.def("linf_step", linf_step);
  module.def("l2_step", row_step<[](const auto& kernels) { return kernels.l2_step; }>);
  module.def("l1_step", row_step<[](const auto& kernels) { return kernels.l1_step; }>);
  module.def("project_l2", projection<[](const auto& kernels) { return kernels.project_l2; }>);
  module.def("project_l1", projection<[](const auto& kernels) { return kernels.project_l1; }>);
  module.def("project_l0", projection<[](const auto& kernels) { return kernels.project_l0; }>);
  module.def("random_start", random_start);
  module.def("quantize_in_ball", quantize_in_ball);
  module.def("keep_best", keep_best);
}

}  // namespace fastadv
