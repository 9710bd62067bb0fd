// The bank tile by tile, each against all samples: for banks that are small against the draws, whose rows a gather
// would fetch many times. A tile stays in the first cache, a sample's embedding and its gradient in registers, while the
// rows that it drew of the tile pass: once for the scores, once for the gradient.

constexpr int64_t HELD = 8;     // vectors of an embedding, or of a gradient, in registers
constexpr int64_t SCORED = 64;  // draws of a sample whose scores are known before they get weights

inline int64_t padded_dim(int64_t dim) { return (dim + HELD * LANES - 1) / (HELD * LANES) * (HELD * LANES); }

// rows [TILE][wide]: one half of each row in float32, zeros behind its end.
template <typename T>
FASTKD_INLINE void unpack(float* rows, const Slice& slice, int64_t tile, int64_t half, int64_t wide) {
  const int64_t first = tile * TILE, count = slice.n - first < TILE ? slice.n - first : TILE;
  for (int64_t r = 0; r < count; ++r) {
    float* const to = rows + r * wide;
    const T* const from = static_cast<const T*>(slice.bank) + (2 * (first + r) + half) * slice.dim;
    for (int64_t d = 0; d < slice.dim; ++d) to[d] = single(from + d);
    for (int64_t d = slice.dim; d < wide; ++d) to[d] = 0;
  }
}

FASTKD_INLINE void score(float* scores, const float* rows, const uint8_t* drawn, int64_t count, const float* embedding,
                         int64_t wide) {
  float partial[SCORED * LANES];
  for (int64_t d = 0; d < wide; d += HELD * LANES) {
    Floats with[HELD];
    for (int64_t v = 0; v < HELD; ++v) with[v] = load(embedding + d + v * LANES);
    for (int64_t i = 0; i < count; ++i) {
      const float* const row = rows + drawn[i] * wide + d;
      Floats even = d == 0 ? Floats{} : load(partial + i * LANES), odd = {};
      for (int64_t v = 0; v < HELD; v += 2) {
        even += with[v] * load(row + v * LANES);
        odd += with[v + 1] * load(row + (v + 1) * LANES);
      }
      store(partial + i * LANES, even + odd);
    }
  }
  Quad parts[4] = {};
  for (int64_t i = 0; i < count; i += 4) {
    for (int64_t j = 0; j < 4 && i + j < count; ++j) parts[j] = quarters(load(partial + (i + j) * LANES));
    *reinterpret_cast<Quad*>(scores + i) = sums_of(parts[0], parts[1], parts[2], parts[3]);
  }
}

// Turns scores into weights, and returns the losses.
FASTKD_INLINE float weigh(float* scores, int64_t count, const Nce& given) {
  const Nce nce = given;
  const int64_t whole = (count + LANES - 1) / LANES * LANES;
  float losses[SCORED];
  for (int64_t i = count; i < whole; ++i) scores[i] = 0;
  for (int64_t i = 0; i < whole; ++i) {
    float weight;
    losses[i] = nce.negative(scores[i], weight);
    scores[i] = weight;
  }
  for (int64_t i = count; i < whole; ++i) losses[i] = 0;
  Floats total = {};
  for (int64_t i = 0; i < whole; i += LANES) total += load(losses + i);
  return sum(total);
}

FASTKD_INLINE void accumulate(float* gradient, const float* weights, const float* rows, const uint8_t* drawn,
                              int64_t count, int64_t wide) {
  for (int64_t d = 0; d < wide; d += HELD * LANES) {
    Floats kept[HELD] = {};  // few at a time and these together: thousands in a row would lose digits
    for (int64_t i = 0; i < count; ++i) {
      const float* const row = rows + drawn[i] * wide + d;
      for (int64_t v = 0; v < HELD; ++v) kept[v] += weights[i] * load(row + v * LANES);
    }
    for (int64_t v = 0; v < HELD; ++v) store(gradient + d + v * LANES, load(gradient + d + v * LANES) + kept[v]);
  }
}

// Asks for a share of what the bank holds behind a tile, so that it is near when its turn comes.
FASTKD_INLINE void prefetch(const Slice& slice, int64_t tile, int64_t part, int64_t parts) {
  const int64_t bytes = TILE * 2 * slice.dim * (slice.narrow ? 2 : 4), share = (bytes + parts - 1) / parts;
  const char* const next = static_cast<const char*>(slice.bank) + (tile + 1) * bytes + part * share;
  for (int64_t byte = 0; byte < share; byte += 64) __builtin_prefetch(next + byte, 0, 2);
}

inline void tiles(const Slice& slice) {
  const int64_t wide = padded_dim(slice.dim), all_tiles = (slice.n + TILE - 1) / TILE;
  std::vector<float> rows(static_cast<size_t>(TILE * wide));
  float scores[SCORED];
  slice.sums[0] = slice.sums[1] = 0;
  for (int64_t tile = slice.first; tile < slice.end; ++tile)
    for (int64_t side = 0; side < 2; ++side) {
      const int64_t half = 1 - side;  // the student's embedding meets the teacher's half of the row
      slice.narrow ? unpack<BFloat16>(rows.data(), slice, tile, half, wide)
                   : unpack<float>(rows.data(), slice, tile, half, wide);
      for (int64_t b = 0; b < slice.samples; ++b) {
        const uint32_t* const starts = slice.starts + b * (all_tiles + 1) + tile;
        const uint8_t* const drawn = slice.drawn + b * slice.negatives;
        const int64_t place = (side * slice.samples + b) * wide;
        prefetch(slice, tile, side * slice.samples + b, 2 * slice.samples);
        for (int64_t i = starts[0]; i < starts[1]; i += SCORED) {
          const int64_t count = starts[1] - i < SCORED ? starts[1] - i : SCORED;
          score(scores, rows.data(), drawn + i, count, slice.embeddings + place, wide);
          slice.sums[side] += weigh(scores, count, slice.nce[side]);
          accumulate(slice.gradients + place, scores, rows.data(), drawn + i, count, wide);
        }
      }
    }
}
