// nearest_prototype: classes and ranges of prototypes split over threads; the ranges' results are merged in
// order, so that the lowest index wins.
#include <cmath>
#include <vector>

#include "aligned.h"
#include "bind.h"
#include "parallel.h"
#include "tensors.h"

namespace fastadv {
namespace {

constexpr int64_t kLine = 16;  // floats, to which a row is padded

// distance [B, K] and index [B, K] are written; x [B, D], prototypes [K, S, D] with any step between classes,
// bias [K, S].
void nearest_prototype(const Tensor& distance, const Tensor& index, const Tensor& x, const Tensor& prototypes,
                       const Tensor& bias) {
  if (x.ndim() != 2 || prototypes.ndim() != 3)
    throw std::invalid_argument("nearest_prototype: expected x [B, D] and prototypes [K, S, D]");
  check_type<float>(prototypes);
  const int64_t images = x.shape(0), size = x.shape(1), classes = prototypes.shape(0),
                count = prototypes.shape(1), step = prototypes.stride(0);
  if (prototypes.shape(2) != size || (size > 1 && prototypes.stride(2) != 1) ||
      (count > 1 && prototypes.stride(1) != size))
    throw std::invalid_argument("nearest_prototype: expected dense prototypes of x's size in each class");
  const auto* from = read<float>(x, images * size);
  const auto* offsets = read<float>(bias, classes * count);
  const auto* bank = static_cast<const float*>(prototypes.data());
  auto* best = write<float>(distance, images * classes);
  auto* which = write<int64_t>(index, images * classes);
  if (images * classes == 0) return;
  const NearestKernels& kernels = active_set().nearest;
  const py::gil_scoped_release release;

  const int64_t width = (size + kLine - 1) / kLine * kLine;
  const AlignedFloats rows =
      aligned((images + kNearestTile) * width);  // tiles of images may pass the last one
  std::fill_n(rows.get(), (images + kNearestTile) * width, 0.0f);
  std::vector<double> squares(static_cast<size_t>(images));
  for (int64_t i = 0; i < images; ++i)
    for (int64_t j = 0; j < size; ++j) {
      const float value = from[i * size + j];
      rows[i * width + j] = value;
      squares[static_cast<size_t>(i)] += static_cast<double>(value) * value;
    }
  std::vector<int64_t> begins, ends;
  for (int64_t i = 0; i < images; i += kernels.tile) {
    int64_t begin = width, end = 0;
    for (int64_t row = i; row < std::min(images, i + kernels.tile); ++row)
      for (int64_t j = 0; j < width; ++j)
        if (rows[row * width + j] != 0)
          begin = std::min(begin, j / kLine * kLine), end = std::max(end, (j / kLine + 1) * kLine);
    begins.push_back(begin);
    ends.push_back(end);
  }
  const NearestProblem problem{rows.get(), squares.data(), images, size, width, begins.data(), ends.data()};

  // ranges small enough to balance and to stay in the last cache, large enough that their first minima cost
  // little
  const int64_t parts =
      std::max<int64_t>(1, std::min<int64_t>(count / 256, (8 * most_threads() + classes - 1) / classes));
  const auto tasks = static_cast<size_t>(classes * parts);
  std::vector<double> minima(tasks * static_cast<size_t>(images));
  std::vector<int64_t> places(minima.size());
  std::vector<AlignedFloats> scratch;
  for (int t = most_threads(); t-- > 0;) scratch.push_back(aligned(nearest_scratch(width)));
  parallel_dynamic(classes * parts, [&](int64_t task, int thread) {
    const int64_t label = task / parts, part = task % parts;
    kernels.search(problem, bank + label * step, offsets + label * count, count * part / parts,
                   count * (part + 1) / parts, minima.data() + task * images, places.data() + task * images,
                   scratch[static_cast<size_t>(thread)].get());
  });
  for (int64_t label = 0; label < classes; ++label)
    for (int64_t i = 0; i < images; ++i) {
      double least = 0;
      for (int64_t part = 0; part < parts; ++part) {
        const auto at = static_cast<size_t>((label * parts + part) * images + i);
        // NaN wins as in torch.min, the first one of them
        if (part == 0 || minima[at] < least || (std::isnan(minima[at]) && !std::isnan(least))) {
          least = minima[at];
          which[i * classes + label] = places[at];
        }
      }
      best[i * classes + label] = static_cast<float>(least);
    }
}

}  // namespace

void bind_nearest(py::module_& module) { module.def("nearest_prototype", nearest_prototype); }

}  // namespace fastadv
