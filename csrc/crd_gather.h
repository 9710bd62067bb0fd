// The bank's rows one after the other, as a sample drew them: for banks that are large against the draws. A row is read
// once, multiplied by the embedding, and at once added to the gradient with the weight that its score gives it.

constexpr int64_t BLOCK = 16;

typedef uint32_t Pairs __attribute__((vector_size(4 * LANES), aligned(2), may_alias));
typedef float Quad __attribute__((vector_size(16), aligned(4), may_alias));
typedef int Order __attribute__((vector_size(16)));

// Two vectors of a row at once. In bfloat16 they are the even and the odd elements of 2 * LANES, since that takes a
// shift and a mask; embeddings and gradients are put into the same order.
struct Two {
  Floats a, b;
};

FASTKD_INLINE Two two(const float* from) {
  return {load(from), load(from + LANES)};
}

FASTKD_INLINE void keep(float* to, const Two& values) {
  store(to, values.a);
  store(to + LANES, values.b);
}

FASTKD_INLINE Two two(const BFloat16* from) {
  const Bits pairs = *reinterpret_cast<const Pairs*>(from);
  return {(Floats)(pairs << 16), (Floats)(pairs & 0xFFFF0000u)};
}

// Where an element of 2 * LANES stands in that order.
FASTKD_INLINE int64_t place_of(const float*, int64_t d) { return d; }
FASTKD_INLINE int64_t place_of(const BFloat16*, int64_t d) { return d % 2 * LANES + d / 2; }

FASTKD_INLINE Quad quarters(const Floats& values) {
  float all[LANES];
  store(all, values);
  const Quad* const four = reinterpret_cast<const Quad*>(all);
  if constexpr (LANES == 16) return (four[0] + four[1]) + (four[2] + four[3]);
  return LANES == 8 ? four[0] + four[1] : four[0];
}

// The sums over the elements of four vectors of four.
FASTKD_INLINE Quad sums_of(Quad a, Quad b, Quad c, Quad d) {
  constexpr Order low = {0, 4, 1, 5}, high = {2, 6, 3, 7}, first = {0, 1, 4, 5}, second = {2, 3, 6, 7};
  const Quad ab = __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, high);
  const Quad cd = __builtin_shuffle(c, d, low) + __builtin_shuffle(c, d, high);
  return __builtin_shuffle(ab, cd, first) + __builtin_shuffle(ab, cd, second);
}

// DIM: the compile-time dimension, or 0.
template <typename T, int DIM>
FASTKD_INLINE void pass(const Task& task) {
  constexpr int64_t STEP = 2 * LANES, MOST = REGISTERS / 4;  // so many pairs of accumulators at once
  constexpr int64_t GROUP = DIM > 0 && DIM / STEP < MOST ? DIM / STEP : 4;
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

inline void gather(const Task& task) {
  if (task.narrow)
    task.dim == 128 ? pass<BFloat16, 128>(task) : pass<BFloat16, 0>(task);
  else
    task.dim == 128 ? pass<float, 128>(task) : pass<float, 0>(task);
}
