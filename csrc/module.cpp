// The extension: what it knows of this process, and every kernel.
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "bind.h"
#include "build.h"
#include "isa.h"
#include "parallel.h"

namespace fastadv {
namespace {

std::vector<std::string> isas() {
  std::vector<std::string> names;
  for (const auto* set : available_sets()) names.emplace_back(set->name);
  return names;
}

int threads() {
#ifdef _OPENMP
  return omp_get_max_threads();
#else
  return 1;
#endif
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "C++ kernels over NumPy views; called by fastadv.ops.";
  module.def("isa", [] { return std::string(active_set().name); }, "The instruction set in use.");
  module.def("isas", isas, "The instruction sets this processor has, best last.");
  module.def("threads", threads, "The threads a parallel kernel may use.");
  module.attr("build") = build();
  bind_latent(module);
  bind_nearest(module);
  bind_points(module);
  bind_rows(module);
  bind_thin(module);
  bind_winograd(module);
}

}  // namespace fastadv
