// Ops on rows that are no points: losses on logits, random words.
#include <string>
#include <vector>

#include "arrays.h"
#include "bind.h"

namespace fastadv {
namespace {

void check_classes(const char* name, const int64_t* index, int64_t rows, int64_t classes) {
  for (int64_t row = 0; row < rows; ++row)
    if (index[row] < 0 || index[row] >= classes)
      throw py::value_error(std::string(name) + ": expected classes in [0, " + std::to_string(classes) +
                            "), got " + std::to_string(index[row]) + " at row " + std::to_string(row));
}

void logit_loss(Array grad, Array logits, Array loss, Array labels, std::optional<Array> targets, int kind,
                bool direction) {
  same_size(grad, logits);
  with_kernels(grad, [&](auto element, const auto& kernels) {
    using T = decltype(element);
    const auto to = as_rows<T>(grad);
    const auto from = as_rows<const T>(logits);
    auto* value = as_column<float>(loss, to.rows);
    const auto* label = as_column<const int64_t>(labels, to.rows);
    const auto* target = targets ? as_column<const int64_t>(*targets, to.rows) : nullptr;
    check_classes("labels", label, to.rows, to.cols);
    if (target) check_classes("targets", target, to.rows, to.cols);
    parallel_without_gil(to.rows, 16 * to.cols, [&](int64_t first, int64_t last) {
      std::vector<float> scratch(static_cast<size_t>(to.cols));
      for (int64_t row = first; row < last; ++row)
        kernels.logit_loss(to[row], value + row, from[row], to.cols, LossKind{kind}, label[row],
                           target ? target[row] : -1, direction, scratch.data());
    });
  });
}

// Flat chunks of words, so that threads share one long row as well as many short ones.
template <class T>
void fill(Array out, Array ids, uint64_t seed, uint32_t draw, void (*kernel)(T*, Stream, int64_t, int64_t)) {
  const auto to = as_rows<T>(out);
  const auto* id = as_column<const uint64_t>(ids, to.rows);
  const int64_t chunks = (to.cols + kPhiloxWords - 1) / kPhiloxWords;
  parallel_without_gil(to.rows * chunks, 8 * kPhiloxWords, [&](int64_t first, int64_t last) {
    while (first < last) {
      const int64_t row = first / chunks, begin = first - row * chunks,
                    end = std::min(chunks, last - row * chunks);
      kernel(to[row], Stream{seed, id[row], draw}, begin * kPhiloxWords,
             std::min(to.cols, end * kPhiloxWords));
      first = row * chunks + end;
    }
  });
}

void philox(Array out, Array ids, int kind, uint64_t seed, uint32_t draw) {
  const PhiloxKernels& kernels = active_set().philox;
  if (kind == 0) return fill(out, ids, seed, draw, kernels.bits);
  fill(out, ids, seed, draw, kind == 1 ? kernels.uniform : kernels.normal);
}

}  // namespace

void bind_rows(py::module_& module) {
  module.def("logit_loss", logit_loss);
  module.def("philox", philox);
}

}  // namespace fastadv
