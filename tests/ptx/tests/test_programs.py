"""Little CUDA programs, as nvcc compiles them: what they compute is known, and what is wrong with the wrong ones."""

import numpy as np
import pytest
from ptx import FindingsError, array, decoded, findings, kernels, launch, nvcc
from ptx.writing import kinds

pytestmark = pytest.mark.skipif(bool(nvcc.obstacle()), reason=nvcc.obstacle() or "nvcc is there")

SOURCE = """
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cstdint>

extern "C" __global__ void saxpy(int n, float a, const float* x, float* y) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = a * x[i] + y[i];
}

template <bool SYNCHRONISED>
__device__ void sum_of_block(const float* x, float* out, int n) {
  __shared__ float parts[128];
  float own = 0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) own += x[i];
  parts[threadIdx.x] = own;
  __syncthreads();
  for (int half = 64; half > 0; half /= 2) {
    if (threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
    if (SYNCHRONISED) __syncthreads();
  }
  if (threadIdx.x == 0) *out = parts[0];
}
extern "C" __global__ void sum(const float* x, float* out, int n) { sum_of_block<true>(x, out, n); }
extern "C" __global__ void sum_that_races(const float* x, float* out, int n) { sum_of_block<false>(x, out, n); }

// A sum over all blocks; without the fences the last block may read what is not there yet.
template <bool FENCED>
__device__ void sum_of_grid(const float* x, int n, float* partial, float* out, unsigned* count) {
  __shared__ bool last;
  float own = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) own += x[i];
  for (int mask = 16; mask > 0; mask /= 2) own += __shfl_xor_sync(0xFFFFFFFFu, own, mask);
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = own;
    if (FENCED) __threadfence();
    last = atomicInc(count, gridDim.x) == gridDim.x - 1;
    if (FENCED) __threadfence();
  }
  __syncthreads();
  if (last && threadIdx.x == 0) {
    float total = 0;
    for (int i = 0; i < gridDim.x; ++i) total += partial[i];
    *out = total;
    *count = 0;
  }
}
extern "C" __global__ void total(const float* x, int n, float* partial, float* out, unsigned* count) {
  sum_of_grid<true>(x, n, partial, out, count);
}
extern "C" __global__ void total_that_races(const float* x, int n, float* partial, float* out, unsigned* count) {
  sum_of_grid<false>(x, n, partial, out, count);
}

extern "C" __global__ void transpose(const float* x, float* y, int rows, int columns) {
  __shared__ float tile[32][33];
  const int column = blockIdx.x * 32 + threadIdx.x, row = blockIdx.y * 32 + threadIdx.y;
  for (int i = 0; i < 32; i += 8)
    if (row + i < rows && column < columns) tile[threadIdx.y + i][threadIdx.x] = x[(row + i) * columns + column];
  __syncthreads();
  const int to_column = blockIdx.y * 32 + threadIdx.x, to_row = blockIdx.x * 32 + threadIdx.y;
  for (int i = 0; i < 32; i += 8)
    if (to_row + i < columns && to_column < rows)
      y[(to_row + i) * rows + to_column] = tile[threadIdx.x][threadIdx.y + i];
}

extern "C" __global__ void mixed(const double* x, const int64_t* n, __nv_bfloat16* narrow, __half* half,
                                 int* whole, int count) {
  const int i = threadIdx.x;
  if (i >= count) return;
  const double root = sqrt(fabs(x[i])) / (1.0 + x[i] * x[i]);
  narrow[i] = __float2bfloat16(static_cast<float>(root));
  half[i] = __hadd(__float2half(static_cast<float>(x[i])), __float2half(1.5f));
  whole[i] = static_cast<int>(n[i] / 7 % 1000) + __popcll(n[i]) - __clz(static_cast<int>(n[i]));
}

extern "C" __global__ void histogram(const uint8_t* x, int n, unsigned* bins) {
  __shared__ unsigned own[256];
  own[threadIdx.x] = 0;
  __syncthreads();
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) atomicAdd(&own[x[i]], 1u);
  __syncthreads();
  atomicAdd(&bins[threadIdx.x], own[threadIdx.x]);
}
"""
ARCHITECTURES = ("sm_80", "sm_90")


@pytest.fixture(scope="module", params=ARCHITECTURES)
def program(request):
    module = kernels(nvcc.compiled(SOURCE, request.param))
    return lambda name: decoded(module[name])


def numbers(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=count).astype(np.float32)


def test_a_loop_over_a_vector(program, engine):
    x, y = numbers(300), numbers(300, 1)
    expected = np.float32(2.5) * x + y
    launch(program("saxpy"), 3, 128, (300, 2.5, x, y), engine=engine)
    np.testing.assert_allclose(y, expected, rtol=1e-6)


def test_one_element_too_many(program, engine):
    with pytest.raises(FindingsError, match=f"{findings.OUTSIDE}: reads 4 bytes .* block 2, thread 44"):
        launch(program("saxpy"), 3, 128, (301, 2.5, numbers(300), numbers(300)), engine=engine)


def test_a_sum_of_a_block(program, engine):
    x, out = numbers(1000), np.zeros(1, np.float32)
    launch(program("sum"), 1, 128, (x, out, 1000), engine=engine)
    np.testing.assert_allclose(out[0], x.sum(dtype=np.float64), rtol=1e-5)


def test_a_sum_without_its_barriers(program, engine):
    result = launch(
        program("sum_that_races"), 1, 128, (numbers(1000), numbers(1), 1000), keep_findings=True, engine=engine
    )
    assert kinds(result) == [findings.RACE]


def grid_sum(program, name, engine):
    x, out, count = numbers(500), np.zeros(1, np.float32), np.zeros(1, np.uint32)
    partial = array(np.zeros(6, np.float32), "the partial sums", written=np.zeros(24, bool))
    result = launch(program(name), 6, 32, (x, 500, partial, out, count), keep_findings=True, engine=engine)
    np.testing.assert_allclose(out[0], x.sum(dtype=np.float64), rtol=1e-5)
    assert count[0] == 0
    return result


def test_a_sum_of_all_blocks_in_every_order(program, engine):
    result = grid_sum(program, "total", engine)
    assert not kinds(result) and result.orders == 6
    assert "a buffer" not in result.depends_on_order, "the sum has the same bits whoever is the last"


def test_a_sum_of_all_blocks_without_fences(program, engine):
    """Right in every order that is run, and wrong all the same: a relaxed atomic orders nothing."""
    assert kinds(grid_sum(program, "total_that_races", engine)) == [findings.RACE_BETWEEN_BLOCKS]


def test_a_transpose_in_two_dimensions(program, engine):
    x, y = numbers(50 * 70).reshape(50, 70), np.zeros((70, 50), np.float32)
    result = launch(program("transpose"), (3, 2), (32, 8), (x, y, 50, 70), engine=engine)
    assert (y == x.T).all()
    assert result.counts.worst_conflict == 1, "that is what the 33rd column is for"
    assert result.counts.read.unique_bytes == result.counts.written.unique_bytes == x.nbytes


def test_other_types(program, engine):
    x, n = numbers(32).astype(np.float64), np.random.default_rng(1).integers(-(2**62), 2**62, 32)
    narrow, half, whole = np.zeros(32, np.uint16), np.zeros(32, np.float16), np.zeros(32, np.int32)
    launch(program("mixed"), 1, 32, (x, n, narrow, half, whole, 32), engine=engine)
    root = (np.sqrt(np.abs(x)) / (1 + x * x)).astype(np.float32)
    np.testing.assert_allclose((narrow.astype(np.uint32) << 16).view(np.float32), root, rtol=2**-8)
    assert (half == x.astype(np.float32).astype(np.float16) + np.float16(1.5)).all()
    quotients = [
        int(value / 7) if abs(value) < 2**50 else abs(int(value)) // 7 * (1 if value > 0 else -1)
        for value in n.tolist()
    ]
    remainders = [abs(q) % 1000 * (1 if q > 0 else -1) for q in quotients]
    words = [int(value) & (2**64 - 1) for value in n]
    expected = [
        r + w.bit_count() - (32 - (w & (2**32 - 1)).bit_length()) for r, w in zip(remainders, words, strict=True)
    ]
    assert whole.tolist() == expected


def test_a_histogram_by_atomics(program, engine):
    x, bins = np.random.default_rng(2).integers(0, 256, 3000, np.uint8), np.zeros(256, np.uint32)
    result = launch(program("histogram"), 4, 256, (x, 3000, bins), engine=engine)
    assert (bins == np.bincount(x, minlength=256)).all() and not result.depends_on_order
    assert result.counts.atomics == 3000 + 4 * 256
