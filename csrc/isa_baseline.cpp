// What every processor of the build's architecture runs. Standard headers come first, so that nothing of
// theirs is compiled for a set the processor may lack.
#include "kernels.h"

namespace fastadv::baseline {
#include "kernels/all.inl"

constinit const KernelSet kernels = set("baseline");
}  // namespace fastadv::baseline
