// NumPy views in, rows out. Checks are the Python side's; a wrong size here is a bug of ours and throws.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>

#include "isa.h"
#include "parallel.h"

namespace fastadv {

namespace py = pybind11;
using Array = py::array;
using OptionalRows = std::optional<py::array_t<double>>;

template <class T>
Rows<T> as_rows(const Array& array) {
  const int64_t rows = array.shape(0);
  return {static_cast<T*>(const_cast<void*>(array.data())), rows,
          rows ? static_cast<int64_t>(array.size()) / rows : 0};
}

template <class T>
T* as_column(const Array& array, int64_t rows) {
  if (array.ndim() != 1 || array.shape(0) != rows || array.itemsize() != sizeof(T))
    throw std::invalid_argument("column of another size");
  return static_cast<T*>(const_cast<void*>(array.data()));
}

inline PerRow as_per_row(double value, const OptionalRows& rows, int64_t count) {
  return {value, rows ? as_column<const double>(*rows, count) : nullptr};
}

inline void same_size(const Array& first, const Array& other) {
  if (first.size() != other.size() || first.itemsize() != other.itemsize())
    throw std::invalid_argument("arrays of another size");
}

// Call body(element, kernels) for the element type of `array`: 4 bytes float, 2 bytes bfloat16.
template <class Body>
void with_kernels(const Array& array, const Body& body) {
  const KernelSet& set = active_set();
  if (array.itemsize() == 4)
    body(float{}, set.f32);
  else
    body(bf16{}, set.b16);
}

// parallel_for with the GIL released, and only meanwhile: even looking at an array's type moves a reference
// count.
template <class Body>
void parallel_without_gil(int64_t count, int64_t elements, const Body& body) {
  const py::gil_scoped_release release;
  parallel_for(count, elements, body);
}

}  // namespace fastadv
