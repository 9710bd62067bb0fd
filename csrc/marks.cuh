// Which rows every sample draws, as bits: for draws of which no row comes twice.
//
// A block draws all places of one sample forwards and sets their bits in shared memory, by atomics whose order decides
// nothing. A bank of 50,000 rows has 6.3 KB of bits; of a larger one a block keeps the rows of its own part alone.
#pragma once

#include "warp_draws.cuh"

namespace fastkd {

constexpr int MARKING_THREADS = 512;
constexpr int MARKED_WORDS = 12288;  // of a block, at most: 48 KB need no leave of the driver

// bits: [samples, words], bit i of word w stands for row 32 w + i; positives: [samples].
static __global__ void __launch_bounds__(MARKING_THREADS)
    mark(const Draws draws, int words, uint32_t* bits, int64_t* positives) {
  extern __shared__ uint32_t marked[];
  const int sample = blockIdx.x, first = blockIdx.y * MARKED_WORDS, count = min(MARKED_WORDS, words - first);
  const Sample own(draws, sample, threadIdx.x % 32);
  const Permutation permutation(own.others, own.stream(KEY_COUNTER));
  for (int i = threadIdx.x; i < count; i += MARKING_THREADS) marked[i] = 0;
  __syncthreads();
  const uint32_t K = own.valid ? static_cast<uint32_t>(draws.negatives) : 0u;
  for (uint32_t place = threadIdx.x; place < K; place += MARKING_THREADS) {
    const uint32_t row = own.own.other(permutation(place)), word = row / 32 - first;
    if (word < static_cast<uint32_t>(count)) atomicOr(marked + word, 1u << row % 32);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < count; i += MARKING_THREADS) bits[int64_t{sample} * words + first + i] = marked[i];
  if (blockIdx.y == 0 && threadIdx.x == 0)
    positives[sample] = draws.relaxed ? int64_t{relaxed_positive(own.stream, own.own)} : own.row;
}

}  // namespace fastkd
