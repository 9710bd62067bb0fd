// The bank's update.
#pragma once

#include <cuda_runtime.h>

#include "bank_numbers.cuh"
#include "nce.h"

namespace fastkd {

constexpr int UPDATE_WARPS = 4, UPDATE_THREADS = 32 * UPDATE_WARPS;

// A block for each sample. Of samples that share a row the last one counts.
template <typename T>
__global__ void __launch_bounds__(UPDATE_THREADS)
    update(T* bank, float* z, int64_t* step, const int64_t* rows, const float* student, const float* teacher,
           const float* new_z, const float* numbers, int samples, int dim, int64_t n) {
  __shared__ float parts[UPDATE_WARPS];
  const int sample = blockIdx.x, lane = threadIdx.x % 32;
  const int64_t own = rows[sample];
  if (sample == 0 && threadIdx.x == 0) {
    *step += 1;
    for (int side = 0; side < 2; ++side)
      if (isfinite(new_z[side])) z[side] = new_z[side];
  }
  bool again = false;
  for (int later = sample + 1 + threadIdx.x; later < samples; later += UPDATE_THREADS) again |= rows[later] == own;
  if (__syncthreads_or(again) || own < 0 || own >= n) return;
  const float momentum = numbers[1];
  for (int side = 0; side < 2; ++side) {
    T* const row = bank + (own * 2 + side) * dim;
    const float* const embedding = (side == 0 ? student : teacher) + int64_t{sample} * dim;
    float squares = 0.0f;
    for (int d = threadIdx.x; d < dim; d += UPDATE_THREADS) {
      const float mixed = momentum * single(row[d]) + (1.0f - momentum) * embedding[d];
      squares += mixed * mixed;
    }
    for (int mask = 16; mask > 0; mask /= 2) squares += __shfl_xor_sync(0xFFFFFFFFu, squares, mask);
    if (lane == 0) parts[threadIdx.x / 32] = squares;
    __syncthreads();
    squares = 0.0f;
    for (int w = 0; w < UPDATE_WARPS; ++w) squares += parts[w];
    __syncthreads();
    const float norm = sqrtf(squares);
    if (!isfinite(norm)) continue;  // the training may go on without this step
    for (int d = threadIdx.x; d < dim; d += UPDATE_THREADS) {
      const float mixed = momentum * single(row[d]) + (1.0f - momentum) * embedding[d];
      assign(row + d, mixed / fmaxf(norm, SMALLEST_NORM));
    }
  }
}

}  // namespace fastkd
