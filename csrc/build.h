// What built the extension: versions, flags and instruction sets, as text by name.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "kernels.h"

// setup.py names them
#ifndef KERNEL_FLAGS
#define KERNEL_FLAGS "unknown"
#endif

namespace fastadv {

inline pybind11::dict build() {
  pybind11::dict made;
#if defined(__clang__)
  made["compiler"] = "clang " __clang_version__;
#elif defined(__GNUC__)
  made["compiler"] = "g++ " __VERSION__;
#else
  made["compiler"] = "unknown";
#endif
  made["standard"] = "C++" + std::to_string(__cplusplus / 100 % 100);
  made["flags"] = KERNEL_FLAGS;
#ifdef FASTADV_X86
  made["targets"] = "baseline avx2 avx512 avx512bf16";
#else
  made["targets"] = "baseline";
#endif
#ifdef _OPENMP
  made["openmp"] = std::to_string(_OPENMP);
#else
  made["openmp"] = "none";
#endif
#ifdef __GLIBC__
  made["libc"] = "glibc " + std::to_string(__GLIBC__) + "." + std::to_string(__GLIBC_MINOR__);
#else
  made["libc"] = "unknown";
#endif
  made["pybind11"] = PYBIND11_TOSTRING(PYBIND11_VERSION_MAJOR) "." PYBIND11_TOSTRING(
      PYBIND11_VERSION_MINOR) "." PYBIND11_TOSTRING(PYBIND11_VERSION_PATCH);
  made["python"] = PY_VERSION;
  return made;
}

}  // namespace fastadv
