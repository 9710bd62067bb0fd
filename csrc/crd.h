// What the CPU kernels of the CRD memory bank are given.
#pragma once

#include "draws.h"
#include "nce.h"

namespace fastkd {

constexpr int64_t DRAWN_TOGETHER = 4 * DRAW_LANES;

// What the draws of a step depend on.
struct Draws {
  const int64_t* rows;
  const int64_t* chosen;  // [samples, negatives + 1], or null
  const int64_t* starts;
  int64_t classes, n, negatives;
  uint32_t key0, key1, step;
  int64_t first_place;
  bool replacement, relaxed;
  bool scarce;  // a class may have fewer negatives than are drawn
};

struct BFloat16 {
  uint16_t bits;
};

FASTKD_INLINE float single(const float* value) { return *value; }
FASTKD_INLINE float single(const BFloat16* value) { return float_of(uint32_t{value->bits} << 16); }

// One sample and some of its draws.
struct Task {
  const Nce* nce;  // [2]: of the student's and of the teacher's side
  const void* bank;
  bool narrow;  // the bank is bfloat16, not float32
  const float* embeddings[2];
  const uint32_t* rows;
  int64_t dim, count;
  bool ends_with_positive, measures;
  float* ordered;    // room for [4, dim]
  float* gradients;  // [2, dim]
  double* sums;      // [2]: of the losses, or of exp(score / T) if Z is measured
};

constexpr int64_t TILE = 48;  // rows of the bank that are worked on at once: 24 KB of 128 numbers

// Some tiles of the bank against all samples, the negatives alone.
struct Slice {
  const Nce* nce;  // [2]
  const void* bank;
  bool narrow;
  const float* embeddings;  // [2][samples][padded dim]
  const uint8_t* drawn;     // [samples][negatives]: places in a tile, sorted by tile
  const uint32_t* starts;   // [samples][tiles + 1]: where the draws of each tile begin
  int64_t first, end, n, dim, samples, negatives;
  float* gradients;  // [2][samples][padded dim], zeros at first
  double* sums;      // [2]
};

}  // namespace fastkd
