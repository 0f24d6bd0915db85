// The search for the nearest of many prototypes: what a caller describes.
#pragma once

#include <cstdint>

namespace fastadv {

struct NearestProblem {
  const float* x;         // [images, width], zero beyond `size`
  const double* squares;  // [images] ||x||^2
  int64_t images, size, width;
  // For each tile of images the columns, in whole vectors, outside which all are zero.
  const int64_t *begins, *ends;
};

// A tile holds at most kNearestTile images and as many prototypes, a block kNearestBlock images. Scratch: a
// tile of prototypes, then a threshold and a product for each pair of an image of a block, or of a tile
// beyond it, and a prototype of the tile.
constexpr int64_t kNearestTile = 4, kNearestBlock = 128;

constexpr int64_t nearest_scratch(int64_t width) {
  return kNearestTile * (width + 2 * (kNearestBlock + kNearestTile));
}

struct NearestKernels {
  int64_t tile;  // images
  // For every image the least ||x - p||^2 + bias over prototypes [from, to) of one class, and the lowest
  // index that has it.
  void (*search)(const NearestProblem& problem, const float* prototypes, const float* bias, int64_t from,
                 int64_t to, double* best, int64_t* index, float* scratch);
};

}  // namespace fastadv
