// Batches as rows: plain pointers, no tensor library. bfloat16 is carried as its 16 bits.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace fastadv {

struct bf16 {
  uint16_t bits;
};

template <class T>
struct Rows {
  T* data;
  int64_t rows, cols;
  T* operator[](int64_t row) const { return data + row * cols; }
};

// One number for the whole batch, or one a row.
struct PerRow {
  double value;
  const double* rows;
  double operator[](int64_t row) const { return rows ? rows[row] : value; }
};

struct Box {
  double lo, hi;
};

}  // namespace fastadv
