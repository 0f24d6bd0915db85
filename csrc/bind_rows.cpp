// Ops on rows that are not points: losses on logits, random words. Arguments as in bind_points.cpp.
#include <bit>
#include <memory>

#include "bind.h"
#include "tensors.h"

namespace fastadv {
namespace {

constexpr int64_t kLineFloats = 16;

// Classes are checked here because only here are they read: on a GPU that would wait for the device.
void check_classes(const char* name, const int64_t* index, int64_t rows, int64_t classes) {
  for (int64_t row = 0; row < rows; ++row)
    if (index[row] < 0 || index[row] >= classes) {
      const std::string text = std::string(name) + ": expected classes in [0, " + std::to_string(classes) +
                               "), got " + std::to_string(index[row]) + " at row " + std::to_string(row);
      py::set_error(py::module_::import("fastadv.errors").attr("InputError"), text.c_str());
      throw py::error_already_set();
    }
}

void logit_loss(const Tensor& loss, const Tensor& grad, const Tensor& logits, const Tensor& labels,
                std::string_view kind, const OptionalTensor& targets, bool direction) {
  check_alike(grad, logits);
  const LossKind which = named<LossKind>(kind, kLosses);
  with_kernels(grad, [&](auto element, const auto& kernels) {
    using T = decltype(element);
    const auto to = write_rows<T>(grad);
    const auto from = read_rows<T>(logits);
    auto* value = write<float>(loss, to.rows);
    const auto* label = read<int64_t>(labels, to.rows);
    const auto* target = targets ? read<int64_t>(*targets, to.rows) : nullptr;
    check_classes("labels", label, to.rows, to.cols);
    if (target) check_classes("targets", target, to.rows, to.cols);
    const int threads = useful_threads(to.rows, 16 * to.cols);
    // a cache line or more between the rows of two threads, which else would take it from each other
    const int64_t apart = to.cols + kLineFloats;
    const auto scratch = std::make_unique_for_overwrite<float[]>(static_cast<size_t>(threads * apart));
    parallel_without_gil(to.rows, threads, [&](int64_t first, int64_t last, int thread) {
      for (int64_t row = first; row < last; ++row)
        kernels.logit_loss(to[row], value + row, from[row], to.cols, which, label[row],
                           target ? target[row] : -1, direction, scratch.get() + thread * apart);
    });
  });
}

void judge(const Tensor& best_x, const Tensor& best_rank, const Tensor& best_success,
           const Tensor& not_finite, const Tensor& steepest, const Tensor& ranks, const Tensor& success,
           const Tensor& x_adv, const OptionalTensor& gradient, const Tensor& logits, const Tensor& loss,
           const Tensor& labels, const OptionalTensor& targets, bool margin_at_zero, bool stop,
           const OptionalTensor& x, double radius, double step_size, double lo, double hi,
           const OptionalTensor& radius_rows, const OptionalTensor& step_size_rows) {
  check_alike(best_x, x_adv, x ? *x : x_adv);
  const Tensor& along = gradient ? *gradient : best_x;
  check_places(best_x, along);
  with_kernels(along, [&](auto element, const auto& kernels) {
    using T = decltype(element);
    const auto best = write_rows<float>(best_x), rival = write_rows<float>(x_adv);
    const auto from = read_rows<float>(logits), center = read_rows<float>(x ? *x : x_adv);
    const PerRow radii = per_row(radius, radius_rows, best.rows),
                 steps = per_row(step_size, step_size_rows, best.rows);
    const auto slopes = read_rows<T>(along);
    const int64_t noted = ranks.ndim() == 2 ? ranks.shape(1) : 0;
    if (from.rows != best.rows || noted < 3) throw std::invalid_argument("judge: expected rows of samples");
    auto *rank = write<float>(best_rank, best.rows), *steep = write<float>(steepest, best.rows),
         *past = write<float>(ranks, best.rows * noted);
    auto *kept = write<bool>(best_success, best.rows), *marked = write<bool>(not_finite, best.rows),
         *met = write<bool>(success, best.rows);
    const auto* value = read<float>(loss, best.rows);
    const auto* label = read<int64_t>(labels, best.rows);
    const auto* target = targets ? read<int64_t>(*targets, best.rows) : nullptr;
    check_classes("labels", label, best.rows, from.cols);
    if (target) check_classes("targets", target, best.rows, from.cols);
    parallel_without_gil(
        best.rows, useful_threads(best.rows, best.cols), [&](int64_t first, int64_t last, int) {
          for (int64_t row = first; row < last; ++row)
            kernels.judge({best[row], rank + row, kept + row, marked + row, steep + row, past + row * noted,
                           noted, met + row},
                          rival[row], gradient ? slopes[row] : nullptr, best.cols, from[row], from.cols,
                          value[row], label[row], target ? target[row] : -1, margin_at_zero, stop,
                          {x ? center[row] : nullptr, radii[row], steps[row], {lo, hi}});
        });
  });
}

// Flat chunks of words, so that threads share one long row as well as many short ones. All samples have a row
// of the first draw, then all one of the next.
template <class T>
void fill(const Tensor& out, const Tensor& ids, int64_t seed, int64_t draw, int64_t draws,
          void (*kernel)(T*, Stream, int64_t, int64_t)) {
  check_alike(out);
  const auto to = write_rows<T>(out);
  const int64_t samples = to.rows / draws;
  const auto* id = read<int64_t>(ids, samples);
  const int64_t chunks = (to.cols + kPhiloxWords - 1) / kPhiloxWords, count = to.rows * chunks;
  parallel_without_gil(count, useful_threads(count, 8 * kPhiloxWords), [&](int64_t first, int64_t last, int) {
    while (first < last) {
      const int64_t row = first / chunks, begin = first - row * chunks,
                    end = std::min(chunks, last - row * chunks);
      kernel(to[row], stream(seed, id[row % samples], draw + row / samples), begin * kPhiloxWords,
             std::min(to.cols, end * kPhiloxWords));
      first = row * chunks + end;
    }
  });
}

void philox(const Tensor& out, const Tensor& ids, int64_t count, std::string_view kind, int64_t seed,
            int64_t draw, int64_t draws) {
  if (out.ndim() != 2 || out.shape(1) != count) throw std::invalid_argument("philox: expected [B, count]");
  const PhiloxKernels& kernels = active_set().philox;
  const RandomKind which = named<RandomKind>(kind, kRandomKinds);
  if (which == RandomKind::bits) return fill(out, ids, seed, draw, draws, kernels.bits);
  fill(out, ids, seed, draw, draws,
       which == RandomKind::uniform  ? kernels.uniform
       : which == RandomKind::normal ? kernels.normal
                                     : kernels.sign);
}

// Each copy is a row of the result.
void noisy_copies(const Tensor& out, const Tensor& levels, const Tensor& images, const Tensor& ids,
                  const Tensor& draws, const Tensor& table, int64_t center, double step, int64_t seed,
                  bool narrow) {
  (void)narrow;  // the type of `out` says it
  const int64_t size = table.size();
  const int width = std::bit_width(static_cast<uint64_t>(size)) - 1;
  if (width < 1 || width > kAliasBits || size != int64_t{1} << width)
    throw std::invalid_argument("noisy_copies: expected a table of 2^1 to 2^16 entries");
  const AliasTable noise{read<int64_t>(table, size), width, static_cast<int32_t>(center)};
  check_alike(out);
  with_kernels(out, [&](auto element, const auto& kernels) {
    using T = decltype(element);
    const auto to = write_rows<T>(out);
    const auto from = read_rows<int32_t>(levels);
    const auto *image = read<int64_t>(images, to.rows), *id = read<int64_t>(ids, to.rows),
               *draw = read<int64_t>(draws, to.rows);
    check_classes("rows", image, to.rows, from.rows);
    if (to.rows && from.cols != to.cols) throw std::invalid_argument("noisy_copies: rows of another length");
    parallel_without_gil(to.rows, useful_threads(to.rows, to.cols), [&](int64_t first, int64_t last, int) {
      for (int64_t row = first; row < last; ++row)
        kernels.noisy_copy(to[row], from[image[row]], to.cols, stream(seed, id[row], draw[row]), noise, step);
    });
  });
}

void count_votes(const Tensor& logits, const Tensor& images, const Tensor& votes) {
  with_kernels(logits, [&](auto element, const auto& kernels) {
    using T = decltype(element);
    const auto from = read_rows<T>(logits);
    const auto counted = write_rows<int32_t>(votes);
    const auto* image = read<int64_t>(images, from.rows);
    check_classes("rows", image, from.rows, counted.rows);
    if (from.rows && from.cols != counted.cols) throw std::invalid_argument("count_votes: other classes");
    const py::gil_scoped_release release;
    for (int64_t row = 0; row < from.rows; ++row)
      if (const int64_t k = kernels.vote(from[row], from.cols); k >= 0) ++counted[image[row]][k];
  });
}

}  // namespace

void bind_rows(py::module_& module) {
  module.def("logit_loss", logit_loss);
  module.def("judge", judge);
  module.def("philox", philox);
  module.def("noisy_copies", noisy_copies);
  module.def("count_votes", count_votes);
}

}  // namespace fastadv
