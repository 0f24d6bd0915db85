// Tensors in, rows out. The extension links no torch, so that one build serves all versions of it: what a
// tensor is is read through Python, once a call. The Python side has checked a caller's arguments; a type,
// size or layout that is wrong here is a bug of ours, and throws.
#pragma once

#include <pybind11/gil_safe_call_once.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

#include "isa.h"
#include "parallel.h"

namespace fastadv {

namespace py = pybind11;

// The names of torch's element types, and the place of each among the types of C++.
constexpr const char* kElements[] = {"float32", "float64", "bfloat16", "int32", "int64", "bool", "uint8"};
template <class T, class... Types>
constexpr size_t place_among() {
  size_t place = 0;
  (void)((std::is_same_v<T, Types> || (++place, false)) || ...);
  return place;
}
template <class T>
constexpr size_t kElement = place_among<T, float, double, bf16, int32_t, int64_t, bool, uint8_t>();

// What is asked of torch, looked up once.
struct TorchNames {
  py::str shape{"shape"}, dtype{"dtype"}, stride{"stride"}, is_contiguous{"is_contiguous"},
      data_ptr{"data_ptr"};
  std::array<PyObject*, std::size(kElements)> elements;

  TorchNames() {
    const auto torch = py::module_::import("torch");
    const auto kept = [](const py::object& object) { return object.inc_ref().ptr(); };
    for (size_t place = 0; place < elements.size(); ++place)
      elements[place] = kept(torch.attr(kElements[place]));
  }
};

inline const TorchNames& torch_names() {
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<TorchNames> names;
  return names.call_once_and_store_result([] { return TorchNames(); }).get_stored();
}

inline py::object owned(PyObject* made) {
  if (made == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(made);
}
inline py::object member(py::handle given, const py::str& name) {
  return owned(PyObject_GetAttr(given.ptr(), name.ptr()));
}
inline py::object called(py::handle given, const py::str& name) {
  return owned(PyObject_CallMethodNoArgs(given.ptr(), name.ptr()));
}

// What a binding knows of a tensor on the CPU; it does not own the memory.
class Tensor {
 public:
  static constexpr int64_t kMostAxes = 64;  // of a tensor of torch

  Tensor() = default;

  // Throws a Python error where `given` is no such tensor.
  explicit Tensor(py::handle given) {
    const TorchNames& names = torch_names();
    const auto shape = member(given, names.shape), dtype = member(given, names.dtype);
    if (!PyTuple_Check(shape.ptr()) || PyTuple_GET_SIZE(shape.ptr()) > kMostAxes)
      throw py::type_error("expected a tensor of at most " + std::to_string(kMostAxes) + " axes");
    axes_ = PyTuple_GET_SIZE(shape.ptr());
    for (int64_t axis = 0; axis < axes_; ++axis)
      size_ *= shape_[axis] = PyLong_AsLongLong(PyTuple_GET_ITEM(shape.ptr(), axis));
    const auto found = std::find(names.elements.begin(), names.elements.end(), dtype.ptr());
    element_ = static_cast<size_t>(found - names.elements.begin());
    dtype_ = dtype.ptr();
    dense_ = called(given, names.is_contiguous).ptr() == Py_True;
    if (!dense_) read_strides(called(given, names.stride));
    data_ = PyLong_AsVoidPtr(called(given, names.data_ptr).ptr());
    if (PyErr_Occurred()) throw py::error_already_set();
  }

  int64_t ndim() const { return axes_; }
  int64_t shape(int64_t axis) const { return shape_[axis]; }
  int64_t size() const { return size_; }
  bool dense() const { return dense_; }
  void* data() const { return data_; }
  size_t element() const { return element_; }
  std::string dtype() const { return py::str(py::handle(dtype_)); }
  bool alike(const Tensor& other) const {
    return axes_ == other.axes_ && std::equal(shape_.begin(), shape_.begin() + axes_, other.shape_.begin());
  }

  // In elements.
  int64_t stride(int64_t axis) const {
    if (!dense_) return strides_[axis];
    int64_t step = 1;
    while (++axis < axes_) step *= shape_[axis];
    return step;
  }

  bool channels_last() const {
    if (axes_ != 4) return false;
    int64_t step = 1;
    for (const int axis : {1, 3, 2, 0}) {
      if (shape_[axis] != 1 && stride(axis) != step) return false;
      step *= shape_[axis];
    }
    return true;
  }

 private:
  void read_strides(const py::object& strides) {
    for (int64_t axis = 0; axis < axes_; ++axis)
      strides_[axis] = PyLong_AsLongLong(PyTuple_GET_ITEM(strides.ptr(), axis));
  }

  void* data_ = nullptr;
  PyObject* dtype_ = nullptr;  // torch holds it
  size_t element_ = std::size(kElements);
  bool dense_ = true;
  int64_t axes_ = 0, size_ = 1;
  std::array<int64_t, kMostAxes> shape_, strides_;
};

using OptionalTensor = std::optional<Tensor>;

template <class T>
bool holds(const Tensor& tensor) {
  return tensor.element() == kElement<T>;
}

[[noreturn]] inline void wrong_type(const std::string& expected, const Tensor& tensor) {
  throw py::type_error("expected a tensor of " + expected + ", got " + tensor.dtype());
}

template <class T>
void check_type(const Tensor& tensor) {
  if (!holds<T>(tensor)) wrong_type(kElements[kElement<T>], tensor);
}

// Throw unless all tensors have one shape and layout: all dense, or all channels-last.
template <class... Tensors>
void check_places(const Tensor& first, const Tensors&... others) {
  if (first.ndim() < 1 || !(first.alike(others) && ...))
    throw std::invalid_argument("tensors of different shapes");
  if (!(first.dense() && (others.dense() && ...)) &&
      !(first.channels_last() && (others.channels_last() && ...)))
    throw std::invalid_argument("tensors of different layouts");
}

// The same, and unless they have one type.
template <class... Tensors>
void check_alike(const Tensor& first, const Tensors&... others) {
  [[maybe_unused]] const auto check = [&](const Tensor& other) {
    if (other.element() != first.element()) wrong_type(first.dtype(), other);
  };
  (check(others), ...);
  check_places(first, others...);
}

// The elements of a dense tensor of `size` elements, to be read.
template <class T>
const T* read(const Tensor& tensor, int64_t size) {
  check_type<T>(tensor);
  if (tensor.size() != size || !tensor.dense())
    throw std::invalid_argument("expected a dense tensor of " + std::to_string(size) + " elements, got " +
                                std::to_string(tensor.size()));
  return static_cast<const T*>(tensor.data());
}

// The same to be written.
template <class T>
T* write(const Tensor& tensor, int64_t size) {
  return const_cast<T*>(read<T>(tensor, size));
}

// A batch as rows, in whichever order the elements of a row lie: check_alike has checked the layout.
template <class T>
Rows<const T> read_rows(const Tensor& tensor) {
  check_type<T>(tensor);
  const int64_t rows = tensor.shape(0);
  return {static_cast<const T*>(tensor.data()), rows, rows ? tensor.size() / rows : 0};
}
template <class T>
Rows<T> write_rows(const Tensor& tensor) {
  const Rows<const T> rows = read_rows<T>(tensor);
  return {static_cast<T*>(tensor.data()), rows.rows, rows.cols};
}

inline PerRow per_row(double value, const OptionalTensor& rows, int64_t count) {
  return {value, rows ? read<double>(*rows, count) : nullptr};
}

// Call body(element, kernels) for the element type of `batch`.
template <class Body>
void with_kernels(const Tensor& batch, const Body& body) {
  const KernelSet& set = active_set();
  if (holds<float>(batch))
    body(float{}, set.f32);
  else if (holds<bf16>(batch))
    body(bf16{}, set.b16);
  else
    wrong_type("float32 or bfloat16", batch);
}

// The place of `name` among `names`, as an enumerator of E.
template <class E, size_t N>
E named(std::string_view name, const char* const (&names)[N]) {
  for (size_t i = 0; i < N; ++i)
    if (name == names[i]) return static_cast<E>(i);
  throw std::invalid_argument("unknown name: " + std::string(name));
}

// parallel_for with the GIL released, and only meanwhile.
template <class Body>
void parallel_without_gil(int64_t count, int threads, const Body& body) {
  const py::gil_scoped_release release;
  parallel_for(count, threads, body);
}

}  // namespace fastadv

namespace pybind11::detail {

template <>
struct type_caster<fastadv::Tensor> {
  PYBIND11_TYPE_CASTER(fastadv::Tensor, const_name("Tensor"));
  bool load(handle given, bool) {
    value = fastadv::Tensor(given);
    return true;
  }
};

}  // namespace pybind11::detail
