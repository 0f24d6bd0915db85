// The groups of kernels that module.cpp binds.
#pragma once

#include <pybind11/pybind11.h>

namespace fastadv {

void bind_images(pybind11::module_& module);
void bind_nearest(pybind11::module_& module);
void bind_points(pybind11::module_& module);
void bind_latent(pybind11::module_& module);
void bind_rows(pybind11::module_& module);
void bind_thin(pybind11::module_& module);
void bind_winograd(pybind11::module_& module);

}  // namespace fastadv
