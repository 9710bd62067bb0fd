// The CRD memory bank on a CPU. fastkd/ops/crd/reference.py is the definition, fastkd/ops/crd/operation.py the schemas.
//
// A task is one sample and 1024 of its draws: a row is read once, multiplied by the embedding, and at once added to the
// gradient with the weight that its score gives it. Tasks and sums have a fixed order: no result depends on threads.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <vector>

#include "cpu_draws.h"
#include "inputs.h"
#include "nce.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using namespace fastkd;

constexpr int64_t CHUNK = 1024, BLOCK = 16, LANES = 16;
static_assert(CHUNK % DRAWN_TOGETHER == 0, "a chunk begins with a counter's first word");

typedef float Floats __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint32_t Bits __attribute__((vector_size(64)));
typedef uint32_t Pairs __attribute__((vector_size(64), aligned(2), may_alias));
typedef float Quad __attribute__((vector_size(16), aligned(4), may_alias));
typedef int Order __attribute__((vector_size(16)));

struct BFloat16 {
  uint16_t bits;
};

FASTKD_INLINE float single(const float* value) { return *value; }
FASTKD_INLINE float single(const BFloat16* value) { return float_of(uint32_t{value->bits} << 16); }

// Two vectors of a row at once. In bfloat16 they are the even and the odd elements of 32, since that takes a shift and
// a mask; embeddings and gradients are put into the same order.
struct Two {
  Floats a, b;
};

FASTKD_INLINE Two two(const float* from) {
  return {*reinterpret_cast<const Floats*>(from), *reinterpret_cast<const Floats*>(from + LANES)};
}

FASTKD_INLINE void keep(float* to, const Two& values) {
  *reinterpret_cast<Floats*>(to) = values.a;
  *reinterpret_cast<Floats*>(to + LANES) = values.b;
}

FASTKD_INLINE Two two(const BFloat16* from) {
  const Bits pairs = *reinterpret_cast<const Pairs*>(from);
  return {(Floats)(pairs << 16), (Floats)(pairs & 0xFFFF0000u)};
}

// Where an element of 2 * LANES stands in that order.
FASTKD_INLINE int64_t place_of(const float*, int64_t d) { return d; }
FASTKD_INLINE int64_t place_of(const BFloat16*, int64_t d) { return d % 2 * LANES + d / 2; }

FASTKD_INLINE void store(float* to, float value) { *to = value; }
FASTKD_INLINE void store(BFloat16* to, float value) {  // to the nearest, ties to even; NaN stays NaN
  const uint32_t bits = bits_of(value);
  to->bits = value != value ? uint16_t{0x7FC0} : static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

FASTKD_INLINE Quad quarters(const Floats& values) {
  float all[LANES];
  *reinterpret_cast<Floats*>(all) = values;
  const Quad* const four = reinterpret_cast<const Quad*>(all);
  return (four[0] + four[1]) + (four[2] + four[3]);
}

// The sums over the elements of four vectors of four.
FASTKD_INLINE Quad sums_of(Quad a, Quad b, Quad c, Quad d) {
  constexpr Order low = {0, 4, 1, 5}, high = {2, 6, 3, 7}, first = {0, 1, 4, 5}, second = {2, 3, 6, 7};
  const Quad ab = __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, high);
  const Quad cd = __builtin_shuffle(c, d, low) + __builtin_shuffle(c, d, high);
  return __builtin_shuffle(ab, cd, first) + __builtin_shuffle(ab, cd, second);
}

struct Task {
  const Nce* nce;  // [2]: of the student's and of the teacher's side
  const void* bank;
  const float* embeddings[2];
  const uint32_t* rows;
  int64_t dim, count;
  bool ends_with_positive, measures;
  float* ordered;    // room for [4, dim]
  float* gradients;  // [2, dim]
  double* sums;      // [2]: of the losses, or of exp(score / T) if Z is measured
};

// DIM: the compile-time dimension, or 0.
template <typename T, int DIM>
FASTKD_INLINE void pass(const Task& task) {
  constexpr int64_t STEP = 2 * LANES, GROUP = DIM > 0 ? DIM / STEP : 4;  // so many pairs of accumulators at once
  static_assert(DIM % STEP == 0, "the compile-time dimension is a multiple of two vectors");
  const int64_t dim = DIM > 0 ? DIM : task.dim, whole = dim / STEP * STEP;
  const T* const bank = static_cast<const T*>(task.bank);
  float* const ordered = task.ordered;  // embeddings [2][dim], then gradients [2][dim]
  for (int64_t side = 0; side < 2; ++side)
    for (int64_t d = 0; d < dim; ++d)
      ordered[side * dim + (d < whole ? d / STEP * STEP + place_of(bank, d % STEP) : d)] = task.embeddings[side][d];
  float* const gradients = ordered + 2 * dim;
  for (int64_t i = 0; i < 2 * dim; ++i) gradients[i] = 0;
  double sums[2] = {0, 0};
  const T* block[BLOCK];
  for (int64_t first = 0; first < task.count; first += BLOCK) {
    const int64_t size = task.count - first < BLOCK ? task.count - first : BLOCK;
    for (int64_t i = 0; i < BLOCK; ++i) block[i] = bank + 2 * dim * int64_t{task.rows[first + (i < size ? i : 0)]};
    float scores[2][BLOCK], terms[2][BLOCK], weights[2][BLOCK];
    for (int64_t i = 0; i < BLOCK; i += 4) {
      Quad parts[2][4];
      for (int64_t j = 0; j < 4; ++j) {
        if (first + BLOCK + i + j < task.count) {
          const T* const next = bank + 2 * dim * int64_t{task.rows[first + BLOCK + i + j]};
          for (int64_t d = 0; d < 2 * dim; d += 64 / sizeof(T)) __builtin_prefetch(next + d);
        }
        // The student's embedding meets the teacher's half of the row, the teacher's the student's.
        for (int64_t side = 0; side < 2; ++side) {
          const T* const row = block[i + j] + (side == 0 ? dim : 0);
          const float* const embedding = ordered + side * dim;
          Two products = {};
          for (int64_t d = 0; d < whole; d += STEP) {
            const Two elements = two(row + d), with = two(embedding + d);
            products.a += with.a * elements.a;
            products.b += with.b * elements.b;
          }
          parts[side][j] = quarters(products.a + products.b);
          for (int64_t d = whole; d < dim; ++d) parts[side][j][0] += embedding[d] * single(row + d);
        }
      }
      for (int64_t side = 0; side < 2; ++side)
        *reinterpret_cast<Quad*>(scores[side] + i) =
            sums_of(parts[side][0], parts[side][1], parts[side][2], parts[side][3]);
    }
    for (int64_t side = 0; side < 2; ++side) {
      const Nce nce = task.nce[side];
      if (task.measures) {
        for (int64_t i = 0; i < size; ++i) sums[side] += nce.power(scores[side][i]);
        continue;
      }
      for (int64_t i = 0; i < BLOCK; ++i) terms[side][i] = nce.negative(scores[side][i], weights[side][i]);
      if (task.ends_with_positive && first + size == task.count)
        terms[side][size - 1] = nce.positive(scores[side][size - 1], weights[side][size - 1]);
      for (int64_t i = size; i < BLOCK; ++i) terms[side][i] = weights[side][i] = 0;
      float total = 0;
      for (int64_t i = 0; i < BLOCK; ++i) total += terms[side][i];
      sums[side] += total;
      float* const gradient = gradients + side * dim;
      const int64_t half = side == 0 ? dim : 0;
      int64_t d = 0;
      for (; d + GROUP * STEP <= whole; d += GROUP * STEP) {
        Two kept[GROUP];
        for (int64_t r = 0; r < GROUP; ++r) kept[r] = two(gradient + d + r * STEP);
        for (int64_t i = 0; i < BLOCK; ++i)
          for (int64_t r = 0; r < GROUP; ++r) {
            const Two elements = two(block[i] + half + d + r * STEP);
            kept[r].a += weights[side][i] * elements.a;
            kept[r].b += weights[side][i] * elements.b;
          }
        for (int64_t r = 0; r < GROUP; ++r) keep(gradient + d + r * STEP, kept[r]);
      }
      for (; d < whole; d += STEP) {
        Two kept = two(gradient + d);
        for (int64_t i = 0; i < BLOCK; ++i) {
          const Two elements = two(block[i] + half + d);
          kept.a += weights[side][i] * elements.a;
          kept.b += weights[side][i] * elements.b;
        }
        keep(gradient + d, kept);
      }
      for (; d < dim; ++d)
        for (int64_t i = 0; i < BLOCK; ++i) gradient[d] += weights[side][i] * single(block[i] + half + d);
    }
  }
  for (int64_t side = 0; side < 2; ++side)
    for (int64_t d = 0; d < dim; ++d)
      task.gradients[side * dim + d] =
          gradients[side * dim + (d < whole ? d / STEP * STEP + place_of(bank, d % STEP) : d)];
  task.sums[0] = sums[0];
  task.sums[1] = sums[1];
}

FASTKD_CLONES void pass_float_128(const Task& task) { pass<float, 128>(task); }
FASTKD_CLONES void pass_float(const Task& task) { pass<float, 0>(task); }
FASTKD_CLONES void pass_bfloat16_128(const Task& task) { pass<BFloat16, 128>(task); }
FASTKD_CLONES void pass_bfloat16(const Task& task) { pass<BFloat16, 0>(task); }

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
    for (int64_t d = 0; d < dim; ++d) store(row + d, mixed[d] / std::max(norm, SMALLEST_NORM));
  }
}

Draws plan(const Tensor& rows, const std::optional<Tensor>& chosen, const Tensor& starts, const Tensor& step, int64_t n,
           int64_t negatives, int64_t seed, int64_t first_place, bool replacement, bool relaxed) {
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
          relaxed};
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
  const auto kernel = narrow ? (dim == 128 ? pass_bfloat16_128 : pass_bfloat16) : (dim == 128 ? pass_float_128 : pass_float);
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
      kernel({nce, rows_of_bank, {students + sample * dim, teachers + sample * dim}, rows, dim, count,
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

void crd_loss(FASTKD_CRD_INPUTS, Tensor total, Tensor sides, Tensor student_gradient, Tensor teacher_gradient) {
  double sums[2];
  const Draws draws =
      plan(rows, chosen, starts, step, bank.size(0), negatives, seed, first_place, replacement, relaxed);
  run(student, teacher, bank, draws, z.const_data_ptr<float>(), numbers.const_data_ptr<float>()[0], false, sums,
      student_gradient.mutable_data_ptr<float>(), teacher_gradient.mutable_data_ptr<float>());
  float* const parts = sides.mutable_data_ptr<float>();
  for (int side = 0; side < 2; ++side) parts[side] = static_cast<float>(sums[side] / static_cast<double>(student.size(0)));
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
      plan(rows, chosen, starts, step, bank.size(0), negatives, seed, first_place, replacement, relaxed);
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
  const Draws draws = plan(rows, std::nullopt, starts, step, n, negatives, seed, first_place, replacement, relaxed);
  const int64_t places = negatives + 1, chunks = (places + CHUNK - 1) / CHUNK;
  int64_t* const to = out.mutable_data_ptr<int64_t>();
  std::atomic<bool> inside{true};
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

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastkd, CPU, m) {
  m.impl("_crd_loss", TORCH_BOX(&crd_loss));
  m.impl("_crd_normaliser", TORCH_BOX(&crd_normaliser));
  m.impl("_crd_update", TORCH_BOX(&crd_update));
  m.impl("_crd_draw", TORCH_BOX(&crd_draw));
}
