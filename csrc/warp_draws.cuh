// The draws of a warp, in shared memory or as a table. draws.h has the arithmetic.
#pragma once

#include <cuda_runtime.h>

#include "draws.h"

namespace fastkd {

constexpr int TILE = 128;  // draws that a warp takes at a time
constexpr unsigned ALL = 0xFFFFFFFFu;
constexpr uint32_t NOWHERE = 0xFFFFFFFFu;  // stands for a row outside the bank

struct Draws {
  const int64_t* rows;
  const int64_t* chosen;  // [samples, negatives + 1], or null
  const int64_t* starts;
  const int64_t* step;
  int64_t classes, n, negatives, first_place;
  uint32_t key0, key1;
  bool replacement, relaxed;
  bool scarce;  // a class may have fewer negatives than are drawn
};

// `class_of_row` by a whole warp, 32 places at a time.
__device__ inline OwnClass class_of_row_by_warp(int64_t row, const int64_t* starts, int64_t classes, int lane) {
  int64_t low = 0, high = classes;
  while (high - low > 1) {
    const int64_t stride = (high - low + 31) / 32, probe = low + lane * stride;
    const unsigned below = __ballot_sync(ALL, probe < high && starts[probe] <= row);
    low += (__popc(below) - 1) * stride;
    high = min(low + stride, high);
  }
  return {static_cast<uint32_t>(starts[low]), static_cast<uint32_t>(starts[low + 1])};
}

// What a warp knows of its sample.
struct Sample {
  int64_t row;
  OwnClass own;
  Stream stream;
  uint32_t others;
  bool valid;

  __device__ Sample(const Draws& draws, int sample, int lane)
      : row(draws.rows[sample]), own{0, 0}, stream{}, others(0), valid(true) {
    if (draws.chosen != nullptr) return;
    valid = row >= 0 && row < draws.n;
    own = class_of_row_by_warp(valid ? row : 0, draws.starts, draws.classes, lane);
    others = own.others(static_cast<uint32_t>(draws.n));
    valid = valid && others > 0;
    stream = {draws.key0, draws.key1, static_cast<uint32_t>(draws.first_place + sample),
              static_cast<uint32_t>(*draws.step)};
  }
};

// Draws the rows of the places base … base+TILE-1; places count the negatives, and then the positive.
__device__ inline void draw_tile(const Draws& draws, const Sample& own, int sample, int64_t base, int lane, uint32_t* rows) {
  const int64_t K = draws.negatives;
  if (draws.chosen != nullptr) {
    for (int i = lane; i < TILE; i += 32) {
      const int64_t place = base + i;
      const int64_t row = place <= K ? draws.chosen[sample * (K + 1) + (place < K ? place + 1 : 0)] : 0;
      rows[i] = row >= 0 && row < draws.n ? static_cast<uint32_t>(row) : NOWHERE;
    }
  } else if (!own.valid) {
    for (int i = lane; i < TILE; i += 32) rows[i] = NOWHERE;
  } else {
    if (draws.replacement || (draws.scarce && own.others < K)) {
      const Words words = own.stream(static_cast<uint32_t>(base / 4) + lane);
      uint32_t* const to = rows + lane / DRAW_LANES * (4 * DRAW_LANES) + lane % DRAW_LANES;
      to[0] = own.own.other(scaled(words.x, own.others));
      to[DRAW_LANES] = own.own.other(scaled(words.y, own.others));
      to[2 * DRAW_LANES] = own.own.other(scaled(words.z, own.others));
      to[3 * DRAW_LANES] = own.own.other(scaled(words.w, own.others));
    } else {
      const Permutation permutation(own.others, own.stream(KEY_COUNTER));
      for (int i = lane; i < TILE; i += 32) {
        const int64_t place = base + i;
        rows[i] = place < K ? own.own.other(permutation(static_cast<uint32_t>(place))) : 0u;
      }
    }
    __syncwarp();
    if (lane == 0 && base <= K && K < base + TILE)
      rows[K - base] = draws.relaxed ? relaxed_positive(own.stream, own.own) : static_cast<uint32_t>(own.row);
  }
  __syncwarp();
}

static __global__ void __launch_bounds__(32) draw(const Draws draws, int64_t* out) {
  __shared__ uint32_t rows[TILE];
  const int64_t K = draws.negatives, base = int64_t{blockIdx.x} * TILE;
  const int sample = blockIdx.y, lane = threadIdx.x;
  draw_tile(draws, Sample(draws, sample, lane), sample, base, lane, rows);
  for (int i = lane; i < TILE && base + i <= K; i += 32)
    out[sample * (K + 1) + (base + i < K ? base + i + 1 : 0)] = rows[i] == NOWHERE ? -1 : int64_t{rows[i]};
}

}  // namespace fastkd
