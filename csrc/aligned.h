// Memory that starts at a cache line, so that no vector straddles two.
#pragma once

#include <cstdint>
#include <memory>
#include <new>

namespace fastadv {

struct Aligned {
  void operator()(float* memory) const { ::operator delete[](memory, std::align_val_t{64}); }
};
using AlignedFloats = std::unique_ptr<float[], Aligned>;

inline AlignedFloats aligned(int64_t count) {
  return AlignedFloats(new (std::align_val_t{64}) float[static_cast<size_t>(count)]);
}

}  // namespace fastadv
