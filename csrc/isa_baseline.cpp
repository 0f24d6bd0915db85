// What every processor of the build's architecture runs. Standard headers come first, so that nothing of theirs is compiled for a set the processor may lack.
#include "kernels.h"

namespace fastadv::baseline {
#include "kernels/all.inl"

const KernelSet kernels{"baseline", table<float>(), table<bf16>()};
}  // namespace fastadv::baseline
