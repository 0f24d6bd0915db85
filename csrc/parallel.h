// Work split by rows over OpenMP threads, governed by torch.set_num_threads: torch is imported first, so both share one OpenMP runtime.
#pragma once

#include <algorithm>
#include <cstdint>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace fastadv {

// Below this many elements a second thread costs more than it saves.
constexpr int64_t kGrain = 16384;

// Call body(first, last) on disjoint ranges that cover [0, count); `elements` is the work behind one of the count.
template <class Body>
void parallel_for(int64_t count, int64_t elements, const Body& body) {
#ifdef _OPENMP
  const int64_t useful = std::min(count, count * elements / kGrain);
  const int threads = static_cast<int>(std::min<int64_t>(omp_get_max_threads(), useful));
  if (threads > 1 && !omp_in_parallel()) {
#pragma omp parallel num_threads(threads)
    {
      const int64_t part = omp_get_thread_num(), parts = omp_get_num_threads();
      body(count * part / parts, count * (part + 1) / parts);
    }
    return;
  }
#endif
  if (count > 0) body(int64_t{0}, count);
}

}  // namespace fastadv
