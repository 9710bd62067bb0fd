// The draws of one sample on a CPU. draws.h has the arithmetic; crd_kernels.h includes this.

// Draws `count` numbers below `others` with replacement, from the words of `counter` on.
FASTKD_INLINE void draw_with_replacement(const Stream& stream, uint32_t counter, int64_t count, uint32_t others,
                                         uint32_t* rows) {
  if constexpr (LANES < DRAW_LANES) {
    for (int64_t i = 0; i < count; i += DRAWN_TOGETHER, counter += DRAW_LANES)
      for (uint32_t lane = 0; lane < DRAW_LANES; ++lane) {
        const Words words = stream(counter + lane);
        rows[i + lane] = scaled(words.x, others);
        rows[i + DRAW_LANES + lane] = scaled(words.y, others);
        rows[i + 2 * DRAW_LANES + lane] = scaled(words.z, others);
        rows[i + 3 * DRAW_LANES + lane] = scaled(words.w, others);
      }
    return;
  }
  // The same in half the time, on a CPU that multiplies vectors of 64-bit numbers: each word keeps the 64 bits of its
  // product, whose upper half is cut off when it is multiplied again.
  typedef uint64_t Wide __attribute__((vector_size(64)));
  constexpr int HALF = 8;
  static_assert(2 * HALF == DRAW_LANES, "two vectors");
  const Wide low = Wide{} + 0xFFFFFFFFu, lane = {0, 1, 2, 3, 4, 5, 6, 7};
  for (int64_t i = 0; i < count; i += DRAWN_TOGETHER, counter += DRAW_LANES)
    for (int half = 0; half < 2; ++half) {
      Wide x = lane + (counter + half * HALF), y = Wide{} + stream.place, z = Wide{} + stream.step;
      Wide w = Wide{} + STREAM;
      uint32_t key0 = stream.key0, key1 = stream.key1;
      for (int round = 0; round < 10; ++round, key0 += 0x9E3779B9u, key1 += 0xBB67AE85u) {
        const Wide product0 = (x & low) * 0xD2511F53u, product2 = (z & low) * 0xCD9E8D57u;
        x = (product2 >> 32) ^ y ^ key0;
        z = (product0 >> 32) ^ w ^ key1;
        y = product2;
        w = product0;
      }
      const Wide words[4] = {x, y, z, w};
      for (int word = 0; word < 4; ++word) {
        const Wide row = ((words[word] & low) * others) >> 32;
        uint32_t* const to = rows + i + word * DRAW_LANES + half * HALF;
        for (int j = 0; j < HALF; ++j) to[j] = static_cast<uint32_t>(row[j]);
      }
    }
}

// `Permutation::once` of LANES places.
struct Permutations {
  const Permutation& one;

  FASTKD_INLINE Bits shifted(const Bits& value, const Bits& other, uint32_t key, uint32_t modulus) const {
    Bits h = (other + key) * 0x9E3779B1u;
    h = (h ^ (h >> 15)) * 0x85EBCA77u;
    const Bits moved = value + scaled_all(h, modulus);
    return moved >= modulus ? moved - modulus : moved;
  }

  FASTKD_INLINE Bits once(const Bits& place) const {
    Bits left = scaled_all(place, one.reciprocal), right = place - left * one.b;
    const Bits correction = (Bits)(right >= one.b) & 1u;
    left += correction;
    right -= correction * one.b;
    left = shifted(left, right, one.keys.x, one.a);
    right = shifted(right, left, one.keys.y, one.b);
    left = shifted(left, right, one.keys.z, one.a);
    right = shifted(right, left, one.keys.w, one.b);
    return left * one.b + right;
  }
};

// Draws the rows of the places first … first+count-1 of one sample; places count the negatives, and then the positive.
// Returns false if a row is not in the bank. `rows` has room for a multiple of DRAWN_TOGETHER rows.
inline bool draw(const Draws& draws, int64_t sample, int64_t first, int64_t count, uint32_t* rows) {
  const int64_t K = draws.negatives, negatives = (first + count > K ? K : first + count) - first;
  const uint64_t n = static_cast<uint64_t>(draws.n);
  if (draws.chosen != nullptr) {
    const int64_t* chosen = draws.chosen + sample * (K + 1);
    bool inside = true;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t row = chosen[first + i < K ? first + i + 1 : 0];
      inside &= static_cast<uint64_t>(row) < n;
      rows[i] = static_cast<uint32_t>(row);
    }
    return inside;
  }
  const int64_t own_row = draws.rows[sample];
  if (static_cast<uint64_t>(own_row) >= n) return false;
  const OwnClass own = class_of_row(own_row, draws.starts, draws.classes);
  const uint32_t others = own.others(static_cast<uint32_t>(n));
  if (others == 0) return false;
  const Stream stream{draws.key0, draws.key1, static_cast<uint32_t>(draws.first_place + sample), draws.step};
  if (draws.replacement || (draws.scarce && others < K)) {
    draw_with_replacement(stream, static_cast<uint32_t>(first / 4), negatives, others, rows);
  } else {
    const Permutation permutation(others, stream(KEY_COUNTER));
    const Permutations permutations{permutation};
    Bits places = (Bits)lanes() + static_cast<uint32_t>(first);
    for (int64_t i = 0; i < negatives; i += LANES, places += static_cast<uint32_t>(LANES))
      *reinterpret_cast<Bits*>(rows + i) = permutations.once(places);
    for (int64_t i = 0; i < negatives; ++i)
      if (rows[i] >= others) rows[i] = permutation(rows[i]);
  }
  for (int64_t i = 0; i < negatives; ++i) rows[i] = own.other(rows[i]);
  if (negatives < count)
    rows[negatives] = draws.relaxed ? relaxed_positive(stream, own) : static_cast<uint32_t>(own_row);
  return true;
}
