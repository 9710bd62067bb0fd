// Loss and gradients by gathering the rows that were drawn.
//
// A warp takes 128 draws of one sample. It fetches eight rows of the bank at a time, 16 bytes a lane, half a warp for the
// student's half of a row and half for the teacher's; the eight scores are summed by a butterfly that leaves each of them
// with the two lanes that turn it into a weight; and the rows, still in registers, are added to the gradient. Partial sums
// go to memory and a second kernel adds them in a fixed order: no atomics, the same bits every time.
#pragma once

#include "bank_numbers.cuh"
#include "nce.h"
#include "warp_draws.cuh"

namespace fastkd {

constexpr int WARPS = 4, THREADS = 32 * WARPS;

struct Pass {
  Draws draws;
  const float* student;
  const float* teacher;
  const void* bank;
  const float* z;
  const float* numbers;
  int samples, dim, splits;
  bool measures;     // sums exp(score / T) for Z and leaves the gradients alone
  float* gradients;  // [samples, splits, 2, dim]
  float* sums;       // [samples, splits, 2]
};

// A lane reads V elements at a time and PIECES such pieces of a row; ROWS rows are in flight.
template <typename T, int V, int PIECES, int ROWS>
__global__ void __launch_bounds__(THREADS, 2) gather(const Pass pass) {
  static_assert(ROWS == 2 || ROWS == 4 || ROWS == 8, "the butterfly halves the rows");
  constexpr int LANES = 16 / ROWS;  // so many lanes end up with one row's score
  __shared__ uint32_t drawn[WARPS][TILE];
  __shared__ float reduced[WARPS][2][16 * V * PIECES + 1];
  if (pass.measures && pass.z[0] > 0) return;

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, within = lane % 16, half = lane / 16;
  const int sample = blockIdx.y, side = 1 - half, dim = pass.dim;  // the student's half meets the teacher's embedding
  const int64_t K = pass.draws.negatives, n = pass.draws.n;
  const Sample own(pass.draws, sample, lane);
  const Nce nce(pass.numbers[0], pass.measures ? 1.0f : pass.z[side], K, n, pass.samples);

  using Raw = Piece<T, V>;
  float embedding[PIECES][V], gradient[PIECES][V];
  const float* const elements = (side == 0 ? pass.student : pass.teacher) + int64_t{sample} * dim;
#pragma unroll
  for (int p = 0; p < PIECES; ++p)
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int d = (within + 16 * p) * V + v;
      embedding[p][v] = d < dim ? elements[d] : 0.0f;
      gradient[p][v] = 0.0f;
    }
  const T* const bank = static_cast<const T*>(pass.bank) + half * dim + within * V;
  uint32_t* const rows = drawn[warp];
  float total = 0.0f;

  const int64_t stride = int64_t{pass.splits} * WARPS * TILE;
  for (int64_t base = (int64_t{blockIdx.x} * WARPS + warp) * TILE; base <= K; base += stride) {
    draw_tile(pass.draws, own, sample, base, lane, rows);
    for (int first = 0; first < TILE && base + first <= K; first += ROWS) {
      Raw raw[ROWS][PIECES];
#pragma unroll
      for (int r = 0; r < ROWS; ++r) {
        const uint32_t row = rows[first + r];
        const T* const from = bank + (row == NOWHERE ? 0 : int64_t{row}) * 2 * dim;
#pragma unroll
        for (int p = 0; p < PIECES; ++p) {
          raw[r][p] = Raw{};
          if ((within + 16 * p) * V < dim) raw[r][p] = *reinterpret_cast<const Raw*>(from + 16 * p * V);
        }
      }
      float score[ROWS];
#pragma unroll
      for (int r = 0; r < ROWS; ++r) {
        score[r] = 0.0f;
#pragma unroll
        for (int p = 0; p < PIECES; ++p)
#pragma unroll
          for (int v = 0; v < V; ++v) score[r] = fmaf(embedding[p][v], raw[r][p][v], score[r]);
      }
#pragma unroll
      for (int kept = ROWS / 2, mask = 8; mask > 0; kept /= 2, mask /= 2) {
        const bool upper = (within & mask) != 0;
        if (kept > 0) {
#pragma unroll
          for (int r = 0; r < ROWS / 2; ++r)
            if (r < kept) {
              const float mine = upper ? score[r + kept] : score[r], other = upper ? score[r] : score[r + kept];
              score[r] = mine + __shfl_xor_sync(ALL, other, mask);
            }
        } else {
          score[0] += __shfl_xor_sync(ALL, score[0], mask);
        }
      }
      const int mine = within / LANES;
      const int64_t place = base + first + mine;
      float weight = 0.0f, term = 0.0f;
      if (place <= K) {
        if (pass.measures)
          term = nce.power(score[0]);
        else
          term = place < K ? nce.negative(score[0], weight) : nce.positive(score[0], weight);
        if (rows[first + mine] == NOWHERE) term = weight = NAN;
      }
      if (within % LANES == 0) total += term;
      if (pass.measures) continue;
#pragma unroll
      for (int r = 0; r < ROWS; ++r) {
        const float w = __shfl_sync(ALL, weight, half * 16 + r * LANES);
#pragma unroll
        for (int p = 0; p < PIECES; ++p)
#pragma unroll
          for (int v = 0; v < V; ++v) gradient[p][v] = fmaf(w, raw[r][p][v], gradient[p][v]);
      }
    }
    __syncwarp();  // before the next tile's rows
  }

  for (int mask = 8; mask > 0; mask /= 2) total += __shfl_xor_sync(ALL, total, mask);
#pragma unroll
  for (int p = 0; p < PIECES; ++p)
#pragma unroll
    for (int v = 0; v < V; ++v) reduced[warp][side][(within + 16 * p) * V + v] = gradient[p][v];
  if (within == 0) reduced[warp][side][16 * V * PIECES] = total;
  __syncthreads();
  const int64_t block = int64_t{sample} * pass.splits + blockIdx.x;
  for (int i = threadIdx.x; i < 2 * (dim + 1); i += THREADS) {
    const int s = i / (dim + 1), d = i % (dim + 1);
    float value = 0.0f;
    for (int w = 0; w < WARPS; ++w) value += reduced[w][s][d < dim ? d : 16 * V * PIECES];
    if (d == dim)
      pass.sums[block * 2 + s] = value;
    else if (!pass.measures)
      pass.gradients[(block * 2 + s) * dim + d] = value;
  }
}

// The sum of `count` values, `step` apart, by the threads of a block, in a fixed order.
__device__ inline double block_sum(const float* values, int64_t count, int step) {
  __shared__ double parts[THREADS];
  double own = 0;
  for (int64_t i = threadIdx.x; i < count; i += THREADS) own += values[i * step];
  parts[threadIdx.x] = own;
  __syncthreads();
  for (int half = THREADS / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
    __syncthreads();
  }
  const double sum = parts[0];
  __syncthreads();
  return sum;
}

// Adds the partial sums: a block for each sample, and one for the loss.
static __global__ void __launch_bounds__(THREADS)
    finish(const Pass pass, float* total, float* sides, float* student_gradient, float* teacher_gradient) {
  if (blockIdx.x == pass.samples) {
    double loss[2];
    for (int side = 0; side < 2; ++side)
      loss[side] = block_sum(pass.sums + side, int64_t{pass.samples} * pass.splits, 2) / pass.samples;
    if (threadIdx.x == 0) {
      sides[0] = static_cast<float>(loss[0]);
      sides[1] = static_cast<float>(loss[1]);
      *total = static_cast<float>(loss[0] + loss[1]);
    }
    return;
  }
  const int64_t sample = blockIdx.x;
  for (int i = threadIdx.x; i < 2 * pass.dim; i += THREADS) {
    float value = 0.0f;
    const float* from = pass.gradients + sample * pass.splits * 2 * pass.dim + i;
    for (int split = 0; split < pass.splits; ++split, from += 2 * pass.dim) value += *from;
    (i < pass.dim ? student_gradient : teacher_gradient)[sample * pass.dim + i % pass.dim] = value;
  }
}

static __global__ void __launch_bounds__(THREADS) finish_normaliser(const Pass pass, float* out) {
  for (int side = 0; side < 2; ++side) {
    double z = pass.z[side];
    if (!(pass.z[0] > 0)) {
      const double scores = static_cast<double>(pass.samples) * static_cast<double>(pass.draws.negatives + 1);
      z = block_sum(pass.sums + side, int64_t{pass.samples} * pass.splits, 2) / scores *
          static_cast<double>(pass.draws.n);
    }
    if (threadIdx.x == 0) out[side] = static_cast<float>(z);
  }
}

}  // namespace fastkd
