// The extension: what it knows of this process, and every kernel.
#include <pybind11/stl.h>
#ifndef _WIN32
#include <pthread.h>
#endif

#include <string>
#include <vector>

#include "bind.h"
#include "build.h"
#include "isa.h"
#include "tensors.h"

namespace fastadv {
namespace {

// Whether all of these are values, or tensors of which torch's dispatcher knows no more than of a dense one
// on the CPU: `keys` tells what it knows of one, `dense` is what it knows of those. No graph may be made: one
// is where torch `follows` gradients and a tensor wants one.
bool usual(const py::sequence& values, bool follows, const py::object& keys, uint64_t dense, bool in_list) {
  const TorchNames& names = torch_names();
  for (const py::handle value : values) {
    PyTypeObject* const kind = Py_TYPE(value.ptr());
    if (kind == names.tensor || kind == names.parameter) {
      if (follows && member(value, names.requires_grad).ptr() == Py_True) return false;
      const auto known = owned(PyObject_CallOneArg(keys.ptr(), value.ptr()));
      if (PyLong_AsUnsignedLongLongMask(called(known, names.raw_repr).ptr()) != dense) return false;
    } else if (kind == &PyList_Type) {
      if (in_list || !usual(py::reinterpret_borrow<py::sequence>(value), follows, keys, dense, true))
        return false;
    } else if (kind != &PyFloat_Type && kind != &PyBool_Type && kind != &PyLong_Type &&
               kind != &PyUnicode_Type && !value.is_none()) {
      return false;
    }
  }
  return true;
}

std::vector<std::string> isas() {
  std::vector<std::string> names;
  for (const auto* set : available_sets()) names.emplace_back(set->name);
  return names;
}

}  // namespace

PYBIND11_MODULE(_C, module) {
#ifndef _WIN32
  pthread_atfork(nullptr, nullptr, [] { forked = true; });
#endif
  module.doc() = "C++ kernels over tensors; called by fastadv.ops.";
  module.def("isa", [] { return std::string(active_set().name); }, "The instruction set in use.");
  module.def("isas", isas, "The instruction sets this processor has, best last.");
  module.def("threads", most_threads, "The threads a parallel kernel may use.");
  module.def("usual", usual, py::arg(), py::arg(), py::arg(), py::arg(), py::arg("in_list") = false,
             "Whether a call needs nothing of torch's dispatcher but the CPU kernel.");
  module.attr("__version__") = KERNEL_VERSION;  // of the package, which refuses another's
  module.attr("build") = build();
  bind_latent(module);
  bind_nearest(module);
  bind_points(module);
  bind_rows(module);
  bind_thin(module);
  bind_winograd(module);
}

}  // namespace fastadv
