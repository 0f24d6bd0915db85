// Both ends of Winograd's convolution: rows of tiles split over threads.
#include "bind.h"
#include "parallel.h"
#include "tensors.h"

namespace fastadv {
namespace {

// Of images [B, height, width, channels] that are read; of those that are written with a padding of 1, which
// keeps the size.
WinogradShape shape_of(const Tensor& images, const Tensor& parts, int64_t size, int64_t padding) {
  if ((size != 2 && size != 4) || images.ndim() != 4 || parts.ndim() != 3 || !images.dense() ||
      !parts.dense())
    throw std::invalid_argument("winograd: expected dense images, dense parts, and tiles of 2 or 4");
  const int64_t height = images.shape(1), width = images.shape(2), more = 2 * padding - 2 + size - 1;
  const int64_t down = (height + more) / size, across = (width + more) / size;
  const WinogradShape shape{height, width, images.shape(3), padding,
                            size,   down,  across,          images.shape(0) * down * across};
  if (parts.shape(0) != shape.tiles || parts.shape(1) != (size + 2) * (size + 2) ||
      parts.shape(2) != shape.channels)
    throw std::invalid_argument("winograd: arrays that do not fit");
  return shape;
}

// body(image, row, first tile of the row) for all rows of tiles.
template <class Body>
void each_row_of_tiles(const WinogradShape& shape, const Body& body) {
  const int64_t rows = shape.across ? shape.tiles / shape.across : 0,
                work = shape.across * shape.channels * shape.size * shape.size;
  const py::gil_scoped_release release;
  parallel_for(rows, useful_threads(rows, work), [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) body(row / shape.down, row % shape.down, row * shape.across);
  });
}

void winograd_tiles(const Tensor& out, const Tensor& x, int64_t size, int64_t padding) {
  const WinogradShape shape = shape_of(x, out, size, padding);
  with_kernels(x, [&](auto element, const auto& kernels) {
    using T = decltype(element);
    const auto images = read_rows<T>(x);
    T* to = write_rows<T>(out).data;
    each_row_of_tiles(shape, [&](int64_t image, int64_t row, int64_t first) {
      kernels.winograd_tiles(to, images[image], shape, row, first);
    });
  });
}

void winograd_image(const Tensor& out, const Tensor& products, const OptionalTensor& bias, const py::object&,
                    int64_t size) {
  const WinogradShape shape = shape_of(out, products, size, 1);
  const float* added = bias ? read<float>(*bias, shape.channels) : nullptr;
  with_kernels(products, [&](auto element, const auto& kernels) {
    using T = decltype(element);
    const auto images = write_rows<T>(out);
    const T* from = read_rows<T>(products).data;
    each_row_of_tiles(shape, [&](int64_t image, int64_t row, int64_t first) {
      kernels.winograd_image(images[image], from, added, shape, row, first);
    });
  });
}

}  // namespace

void bind_winograd(py::module_& module) {
  module.def("winograd_tiles", winograd_tiles);
  module.def("winograd_image", winograd_image);
}

}  // namespace fastadv
