// Ops on batches of points. Each binding takes what its op writes, then the op's arguments in the order of
// its schema.
#include <memory>

#include "bind.h"
#include "tensors.h"

namespace fastadv {
namespace {

// Call body(row, scratch) for every row. Each thread has its own scratch, taken before the threads start: an
// exception must not leave a parallel region.
template <class Body>
void each_row(int64_t rows, int64_t cols, const Body& body) {
  const int threads = useful_threads(rows, cols);
  const auto doubles =
      std::make_unique_for_overwrite<double[]>(static_cast<size_t>(threads * kScratchDoubles * cols));
  const auto floats =
      std::make_unique_for_overwrite<float[]>(static_cast<size_t>(threads * kScratchFloats * cols));
  parallel_without_gil(rows, threads, [&](int64_t first, int64_t last, int thread) {
    const Scratch scratch{doubles.get() + thread * kScratchDoubles * cols,
                          floats.get() + thread * kScratchFloats * cols};
    for (int64_t row = first; row < last; ++row) body(row, scratch);
  });
}

// A gradient in bfloat16, as a search in that precision gives it, is taken as it is.
void linf_step(const Tensor& out, const Tensor& x_adv, const Tensor& grad, const Tensor& x, double radius,
               double step_size, double lo, double hi, const OptionalTensor& radius_rows,
               const OptionalTensor& step_size_rows) {
  check_alike(out, x_adv, x);
  check_places(out, grad);
  with_kernels(out, [&](auto element, const auto& kernels) {
    using T = decltype(element);
    const auto to = write_rows<T>(out);
    const auto points = read_rows<T>(x_adv), center = read_rows<T>(x);
    const PerRow radii = per_row(radius, radius_rows, to.rows),
                 steps = per_row(step_size, step_size_rows, to.rows);
    const auto along = [&](const auto& gradient, const auto& kernel) {
      // flat ranges: threads share a single long row as well as many short ones
      const int64_t cols = to.cols, count = to.rows * cols;
      parallel_without_gil(count, useful_threads(count, 1), [&](int64_t first, int64_t last, int) {
        while (first < last) {
          const int64_t row = first / cols, begin = first - row * cols,
                        end = std::min(cols, last - row * cols);
          kernel(to[row], points[row], gradient[row], center[row], begin, end, radii[row], steps[row],
                 {lo, hi});
          first = row * cols + end;
        }
      });
    };
    if (holds<bf16>(grad))
      along(read_rows<bf16>(grad), kernels.linf_step_narrow);
    else
      along(read_rows<T>(grad), kernels.linf_step);
  });
}

template <auto Member>
void row_step(const Tensor& out, const Tensor& x_adv, const Tensor& grad, const Tensor& x, double radius,
              double step_size, double lo, double hi, const OptionalTensor& radius_rows,
              const OptionalTensor& step_size_rows) {
  check_alike(out, x_adv, grad, x);
  with_kernels(out, [&](auto element, const auto& kernels) {
    using T = decltype(element);
    const auto to = write_rows<T>(out);
    const auto points = read_rows<T>(x_adv), gradient = read_rows<T>(grad), center = read_rows<T>(x);
    const PerRow radii = per_row(radius, radius_rows, to.rows),
                 steps = per_row(step_size, step_size_rows, to.rows);
    each_row(to.rows, to.cols, [&](int64_t row, Scratch scratch) {
      Member(kernels)(to[row], points[row], gradient[row], center[row], to.cols, radii[row], steps[row],
                      Box{lo, hi}, scratch);
    });
  });
}

template <auto Member>
void projection(const Tensor& out, const Tensor& x_adv, const Tensor& x, double radius, double lo, double hi,
                const OptionalTensor& radius_rows) {
  check_alike(out, x_adv, x);
  with_kernels(out, [&](auto element, const auto& kernels) {
    using T = decltype(element);
    const auto to = write_rows<T>(out);
    const auto from = read_rows<T>(x_adv), center = read_rows<T>(x);
    const PerRow radii = per_row(radius, radius_rows, to.rows);
    each_row(to.rows, to.cols, [&](int64_t row, Scratch scratch) {
      Member(kernels)(to[row], from[row], center[row], to.cols, radii[row], Box{lo, hi}, scratch);
    });
  });
}

void to_hyperplane(const Tensor& out, const Tensor& points, const Tensor& normal, const Tensor& lack,
                   std::string_view norm, double lo, double hi) {
  check_alike(out, points, normal);
  const Norm kind = named<Norm>(norm, kNorms);
  with_kernels(out, [&](auto element, const auto& kernels) {
    using T = decltype(element);
    const auto to = write_rows<T>(out);
    const auto from = read_rows<T>(points), along = read_rows<T>(normal);
    const auto* wanted = read<double>(lack, to.rows);
    each_row(to.rows, to.cols, [&](int64_t row, Scratch scratch) {
      kernels.to_hyperplane(to[row], from[row], along[row], to.cols, wanted[row], kind, {lo, hi}, scratch);
    });
  });
}

void square_linf(const Tensor& out, const Tensor& best, const Tensor& lower, const Tensor& upper,
                 const Tensor& words, int64_t channels, int64_t height, int64_t width, int64_t tall,
                 int64_t wide) {
  check_alike(out, best, lower, upper);
  with_kernels(out, [&](auto element, const auto& kernels) {
    using T = decltype(element);
    const auto to = write_rows<T>(out);
    const auto from = read_rows<T>(best), low = read_rows<T>(lower), high = read_rows<T>(upper);
    const int64_t count = 3 + channels;
    const auto* word = read<int64_t>(words, to.rows * count);
    parallel_without_gil(to.rows, useful_threads(to.rows, to.cols), [&](int64_t first, int64_t last, int) {
      for (int64_t row = first; row < last; ++row)
        kernels.square_linf(to[row], from[row], low[row], high[row], word + row * count,
                            {channels, height, width}, tall, wide);
    });
  });
}

void square_bumps(const Tensor& out, const Tensor& best, const Tensor& x, const Tensor& words,
                  const Tensor& bumps, int64_t channels, int64_t height, int64_t width, std::string_view norm,
                  double radius, double lo, double hi, const OptionalTensor& radius_rows) {
  check_alike(out, best, x);
  const Norm kind = named<Norm>(norm, kNorms);
  const int64_t tall = bumps.shape(1), wide = bumps.shape(2);
  with_kernels(out, [&](auto element, const auto& kernels) {
    using T = decltype(element);
    const auto to = write_rows<T>(out);
    const auto from = read_rows<T>(best), center = read_rows<T>(x);
    const PerRow radii = per_row(radius, radius_rows, to.rows);
    const int64_t count = 5 + channels;
    const auto* word = read<int64_t>(words, to.rows * count);
    const auto* bump = read<T>(bumps, 2 * tall * wide);
    each_row(to.rows, to.cols, [&](int64_t row, Scratch scratch) {
      kernels.square_bumps(to[row], from[row], center[row], word + row * count, bump,
                           {channels, height, width}, tall, wide, kind, radii[row], {lo, hi}, scratch);
    });
  });
}

void sparse_rs(const Tensor& out, const Tensor& best, const Tensor& x, const Tensor& ids,
               const Tensor& leaving, const Tensor& count, double lo, double hi, int64_t seed, int64_t draw,
               const OptionalTensor& mask) {
  check_alike(out, best, x);
  with_kernels(out, [&](auto element, const auto& kernels) {
    using T = decltype(element);
    const auto to = write_rows<T>(out);
    const auto from = read_rows<T>(best), center = read_rows<T>(x);
    const auto *id = read<int64_t>(ids, to.rows), *leaves = read<int64_t>(leaving, to.rows),
               *differ = read<int64_t>(count, to.rows);
    const bool* allowed = mask ? read<bool>(*mask, to.rows * to.cols) : nullptr;
    each_row(to.rows, to.cols, [&](int64_t row, Scratch scratch) {
      kernels.sparse_rs(to[row], from[row], center[row], to.cols, stream(seed, id[row], draw), leaves[row],
                        differ[row], {lo, hi}, allowed ? allowed + row * to.cols : nullptr, scratch);
    });
  });
}

void random_start(const Tensor& out, const Tensor& x, const Tensor& ids, std::string_view norm, double radius,
                  double lo, double hi, int64_t seed, int64_t draw, const OptionalTensor& radius_rows) {
  check_alike(out, x);
  const Norm kind = named<Norm>(norm, kNorms);
  with_kernels(out, [&](auto element, const auto& kernels) {
    using T = decltype(element);
    const auto to = write_rows<T>(out);
    const auto center = read_rows<T>(x);
    const PerRow radii = per_row(radius, radius_rows, to.rows);
    const auto* id = read<int64_t>(ids, to.rows);
    each_row(to.rows, to.cols, [&](int64_t row, Scratch scratch) {
      kernels.random_start(to[row], center[row], to.cols, stream(seed, id[row], draw), kind, radii[row],
                           Box{lo, hi}, scratch);
    });
  });
}

void keep_best(const Tensor& best_x, const Tensor& best_loss, const Tensor& best_success, const Tensor& x_adv,
               const Tensor& loss, const Tensor& success) {
  check_alike(best_x, x_adv);
  with_kernels(best_x, [&](auto element, const auto& kernels) {
    using T = decltype(element);
    const auto best = write_rows<T>(best_x);
    const auto rival = read_rows<T>(x_adv);
    auto* kept_loss = write<float>(best_loss, best.rows);
    auto* kept_success = write<bool>(best_success, best.rows);
    const auto* rival_loss = read<float>(loss, best.rows);
    const auto* rival_success = read<bool>(success, best.rows);
    parallel_without_gil(best.rows, useful_threads(best.rows, best.cols),
                         [&](int64_t first, int64_t last, int) {
                           for (int64_t row = first; row < last; ++row)
                             kernels.keep_best(best[row], rival[row], best.cols, kept_loss + row,
                                               kept_success + row, rival_loss[row], rival_success[row]);
                         });
  });
}

void distance(const Tensor& out, const Tensor& inside, const Tensor& x_adv, const Tensor& x, double order,
              double lo, double hi) {
  check_alike(x_adv, x);
  with_kernels(x_adv, [&](auto element, const auto& kernels) {
    using T = decltype(element);
    const auto from = read_rows<T>(x_adv), center = read_rows<T>(x);
    auto* length = write<double>(out, from.rows);
    auto* in_box = write<bool>(inside, from.rows);
    parallel_without_gil(
        from.rows, useful_threads(from.rows, from.cols), [&](int64_t first, int64_t last, int) {
          for (int64_t row = first; row < last; ++row)
            length[row] = kernels.distance(from[row], center[row], from.cols, order, {lo, hi}, in_box + row);
        });
  });
}

void keep_nearest(const Tensor& best_x, const Tensor& best_rank, const Tensor& best_success,
                  const Tensor& length, const Tensor& x, const Tensor& points, const Tensor& success,
                  double order) {
  check_alike(best_x, x);
  with_kernels(best_x, [&](auto element, const auto& kernels) {
    using T = decltype(element);
    const auto best = write_rows<T>(best_x);
    const auto center = read_rows<T>(x), from = read_rows<T>(points);
    const int64_t count = best.cols ? from.cols / best.cols : 0;
    if (from.rows != best.rows || from.cols != count * best.cols)
      throw std::invalid_argument("keep_nearest: expected points [B, C, ...]");
    auto* rank = write<float>(best_rank, best.rows);
    auto* kept = write<bool>(best_success, best.rows);
    auto* away = write<float>(length, best.rows * count);
    const auto* met = read<bool>(success, best.rows * count);
    parallel_without_gil(best.rows, useful_threads(from.rows, from.cols),
                         [&](int64_t first, int64_t last, int) {
                           for (int64_t row = first; row < last; ++row) {
                             const int64_t at = row * count;
                             kernels.keep_nearest(best[row], rank + row, kept + row, away + at, center[row],
                                                  from[row], count, best.cols, met + at, order);
                           }
                         });
  });
}

void largest(const Tensor& out, const Tensor& values) {
  with_kernels(values, [&](auto element, const auto& kernels) {
    using T = decltype(element);
    const auto from = read_rows<T>(values);
    T* most = write<T>(out, from.rows);
    parallel_without_gil(from.rows, useful_threads(from.rows, from.cols),
                         [&](int64_t first, int64_t last, int) {
                           for (int64_t row = first; row < last; ++row)
                             kernels.largest(most + row, from[row], from.cols);
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
  module.def("to_hyperplane", to_hyperplane);
  module.def("square_linf", square_linf);
  module.def("square_bumps", square_bumps);
  module.def("sparse_rs", sparse_rs);
  module.def("random_start", random_start);
  module.def("keep_best", keep_best);
  module.def("distance", distance);
  module.def("keep_nearest", keep_nearest);
  module.def("largest", largest);
}

}  // namespace fastadv
