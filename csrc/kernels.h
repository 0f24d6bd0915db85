// What each instruction set provides: one table of row loops for each element type.
// A function handles rows [first, last); splitting them over threads is the caller's.
#pragma once

#include "rows.h"

namespace fastadv {

template <class T>
struct Kernels {
  // Elementwise over columns [from, to) of one row, so that a single long row can be split too.
  void (*linf_step)(T* out, const T* x_adv, const T* grad, const T* x, int64_t from, int64_t to, double radius, double step, Box box);
  void (*l2_step)(T* out, const T* x_adv, const T* grad, const T* x, int64_t cols, double radius, double step, Box box, double* scratch);
  void (*project_l2)(T* out, const T* x_adv, const T* x, int64_t cols, double radius, Box box, double* scratch);
};

struct KernelSet {
  const char* name;
  Kernels<float> f32;
  Kernels<bf16> b16;
};

namespace baseline { extern const KernelSet kernels; }
#if defined(__x86_64__) || defined(_M_X64)
#define FASTADV_X86 1
namespace avx2 { extern const KernelSet kernels; }
namespace avx512 { extern const KernelSet kernels; }
#endif

}  // namespace fastadv
