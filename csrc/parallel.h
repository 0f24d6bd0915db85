// Work split over OpenMP threads. torch.set_num_threads governs them: torch is imported first, and both share
// one OpenMP runtime.
#pragma once

#include <algorithm>
#include <cstdint>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace fastadv {

// Below this many elements a second thread costs more than it saves.
constexpr int64_t kGrain = 16384;

// Set in the child of a fork: it has none of the threads that OpenMP started, and would wait for them
// forever.
inline bool forked = false;

inline int most_threads() {
#ifdef _OPENMP
  return forked || omp_in_parallel() ? 1 : omp_get_max_threads();
#else
  return 1;
#endif
}

// The threads worth starting for `count` tasks of `elements` elements each; at least one.
inline int useful_threads(int64_t count, int64_t elements) {
  const int64_t useful = std::min(count, count * elements / kGrain);
  return static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(most_threads(), useful)));
}

// Call body(first, last, thread) on disjoint ranges that cover [0, count), on at most `threads` threads.
template <class Body>
void parallel_for(int64_t count, [[maybe_unused]] int threads, const Body& body) {
#ifdef _OPENMP
  if (threads > 1) {
#pragma omp parallel num_threads(threads)
    {
      const int64_t part = omp_get_thread_num(), parts = omp_get_num_threads();
      body(count * part / parts, count * (part + 1) / parts, omp_get_thread_num());
    }
    return;
  }
#endif
  if (count > 0) body(int64_t{0}, count, 0);
}

// Call body(task, thread) for every task, each taken by the next free thread: for long tasks of unequal
// length, or on a machine with other work.
template <class Body>
void parallel_dynamic(int64_t tasks, const Body& body) {
#ifdef _OPENMP
  const int threads = static_cast<int>(std::min<int64_t>(most_threads(), tasks));
  if (threads > 1) {
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t task = 0; task < tasks; ++task) body(task, omp_get_thread_num());
    return;
  }
#endif
  for (int64_t task = 0; task < tasks; ++task) body(task, 0);
}

}  // namespace fastadv
