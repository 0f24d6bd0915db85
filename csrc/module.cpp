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
  module.attr("__version__") = KERNEL_VERSION;  // of the package, which refuses another's
  module.attr("build") = build();
  bind_images(module);
  bind_latent(module);
  bind_nearest(module);
  bind_points(module);
  bind_rows(module);
  bind_thin(module);
  bind_winograd(module);
}

}  // namespace fastadv
