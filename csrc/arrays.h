// NumPy views in, rows out. The Python side has checked a caller's arguments; a type, size or layout that is
// wrong here is a bug of ours, and throws.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

#include "isa.h"
#include "parallel.h"

namespace fastadv {

namespace py = pybind11;
using Array = py::array;
using OptionalArray = std::optional<Array>;

// How NumPy describes an element type. bfloat16, which NumPy lacks, comes as int16.
template <class T>
struct ElementType;
template <>
struct ElementType<float> {
  static constexpr char kind = 'f';
  static constexpr const char* name = "float32";
};
template <>
struct ElementType<double> {
  static constexpr char kind = 'f';
  static constexpr const char* name = "float64";
};
template <>
struct ElementType<bf16> {
  static constexpr char kind = 'i';
  static constexpr const char* name = "bfloat16 as int16";
};
template <>
struct ElementType<int32_t> {
  static constexpr char kind = 'i';
  static constexpr const char* name = "int32";
};
template <>
struct ElementType<int64_t> {
  static constexpr char kind = 'i';
  static constexpr const char* name = "int64";
};
template <>
struct ElementType<bool> {
  static constexpr char kind = 'b';
  static constexpr const char* name = "bool";
};

template <class T>
bool holds(const Array& array) {
  const py::dtype type = array.dtype();
  return type.kind() == ElementType<T>::kind && type.itemsize() == sizeof(T) &&
         (type.byteorder() == '=' || type.byteorder() == '|');
}

[[noreturn]] inline void wrong_type(const std::string& expected, const Array& array) {
  throw py::type_error("expected an array of " + expected + ", got " +
                       py::str(array.dtype()).cast<std::string>());
}

template <class T>
void check_type(const Array& array) {
  if (!holds<T>(array)) wrong_type(ElementType<T>::name, array);
}

inline bool is_dense(const Array& array) { return array.flags() & py::array::c_style; }

inline bool is_channels_last(const Array& array) {
  if (array.ndim() != 4) return false;
  py::ssize_t step = array.itemsize();
  for (const int axis : {1, 3, 2, 0}) {
    if (array.shape(axis) != 1 && array.strides(axis) != step) return false;
    step *= array.shape(axis);
  }
  return true;
}

// Throw unless all arrays have one shape and layout: all dense, or all channels-last.
template <class... Arrays>
void check_places(const Array& first, const Arrays&... others) {
  [[maybe_unused]] const auto alike = [&](const Array& other) {
    return other.ndim() == first.ndim() &&
           std::equal(first.shape(), first.shape() + first.ndim(), other.shape());
  };
  if (first.ndim() < 1 || !(alike(others) && ...)) throw std::invalid_argument("arrays of different shapes");
  if (!(is_dense(first) && (is_dense(others) && ...)) &&
      !(is_channels_last(first) && (is_channels_last(others) && ...)))
    throw std::invalid_argument("arrays of different layouts");
}

// The same, and unless they have one type.
template <class... Arrays>
void check_alike(const Array& first, const Arrays&... others) {
  [[maybe_unused]] const auto check = [&](const Array& other) {
    if (other.dtype().num() != first.dtype().num())
      wrong_type(py::str(first.dtype()).cast<std::string>(), other);
  };
  (check(others), ...);
  check_places(first, others...);
}

// The elements of a dense array of `size` elements, to be read.
template <class T>
const T* read(const Array& array, int64_t size) {
  check_type<T>(array);
  if (array.size() != size || !is_dense(array))
    throw std::invalid_argument("expected a dense array of " + std::to_string(size) + " elements, got " +
                                std::to_string(array.size()));
  return static_cast<const T*>(array.data());
}

// The same to be written; NumPy throws where the array is read-only.
template <class T>
T* write(Array& array, int64_t size) {
  read<T>(array, size);
  return static_cast<T*>(array.mutable_data());
}

// A batch as rows, in whichever order the elements of a row lie: check_alike has checked the layout.
template <class T>
Rows<const T> read_rows(const Array& array) {
  check_type<T>(array);
  const int64_t rows = array.shape(0);
  return {static_cast<const T*>(array.data()), rows, rows ? static_cast<int64_t>(array.size()) / rows : 0};
}
template <class T>
Rows<T> write_rows(Array& array) {
  const Rows<const T> rows = read_rows<T>(array);
  return {static_cast<T*>(array.mutable_data()), rows.rows, rows.cols};
}

inline PerRow per_row(double value, const OptionalArray& rows, int64_t count) {
  return {value, rows ? read<double>(*rows, count) : nullptr};
}

// Call body(element, kernels) for the element type of `batch`.
template <class Body>
void with_kernels(const Array& batch, const Body& body) {
  const KernelSet& set = active_set();
  if (holds<float>(batch))
    body(float{}, set.f32);
  else if (holds<bf16>(batch))
    body(bf16{}, set.b16);
  else
    wrong_type("float32, or bfloat16 as int16", batch);
}

// The place of `name` among `names`, as an enumerator of E.
template <class E, size_t N>
E named(std::string_view name, const char* const (&names)[N]) {
  for (size_t i = 0; i < N; ++i)
    if (name == names[i]) return static_cast<E>(i);
  throw std::invalid_argument("unknown name: " + std::string(name));
}

// parallel_for with the GIL released, and only meanwhile: even looking at an array's type changes a reference
// count.
template <class Body>
void parallel_without_gil(int64_t count, int threads, const Body& body) {
  const py::gil_scoped_release release;
  parallel_for(count, threads, body);
}

}  // namespace fastadv
