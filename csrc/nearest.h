// The search for the nearest of many prototypes: what a caller describes.
#pragma once

#include <cstdint>

namespace fastadv {

struct NearestProblem {
  const float* x;         // [images, width], zero beyond `size`
  const double* squares;  // [images] ||x||^2
  int64_t images, size, width;
};

// Floats of scratch that a search needs: a tile of prototypes, and its products with a block of images.
constexpr int64_t kNearestTile = 4, kNearestBlock = 128;

struct NearestKernels {
  // For every image the least ||x - p||^2 + bias over prototypes [from, to) of one class, and the lowest index that has it.
  void (*search)(const NearestProblem& problem, const float* prototypes, const float* bias, int64_t from, int64_t to, double* best, int64_t* index,
                 float* scratch);
};

}  // namespace fastadv
