// The CRD memory bank on a CPU. The definition is fastkd/ops/crd/reference.py; operation.py has the schemas.
//
// Two ways to the same numbers, fastkd/ops/crd/__init__.py chooses: crd_gather.h goes from draw to draw, crd_tiles.h
// from tile to tile of the bank. A task is one sample and 1024 of its draws, or some tiles; tasks and sums have a fixed
// order: no result depends on threads.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <vector>

#include "crd.h"
#include "inputs.h"

#define FASTKD_KERNELS "crd_kernels.h"
#include "each_target.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using namespace fastkd;

constexpr int64_t CHUNK = 1024;
static_assert(CHUNK % DRAWN_TOGETHER == 0, "a chunk begins with a counter's first word");
constexpr int64_t SLICE = 20;  // tiles

FASTKD_INLINE void put(float* to, float value) { *to = value; }
FASTKD_INLINE void put(BFloat16* to, float value) {  // to the nearest, ties to even; NaN stays NaN
  const uint32_t bits = bits_of(value);
  to->bits = value != value ? uint16_t{0x7FC0} : static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

template <typename T>
FASTKD_INLINE void update(T* row, const float* const embeddings[2], float momentum, int64_t dim) {
  std::vector<float> mixed(static_cast<size_t>(dim));
  for (int side = 0; side < 2; ++side, row += dim) {
    double squares = 0;
    for (int64_t d = 0; d < dim; ++d) {
      mixed[d] = momentum * single(row + d) + (1 - momentum) * embeddings[side][d];
      squares += static_cast<double>(mixed[d]) * mixed[d];
    }
    const float norm = static_cast<float>(std::sqrt(squares));
    if (!std::isfinite(norm)) continue;  // the training may go on without this step
    for (int64_t d = 0; d < dim; ++d) put(row + d, mixed[d] / std::max(norm, SMALLEST_NORM));
  }
}

Draws plan(const Tensor& rows, const std::optional<Tensor>& chosen, const Tensor& starts, const Tensor& step, int64_t n,
           int64_t negatives, int64_t seed, int64_t first_place, bool replacement, bool relaxed, bool scarce) {
  const uint64_t key = static_cast<uint64_t>(seed);
  return {rows.const_data_ptr<int64_t>(),
          chosen.has_value() ? chosen->const_data_ptr<int64_t>() : nullptr,
          starts.const_data_ptr<int64_t>(),
          starts.size(0) - 1,
          n,
          negatives,
          static_cast<uint32_t>(key),
          static_cast<uint32_t>(key >> 32),
          static_cast<uint32_t>(*step.const_data_ptr<int64_t>()),
          first_place,
          replacement,
          relaxed,
          scarce};
}

void complain() {
  STD_TORCH_CHECK(false, "crd: a row is outside the bank, or a sample has no negatives because all are of its class");
}

// One pass over all draws: sums [2] of the losses, and gradients [2][samples, dim]; or sums [2] of exp(score / T).
void run(const Tensor& student, const Tensor& teacher, const Tensor& bank, const Draws& draws, const float* z,
         float temperature, bool measures, double* sums, float* student_gradient, float* teacher_gradient) {
  const int64_t samples = student.size(0), dim = student.size(1), places = draws.negatives + 1;
  const int64_t chunks = (places + CHUNK - 1) / CHUNK, tasks = samples * chunks;
  const Nce nce[2] = {Nce(temperature, z[0], draws.negatives, draws.n, samples),
                      Nce(temperature, z[1], draws.negatives, draws.n, samples)};
  const bool narrow = bank.scalar_type() == ScalarType::BFloat16;
  const auto gather = FASTKD_BEST(gather);
  const auto draw = FASTKD_BEST(draw);
  std::vector<float> gradients(static_cast<size_t>(tasks * 2 * dim));
  std::vector<double> parts(static_cast<size_t>(tasks * 2));
  std::atomic<bool> inside{true};
  const float* const students = student.const_data_ptr<float>();
  const float* const teachers = teacher.const_data_ptr<float>();
  const void* const rows_of_bank = bank.const_data_ptr();
  torch::stable::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    uint32_t rows[CHUNK];
    std::vector<float> ordered(static_cast<size_t>(4 * dim));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t sample = i / chunks, first = i % chunks * CHUNK;
      const int64_t count = places - first < CHUNK ? places - first : CHUNK;
      if (!draw(draws, sample, first, count, rows)) {
        inside = false;
        return;
      }
      gather({nce, rows_of_bank, narrow, {students + sample * dim, teachers + sample * dim}, rows, dim, count,
              first + count == places, measures, ordered.data(), gradients.data() + i * 2 * dim, parts.data() + i * 2});
    }
  });
  if (!inside) complain();
  sums[0] = sums[1] = 0;
  for (int64_t i = 0; i < tasks; ++i)
    for (int side = 0; side < 2; ++side) sums[side] += parts[i * 2 + side];
  if (measures) return;
  for (int64_t i = 0; i < tasks; ++i)
    for (int side = 0; side < 2; ++side) {
      float* const to = (side == 0 ? student_gradient : teacher_gradient) + i / chunks * dim;
      const float* const from = gradients.data() + (i * 2 + side) * dim;
      for (int64_t d = 0; d < dim; ++d) to[d] = i % chunks == 0 ? from[d] : to[d] + from[d];
    }
}

// The draws of all samples, sorted by the tiles of the bank.
struct Sorted {
  std::vector<uint8_t> drawn;       // [samples][negatives]
  std::vector<uint32_t> starts;     // [samples][tiles + 1]
  std::vector<uint32_t> positives;  // [samples]
};

Sorted sorted(const Draws& draws, int64_t samples) {
  const int64_t tiles = (draws.n + TILE - 1) / TILE, negatives = draws.negatives;
  Sorted result{std::vector<uint8_t>(static_cast<size_t>(samples * negatives)),
                std::vector<uint32_t>(static_cast<size_t>(samples * (tiles + 1))),
                std::vector<uint32_t>(static_cast<size_t>(samples))};
  std::atomic<bool> inside{true};
  const auto draw = FASTKD_BEST(draw);
  torch::stable::parallel_for(0, samples, 1, [&](int64_t begin, int64_t end) {
    std::vector<uint32_t> rows(static_cast<size_t>(negatives + CHUNK)), next(static_cast<size_t>(tiles + 1));
    for (int64_t b = begin; b < end; ++b) {
      for (int64_t first = 0; first <= negatives; first += CHUNK)
        if (!draw(draws, b, first, std::min(negatives + 1 - first, CHUNK), rows.data() + first)) {
          inside = false;
          return;
        }
      result.positives[b] = rows[negatives];
      std::fill(next.begin(), next.end(), 0);
      for (int64_t i = 0; i < negatives; ++i) ++next[rows[i] / TILE];
      uint32_t* const starts = result.starts.data() + b * (tiles + 1);
      for (int64_t tile = 0; tile < tiles; ++tile) {
        starts[tile + 1] = starts[tile] + next[tile];
        next[tile] = starts[tile];
      }
      uint8_t* const drawn = result.drawn.data() + b * negatives;
      for (int64_t i = 0; i < negatives; ++i) drawn[next[rows[i] / TILE]++] = static_cast<uint8_t>(rows[i] % TILE);
    }
  });
  if (!inside) complain();
  return result;
}

// As `run`, for the losses, from tile to tile of the bank: the negatives in slices of it, then the positives.
void run_tiles(const Tensor& student, const Tensor& teacher, const Tensor& bank, const Draws& draws, const float* z,
               float temperature, double* sums, float* const gradients[2]) {
  const int64_t samples = student.size(0), dim = student.size(1), wide = FASTKD_BEST(padded_dim)(dim);
  const int64_t tiles = (draws.n + TILE - 1) / TILE, slices = (tiles + SLICE - 1) / SLICE, side_size = samples * wide;
  const Nce nce[2] = {Nce(temperature, z[0], draws.negatives, draws.n, samples),
                      Nce(temperature, z[1], draws.negatives, draws.n, samples)};
  const float* const embeddings[2] = {student.const_data_ptr<float>(), teacher.const_data_ptr<float>()};
  const bool narrow = bank.scalar_type() == ScalarType::BFloat16;
  const void* const rows_of_bank = bank.const_data_ptr();
  const Sorted found = sorted(draws, samples);
  std::vector<float> padded(static_cast<size_t>(2 * side_size)), parts(static_cast<size_t>(slices * 2 * side_size));
  std::vector<double> losses(static_cast<size_t>((slices + samples) * 2));
  for (int64_t side = 0; side < 2; ++side)
    for (int64_t b = 0; b < samples; ++b)
      std::copy_n(embeddings[side] + b * dim, dim, padded.data() + side * side_size + b * wide);
  const auto kernel = FASTKD_BEST(tiles);
  torch::stable::parallel_for(0, slices, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      kernel({nce, rows_of_bank, narrow, padded.data(), found.drawn.data(), found.starts.data(), i * SLICE,
              std::min((i + 1) * SLICE, tiles), draws.n, dim, samples, draws.negatives,
              parts.data() + i * 2 * side_size, losses.data() + i * 2});
  });
  const auto gather = FASTKD_BEST(gather);
  torch::stable::parallel_for(0, samples, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> room(static_cast<size_t>(6 * dim));
    float* const own = room.data() + 4 * dim;
    for (int64_t b = begin; b < end; ++b) {
      gather({nce, rows_of_bank, narrow, {embeddings[0] + b * dim, embeddings[1] + b * dim}, &found.positives[b], dim,
              1, true, false, room.data(), own, losses.data() + (slices + b) * 2});
      for (int64_t side = 0; side < 2; ++side) {
        float* const to = gradients[side] + b * dim;
        for (int64_t d = 0; d < dim; ++d) to[d] = own[side * dim + d];
        for (int64_t i = 0; i < slices; ++i) {
          const float* const from = parts.data() + (i * 2 + side) * side_size + b * wide;
          for (int64_t d = 0; d < dim; ++d) to[d] += from[d];
        }
      }
    }
  });
  sums[0] = sums[1] = 0;
  for (int64_t i = 0; i < slices + samples; ++i)
    for (int side = 0; side < 2; ++side) sums[side] += losses[i * 2 + side];
}

template <bool BY_TILES>
void crd_loss(FASTKD_CRD_INPUTS, Tensor total, Tensor sides, Tensor student_gradient, Tensor teacher_gradient) {
  double sums[2];
  const Draws draws =
      plan(rows, chosen, starts, step, bank.size(0), negatives, seed, first_place, replacement, relaxed, scarce);
  const float *const known = z.const_data_ptr<float>(), temperature = numbers.const_data_ptr<float>()[0];
  float* const gradients[2] = {student_gradient.mutable_data_ptr<float>(), teacher_gradient.mutable_data_ptr<float>()};
  if (BY_TILES)
    run_tiles(student, teacher, bank, draws, known, temperature, sums, gradients);
  else
    run(student, teacher, bank, draws, known, temperature, false, sums, gradients[0], gradients[1]);
  float* const parts = sides.mutable_data_ptr<float>();
  for (int side = 0; side < 2; ++side)
    parts[side] = static_cast<float>(sums[side] / static_cast<double>(student.size(0)));
  *total.mutable_data_ptr<float>() = static_cast<float>((sums[0] + sums[1]) / static_cast<double>(student.size(0)));
}

void crd_normaliser(FASTKD_CRD_INPUTS, Tensor out) {
  const float* const known = z.const_data_ptr<float>();
  float* const to = out.mutable_data_ptr<float>();
  to[0] = known[0];
  to[1] = known[1];
  if (known[0] > 0) return;
  double sums[2];
  const float one[2] = {1, 1};
  const Draws draws =
      plan(rows, chosen, starts, step, bank.size(0), negatives, seed, first_place, replacement, relaxed, scarce);
  run(student, teacher, bank, draws, one, numbers.const_data_ptr<float>()[0], true, sums, nullptr, nullptr);
  const double scores = static_cast<double>(student.size(0)) * static_cast<double>(negatives + 1);
  for (int side = 0; side < 2; ++side)
    to[side] = static_cast<float>(sums[side] / scores * static_cast<double>(bank.size(0)));
}

void crd_update(Tensor bank, Tensor z, Tensor step, Tensor rows, Tensor student, Tensor teacher, Tensor new_z,
                Tensor numbers) {
  const int64_t samples = rows.size(0), dim = student.size(1);
  const int64_t* const row = rows.const_data_ptr<int64_t>();
  const float momentum = numbers.const_data_ptr<float>()[1];
  const float *const students = student.const_data_ptr<float>(), *const teachers = teacher.const_data_ptr<float>();
  const bool narrow = bank.scalar_type() == ScalarType::BFloat16;
  void* const data = bank.mutable_data_ptr();
  for (int64_t i = 0; i < samples; ++i)
    if (static_cast<uint64_t>(row[i]) >= static_cast<uint64_t>(bank.size(0))) complain();
  torch::stable::parallel_for(0, samples, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      bool last = true;
      for (int64_t later = i + 1; later < samples && last; ++later) last = row[later] != row[i];
      if (!last) continue;
      const float* const embeddings[2] = {students + i * dim, teachers + i * dim};
      if (narrow)
        update(static_cast<BFloat16*>(data) + row[i] * 2 * dim, embeddings, momentum, dim);
      else
        update(static_cast<float*>(data) + row[i] * 2 * dim, embeddings, momentum, dim);
    }
  });
  for (int side = 0; side < 2; ++side) {
    const float fresh = new_z.const_data_ptr<float>()[side];
    if (std::isfinite(fresh)) z.mutable_data_ptr<float>()[side] = fresh;
  }
  *step.mutable_data_ptr<int64_t>() += 1;
}

void crd_draw(Tensor rows, FASTKD_DRAW_PLAN, int64_t n, Tensor out) {
  const Draws draws = plan(rows, std::nullopt, starts, step, n, negatives, seed, first_place, replacement, relaxed, scarce);
  const int64_t places = negatives + 1, chunks = (places + CHUNK - 1) / CHUNK;
  int64_t* const to = out.mutable_data_ptr<int64_t>();
  std::atomic<bool> inside{true};
  const auto draw = FASTKD_BEST(draw);
  torch::stable::parallel_for(0, rows.size(0) * chunks, 1, [&](int64_t begin, int64_t end) {
    uint32_t drawn[CHUNK];
    for (int64_t i = begin; i < end; ++i) {
      const int64_t sample = i / chunks, first = i % chunks * CHUNK;
      const int64_t count = places - first < CHUNK ? places - first : CHUNK;
      if (!draw(draws, sample, first, count, drawn)) {
        inside = false;
        return;
      }
      int64_t* const own = to + sample * places;
      const int64_t drawn_negatives = first + count == places ? count - 1 : count;
      for (int64_t k = 0; k < drawn_negatives; ++k) own[first + k + 1] = drawn[k];
      if (drawn_negatives < count) own[0] = drawn[drawn_negatives];
    }
  });
  if (!inside) complain();
}

void interface(Tensor) {}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastkd, CPU, m) {
  m.impl("_crd_loss", TORCH_BOX(&crd_loss<false>));
  m.impl("_crd_loss_by_tiles", TORCH_BOX(&crd_loss<true>));
  m.impl("_crd_normaliser", TORCH_BOX(&crd_normaliser));
  m.impl("_crd_update", TORCH_BOX(&crd_update));
  m.impl("_crd_draw", TORCH_BOX(&crd_draw));
  m.impl(FASTKD_INTERFACE, TORCH_BOX(&interface));
}
