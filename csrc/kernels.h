// What each instruction set provides: one table of row loops for each element type.
// A function handles one row, or the elements [from, to) of one; splitting them over threads is the caller's.
#pragma once

#include <algorithm>
#include <numeric>

#include "latent.h"
#include "nearest.h"
#include "rows.h"

namespace fastadv {

// Names as the schemas of the ops have them, in the order of the enumerators.
enum class Norm { linf, l2, l1, l0 };
constexpr const char* kNorms[] = {"linf", "l2", "l1", "l0"};
enum class LossKind { ce, margin, cw, dlr, ce_sharp };
constexpr const char* kLosses[] = {"ce", "margin", "cw", "dlr", "ce_sharp"};
enum class RandomKind { bits, uniform, normal, sign };
constexpr const char* kRandomKinds[] = {"bits", "uniform", "normal", "sign"};

// The random words of one sample and draw.
struct Stream {
  uint64_t seed, id;
  uint32_t draw;
};
inline Stream stream(int64_t seed, int64_t id, int64_t draw) {
  return {static_cast<uint64_t>(seed), static_cast<uint64_t>(id), static_cast<uint32_t>(draw)};
}

// The shape of a row that is an image.
struct Image {
  int64_t channels, height, width;
};
// A rectangle of its pixels.
struct Window {
  int64_t top, left, tall, wide;
};

// The taps of a stencil. They read rows of `pitch` floats, which begin at column `left` of the image; rows of
// the result read those from `top` to `bottom` below. Its first pixel is the sum of those at the places.
struct Stencil {
  const int64_t* places;
  const float* weights;
  int64_t count, top, bottom, left, pitch;
};

// A convolution of few channels: of its weights, its input, its output, and how they meet.
struct ThinShape {
  int64_t channels, outputs;
  int64_t kernel[2], size[2], out[2], stride[2], padding[2], dilation[2];
};
constexpr int kThinChannels = 4, kThinUnroll = 4;
// Outputs in whole unrolled groups: those beyond the last have weights of zero.
inline int64_t thin_planes(const ThinShape& shape) {
  return (shape.outputs + kThinUnroll - 1) / kThinUnroll * kThinUnroll;
}

// Images [height, width, channels], and their tiles: size by size elements of the result each, so many of
// them down and across an image, and in a whole batch.
struct WinogradShape {
  int64_t height, width, channels, padding, size, down, across, tiles;
};

// Scratch that every row loop may use, with this many doubles and floats for each column. It starts with
// arbitrary contents.
struct Scratch {
  double* doubles;
  float* floats;
};
constexpr int64_t kScratchDoubles = 3, kScratchFloats = 2;

// A discrete distribution of whole numbers, as an alias table of 2^width entries: threshold, then alias.
constexpr int kChoiceBits = 47, kAliasBits = 16;
constexpr int64_t kLastAlias = (1 << kAliasBits) - 1;
struct AliasTable {
  const int64_t* entries;
  int width;
  int32_t center;
};

// What is known of a sample in a search along gradients: its best point, the largest gradient element, and
// `noted` numbers of how its rank rose. Whether the point at hand is a success is written, too.
struct Judged {
  float *best, *best_rank;
  bool *best_success, *not_finite;
  float *steepest, *ranks;
  int64_t noted;
  bool* success;
};
// A step in L-infinity around x; none where x is null.
struct Move {
  const float* x;
  double radius, step;
  Box box;
};

template <class T>
struct Kernels {
  void (*linf_step)(T* out, const T* x_adv, const T* grad, const T* x, int64_t from, int64_t to,
                    double radius, double step, Box box);
  void (*linf_step_narrow)(T* out, const T* x_adv, const bf16* grad, const T* x, int64_t from, int64_t to,
                           double radius, double step, Box box);
  void (*l2_step)(T* out, const T* x_adv, const T* grad, const T* x, int64_t cols, double radius, double step,
                  Box box, Scratch scratch);
  void (*l1_step)(T* out, const T* x_adv, const T* grad, const T* x, int64_t cols, double radius, double step,
                  Box box, Scratch scratch);
  void (*project_l2)(T* out, const T* x_adv, const T* x, int64_t cols, double radius, Box box,
                     Scratch scratch);
  void (*project_l1)(T* out, const T* x_adv, const T* x, int64_t cols, double radius, Box box,
                     Scratch scratch);
  void (*project_l0)(T* out, const T* x_adv, const T* x, int64_t cols, double radius, Box box,
                     Scratch scratch);
  void (*to_hyperplane)(T* out, const T* points, const T* normal, int64_t cols, double lack, Norm norm,
                        Box box, Scratch scratch);
  void (*square_linf)(T* out, const T* best, const T* lower, const T* upper, const int64_t* words,
                      Image image, int64_t tall, int64_t wide);
  void (*square_bumps)(T* out, const T* best, const T* x, const int64_t* words, const T* bumps, Image image,
                       int64_t tall, int64_t wide, Norm norm, double radius, Box box, Scratch scratch);
  void (*sparse_rs)(T* out, const T* best, const T* x, int64_t cols, Stream stream, int64_t leaving,
                    int64_t count, Box box, const bool* mask, Scratch scratch);
  void (*random_start)(T* out, const T* x, int64_t cols, Stream stream, Norm norm, double radius, Box box,
                       Scratch scratch);
  void (*noisy_copy)(T* out, const int32_t* levels, int64_t cols, Stream stream, const AliasTable& table,
                     double step);
  int64_t (*vote)(const T* logits, int64_t classes);
  void (*keep_best)(T* best, const T* rival, int64_t cols, float* best_loss, bool* best_success, float loss,
                    bool success);
  void (*judge)(Judged known, float* rival, const T* gradient, int64_t cols, const float* logits,
                int64_t classes, float loss, int64_t label, int64_t target, bool margin_at_zero, bool stop,
                Move move);
  double (*distance)(const T* x_adv, const T* x, int64_t cols, double order, Box box, bool* inside);
  void (*keep_nearest)(T* best, float* best_rank, bool* best_success, float* length, const T* x,
                       const T* points, int64_t count, int64_t cols, const bool* success, double order);
  void (*largest)(T* out, const T* values, int64_t cols);
  void (*logit_loss)(T* grad, float* loss, const T* logits, int64_t classes, LossKind kind, int64_t label,
                     int64_t target, bool direction, float* scratch);
  void (*thin_gradient)(T* out, const T* gradient, const float* weights, const ThinShape& shape,
                        bool channels_last, float* scratch);
  void (*stencil)(T* out, const T* plane, Image image, const Stencil& taps, int64_t from, int64_t to,
                  float* scratch);
  void (*winograd_tiles)(T* out, const T* image, const WinogradShape& shape, int64_t row, int64_t first);
  void (*winograd_image)(T* image, const T* products, const float* bias, const WinogradShape& shape,
                         int64_t row, int64_t first);
};

// Elements [from, to) of one row; `from` is a multiple of kPhiloxWords.
constexpr int64_t kPhiloxWords = 64;
struct PhiloxKernels {
  void (*bits)(int64_t* out, Stream stream, int64_t from, int64_t to);
  void (*uniform)(float* out, Stream stream, int64_t from, int64_t to);
  void (*normal)(float* out, Stream stream, int64_t from, int64_t to);
  void (*sign)(float* out, Stream stream, int64_t from, int64_t to);
};

struct KernelSet {
  const char* name;
  Kernels<float> f32;
  Kernels<bf16> b16;
  PhiloxKernels philox;
  LatentKernels latent;
  NearestKernels nearest;
  // The scratch has two numbers for each pixel.
  void (*glass_shuffle)(uint8_t* out, const uint8_t* x, Image image, Stream stream, int64_t distance,
                        int64_t rounds, int32_t* scratch);
  // The floats that thin_gradient needs, which are zero before its first sample.
  int64_t (*thin_scratch)(const ThinShape& shape);
};

namespace baseline {
extern const KernelSet kernels;
}
#if defined(__x86_64__) || defined(_M_X64)
#define FASTADV_X86 1
namespace avx2 {
extern const KernelSet kernels;
}
namespace avx512 {
extern const KernelSet kernels;
}
#endif

}  // namespace fastadv
