// What built the extension: the versions that decide how it behaves, as text by name.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

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
  return made;
}

}  // namespace fastadv
