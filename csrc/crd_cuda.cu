// The CRD memory bank on a GPU, by gathering. fastkd/ops/crd/reference.py is the definition, operation.py the schemas.
//
// A warp takes 128 draws of one sample. It fetches eight rows of the bank at a time, 16 bytes a lane, half a warp for the
// student's half of a row and half for the teacher's; the eight scores are summed by a butterfly that leaves each of them
// with the two lanes that turn it into a weight; and the rows, still in registers, are added to the gradient. Partial sums
// go to memory and a second kernel adds them in a fixed order: no atomics, the same bits every time.

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <optional>
#include <type_traits>

#include "draws.h"
#include "nce.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using namespace fastkd;

constexpr int WARPS = 4, THREADS = 32 * WARPS, TILE = 128;
constexpr int64_t WANTED_BLOCKS = 4096;  // some waves of a large GPU
constexpr unsigned ALL = 0xFFFFFFFFu;
constexpr uint32_t NOWHERE = 0xFFFFFFFFu;  // in place of a row: outside the bank

struct Draws {
  const int64_t* rows;
  const int64_t* chosen;  // [samples, negatives + 1], or null
  const int64_t* starts;
  const int64_t* step;
  int64_t classes, n, negatives, first_place;
  uint32_t key0, key1;
  bool replacement, relaxed;
};

struct Pass {
  Draws draws;
  const float* student;
  const float* teacher;
  const void* bank;
  const float* z;
  const float* settings;
  int samples, dim, splits;
  bool measures;
  float* gradients;  // [samples, splits, 2, dim]
  float* sums;       // [samples, splits, 2]
};

// `class_of_row` by a whole warp, 32 places at a time.
__device__ OwnClass class_of_row_by_warp(int64_t row, const int64_t* starts, int64_t classes, int lane) {
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

// The rows of the places base … base+TILE-1; places count the negatives, and then the positive.
__device__ void draw_tile(const Draws& draws, const Sample& own, int sample, int64_t base, int lane, uint32_t* rows) {
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
    if (draws.replacement || own.others < K) {
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

__device__ float single(float value) { return value; }
__device__ float single(__nv_bfloat16 value) { return __bfloat162float(value); }

// V elements of a bank's row, as they lie in memory.
template <typename T, int V>
struct Piece {
  T elements[V];
  __device__ float operator[](int i) const { return elements[i]; }
};
template <>
struct Piece<float, 4> {
  float4 bits;
  __device__ float operator[](int i) const { return i == 0 ? bits.x : i == 1 ? bits.y : i == 2 ? bits.z : bits.w; }
};
template <>
struct Piece<__nv_bfloat16, 8> {
  uint4 bits;
  __device__ float operator[](int i) const {
    const uint32_t pair = i < 2 ? bits.x : i < 4 ? bits.y : i < 6 ? bits.z : bits.w;
    return __uint_as_float(i % 2 == 0 ? pair << 16 : pair & 0xFFFF0000u);
  }
};
template <typename T>
struct Piece<T, 1> {
  T bits;
  __device__ float operator[](int) const { return single(bits); }
};

// V elements at a time, PIECES of them a lane, ROWS rows in flight.
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
  const Nce nce(pass.settings[0], pass.measures ? 1.0f : pass.z[side], K, n, pass.samples);

  using Raw = Piece<T, V>;
  float anchor[PIECES][V], gradient[PIECES][V];
  const float* const embedding = (side == 0 ? pass.student : pass.teacher) + int64_t{sample} * dim;
#pragma unroll
  for (int p = 0; p < PIECES; ++p)
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int d = (within + 16 * p) * V + v;
      anchor[p][v] = d < dim ? embedding[d] : 0.0f;
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
          for (int v = 0; v < V; ++v) score[r] = fmaf(anchor[p][v], raw[r][p][v], score[r]);
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
__device__ double block_sum(const float* values, int64_t count, int step) {
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

// A block for each sample, and one for the loss.
__global__ void __launch_bounds__(THREADS)
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

__global__ void __launch_bounds__(THREADS) finish_normaliser(const Pass pass, float* out) {
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

__device__ void assign(float* to, float value) { *to = value; }
__device__ void assign(__nv_bfloat16* to, float value) { *to = __float2bfloat16_rn(value); }

// A block for each sample. Of samples that share a row the last one counts.
template <typename T>
__global__ void __launch_bounds__(THREADS)
    update(T* bank, float* z, int64_t* step, const int64_t* rows, const float* student, const float* teacher,
           const float* new_z, const float* settings, int samples, int dim, int64_t n) {
  __shared__ float parts[WARPS];
  const int sample = blockIdx.x, lane = threadIdx.x % 32;
  const int64_t own = rows[sample];
  if (sample == 0 && threadIdx.x == 0) {
    *step += 1;
    for (int side = 0; side < 2; ++side)
      if (isfinite(new_z[side])) z[side] = new_z[side];
  }
  bool again = false;
  for (int later = sample + 1 + threadIdx.x; later < samples; later += THREADS) again |= rows[later] == own;
  if (__syncthreads_or(again) || own < 0 || own >= n) return;
  const float momentum = settings[1];
  for (int side = 0; side < 2; ++side) {
    T* const row = bank + (own * 2 + side) * dim;
    const float* const embedding = (side == 0 ? student : teacher) + int64_t{sample} * dim;
    float squares = 0.0f;
    for (int d = threadIdx.x; d < dim; d += THREADS) {
      const float mixed = momentum * single(row[d]) + (1.0f - momentum) * embedding[d];
      squares += mixed * mixed;
    }
    for (int mask = 16; mask > 0; mask /= 2) squares += __shfl_xor_sync(ALL, squares, mask);
    if (lane == 0) parts[threadIdx.x / 32] = squares;
    __syncthreads();
    squares = 0.0f;
    for (int w = 0; w < WARPS; ++w) squares += parts[w];
    __syncthreads();
    const float norm = sqrtf(squares);
    if (!isfinite(norm)) continue;  // the training may go on without this step
    for (int d = threadIdx.x; d < dim; d += THREADS) {
      const float mixed = momentum * single(row[d]) + (1.0f - momentum) * embedding[d];
      assign(row + d, mixed / fmaxf(norm, SMALLEST_NORM));
    }
  }
}

__global__ void __launch_bounds__(32) draw(const Draws draws, int64_t* out) {
  __shared__ uint32_t rows[TILE];
  const int64_t K = draws.negatives, base = int64_t{blockIdx.x} * TILE;
  const int sample = blockIdx.y, lane = threadIdx.x;
  draw_tile(draws, Sample(draws, sample, lane), sample, base, lane, rows);
  for (int i = lane; i < TILE && base + i <= K; i += 32)
    out[sample * (K + 1) + (base + i < K ? base + i + 1 : 0)] = rows[i] == NOWHERE ? -1 : int64_t{rows[i]};
}

cudaStream_t stream_of(const Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

void check_launch() {
  const cudaError_t error = cudaGetLastError();
  STD_TORCH_CHECK(error == cudaSuccess, "crd: ", cudaGetErrorString(error));
}

Draws plan(const Tensor& rows, const std::optional<Tensor>& chosen, const Tensor& starts, const Tensor& step, int64_t n,
           int64_t negatives, int64_t seed, int64_t first_place, bool replacement, bool relaxed) {
  const uint64_t key = static_cast<uint64_t>(seed);
  return {rows.const_data_ptr<int64_t>(),
          chosen.has_value() ? chosen->const_data_ptr<int64_t>() : nullptr,
          starts.const_data_ptr<int64_t>(),
          step.const_data_ptr<int64_t>(),
          starts.size(0) - 1,
          n,
          negatives,
          first_place,
          static_cast<uint32_t>(key),
          static_cast<uint32_t>(key >> 32),
          replacement,
          relaxed};
}

template <typename T, int V, int PIECES, int ROWS>
void launch_gather(const Pass& pass, cudaStream_t stream) {
  gather<T, V, PIECES, ROWS><<<dim3(pass.splits, pass.samples), THREADS, 0, stream>>>(pass);
}

void launch_gather(const Pass& pass, bool narrow, cudaStream_t stream) {
  const int dim = pass.dim;
  if (narrow) {
    if (dim % 8 != 0 && dim <= 128)
      launch_gather<__nv_bfloat16, 1, 8, 4>(pass, stream);
    else if (dim % 8 != 0)
      launch_gather<__nv_bfloat16, 1, 16, 2>(pass, stream);
    else if (dim <= 128)
      launch_gather<__nv_bfloat16, 8, 1, 8>(pass, stream);
    else
      launch_gather<__nv_bfloat16, 8, 2, 8>(pass, stream);
  } else {
    if (dim % 4 != 0 && dim <= 128)
      launch_gather<float, 1, 8, 4>(pass, stream);
    else if (dim % 4 != 0)
      launch_gather<float, 1, 16, 2>(pass, stream);
    else if (dim <= 64)
      launch_gather<float, 4, 1, 8>(pass, stream);
    else if (dim <= 128)
      launch_gather<float, 4, 2, 8>(pass, stream);
    else
      launch_gather<float, 4, 4, 4>(pass, stream);
  }
}

Pass prepare(const Tensor& student, const Tensor& teacher, const Tensor& bank, const Draws& draws, const Tensor& z,
             const Tensor& settings, bool measures) {
  const int64_t samples = student.size(0), dim = student.size(1);
  STD_TORCH_CHECK(dim <= 256, "crd: the gather takes up to 256 dimensions, got ", dim);
  const int64_t tiles = (draws.negatives + TILE) / TILE, most = (tiles + WARPS - 1) / WARPS;
  const int64_t wanted = samples > 0 ? (WANTED_BLOCKS + samples - 1) / samples : 1;
  const int64_t splits = wanted < most ? wanted : most;
  return {draws,
          student.const_data_ptr<float>(),
          teacher.const_data_ptr<float>(),
          bank.const_data_ptr(),
          z.const_data_ptr<float>(),
          settings.const_data_ptr<float>(),
          static_cast<int>(samples),
          static_cast<int>(dim),
          static_cast<int>(splits),
          measures,
          nullptr,
          nullptr};
}

bool is_narrow(const Tensor& bank) { return bank.scalar_type() == ScalarType::BFloat16; }

void crd_loss(Tensor student, Tensor teacher, Tensor bank, Tensor rows, std::optional<Tensor> chosen, Tensor starts,
              Tensor step, Tensor z, Tensor settings, int64_t negatives, int64_t seed, int64_t first_place,
              bool replacement, bool relaxed, Tensor total, Tensor sides, Tensor student_gradient,
              Tensor teacher_gradient) {
  const torch::stable::accelerator::DeviceGuard guard(student.get_device_index());
  const cudaStream_t stream = stream_of(student);
  const Draws draws =
      plan(rows, chosen, starts, step, bank.size(0), negatives, seed, first_place, replacement, relaxed);
  Pass pass = prepare(student, teacher, bank, draws, z, settings, false);
  const Tensor gradients = torch::stable::new_empty(student, {pass.samples, pass.splits, 2, pass.dim});
  const Tensor sums = torch::stable::new_empty(student, {pass.samples, pass.splits, 2});
  pass.gradients = gradients.mutable_data_ptr<float>();
  pass.sums = sums.mutable_data_ptr<float>();
  if (pass.samples > 0) launch_gather(pass, is_narrow(bank), stream);
  finish<<<pass.samples + 1, THREADS, 0, stream>>>(
      pass, total.mutable_data_ptr<float>(), sides.mutable_data_ptr<float>(), student_gradient.mutable_data_ptr<float>(),
      teacher_gradient.mutable_data_ptr<float>());
  check_launch();
}

void crd_normaliser(Tensor student, Tensor teacher, Tensor bank, Tensor rows, std::optional<Tensor> chosen,
                    Tensor starts, Tensor step, Tensor z, Tensor settings, int64_t negatives, int64_t seed,
                    int64_t first_place, bool replacement, bool relaxed, Tensor out) {
  const torch::stable::accelerator::DeviceGuard guard(student.get_device_index());
  const cudaStream_t stream = stream_of(student);
  const Draws draws =
      plan(rows, chosen, starts, step, bank.size(0), negatives, seed, first_place, replacement, relaxed);
  Pass pass = prepare(student, teacher, bank, draws, z, settings, true);
  const Tensor sums = torch::stable::new_empty(student, {pass.samples, pass.splits, 2});
  pass.sums = sums.mutable_data_ptr<float>();
  if (pass.samples > 0) launch_gather(pass, is_narrow(bank), stream);
  finish_normaliser<<<1, THREADS, 0, stream>>>(pass, out.mutable_data_ptr<float>());
  check_launch();
}

void crd_update(Tensor bank, Tensor z, Tensor step, Tensor rows, Tensor student, Tensor teacher, Tensor new_z,
                Tensor settings) {
  const torch::stable::accelerator::DeviceGuard guard(bank.get_device_index());
  const cudaStream_t stream = stream_of(bank);
  const int samples = static_cast<int>(rows.size(0)), dim = static_cast<int>(student.size(1));
  if (samples == 0) return;
  const auto launch = [&](auto* data) {
    using T = std::remove_pointer_t<decltype(data)>;
    update<T><<<samples, THREADS, 0, stream>>>(
        data, z.mutable_data_ptr<float>(), step.mutable_data_ptr<int64_t>(), rows.const_data_ptr<int64_t>(),
        student.const_data_ptr<float>(), teacher.const_data_ptr<float>(), new_z.const_data_ptr<float>(),
        settings.const_data_ptr<float>(), samples, dim, bank.size(0));
  };
  void* const data = bank.mutable_data_ptr();
  if (is_narrow(bank))
    launch(static_cast<__nv_bfloat16*>(data));
  else
    launch(static_cast<float*>(data));
  check_launch();
}

void crd_draw(Tensor rows, Tensor starts, Tensor step, int64_t n, int64_t negatives, int64_t seed, int64_t first_place,
              bool replacement, bool relaxed, Tensor out) {
  const torch::stable::accelerator::DeviceGuard guard(rows.get_device_index());
  const Draws draws = plan(rows, std::nullopt, starts, step, n, negatives, seed, first_place, replacement, relaxed);
  const unsigned samples = static_cast<unsigned>(rows.size(0)), tiles = static_cast<unsigned>((negatives + TILE) / TILE);
  if (samples > 0) draw<<<dim3(tiles, samples), 32, 0, stream_of(rows)>>>(draws, out.mutable_data_ptr<int64_t>());
  check_launch();
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastkd, CUDA, m) {
  m.impl("_crd_loss", TORCH_BOX(&crd_loss));
  m.impl("_crd_normaliser", TORCH_BOX(&crd_normaliser));
  m.impl("_crd_update", TORCH_BOX(&crd_update));
  m.impl("_crd_draw", TORCH_BOX(&crd_draw));
}
