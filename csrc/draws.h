// Which bank rows a sample is contrasted with: a pure function of (seed, step, place in the global batch, column).
// fastkd/ops/crd/draws.py is the same in PyTorch and says why; the integers are identical.
#pragma once

#include "portable.h"

namespace fastkd {

struct Words {
  uint32_t x, y, z, w;
};

// The upper half of the product: maps a random word a to 0 … b-1.
FASTKD_INLINE uint32_t scaled(uint32_t a, uint32_t b) { return static_cast<uint32_t>((uint64_t{a} * b) >> 32); }

// Philox4x32-10.
FASTKD_INLINE Words philox(uint32_t key0, uint32_t key1, Words c) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * c.x, product2 = uint64_t{0xCD9E8D57u} * c.z;
    c = {static_cast<uint32_t>(product2 >> 32) ^ c.y ^ key0, static_cast<uint32_t>(product2),
         static_cast<uint32_t>(product0 >> 32) ^ c.w ^ key1, static_cast<uint32_t>(product0)};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return c;
}

constexpr uint32_t STREAM = 0x43524400u;  // "CRD"

// The random words of one sample in one step.
struct Stream {
  uint32_t key0, key1, place, step;

  FASTKD_INLINE Words operator()(uint32_t counter) const {
    return philox(key0, key1, {counter, place, step, STREAM});
  }
};
// With replacement, 16 counters give 64 columns: their first words, then their second ones, and so on, so that a vector
// unit stores side by side what it computes.
constexpr uint32_t DRAW_LANES = 16;
constexpr uint32_t POSITIVE_COUNTER = 0xFFFFFFFFu, KEY_COUNTER = 0xFFFFFFFEu;

// A keyed permutation of 0 … n-1 (n >= 1): a Feistel network of additions on pairs (left < a, right < b), a b >= n, whose
// walk goes on while it stands outside 0 … n-1. a b - n < a, about the root of n, so hardly any place walks at all.
struct Permutation {
  uint32_t n, a, b, reciprocal;
  Words keys;

  FASTKD_INLINE Permutation(uint32_t size, Words keys_)
      : n(size),
        a(static_cast<uint32_t>(ceil(sqrt(static_cast<double>(size))))),
        b((size + a - 1) / a),
        reciprocal(b > 1 ? static_cast<uint32_t>((uint64_t{1} << 32) / b) : 0xFFFFFFFFu),
        keys(keys_) {}

  FASTKD_INLINE static uint32_t shift(uint32_t value, uint32_t other, uint32_t key, uint32_t modulus) {
    uint32_t h = (other + key) * 0x9E3779B1u;
    h = (h ^ (h >> 15)) * 0x85EBCA77u;
    const uint32_t moved = value + scaled(h, modulus);
    return moved >= modulus ? moved - modulus : moved;
  }

  // One step of the walk: the result may stand outside 0 … n-1.
  FASTKD_INLINE uint32_t once(uint32_t place) const {
    uint32_t left = scaled(place, reciprocal), right = place - left * b;
    // The reciprocal is rounded down, so the quotient may be one too small.
    const uint32_t correction = right >= b ? 1u : 0u;
    left += correction;
    right -= correction * b;
    left = shift(left, right, keys.x, a);
    right = shift(right, left, keys.y, b);
    left = shift(left, right, keys.z, a);
    right = shift(right, left, keys.w, b);
    return left * b + right;
  }

  FASTKD_INLINE uint32_t operator()(uint32_t place) const {
    do place = once(place);
    while (place >= n);
    return place;
  }
};

// The rows of one class, [start, end), in a bank of n rows that is sorted by class.
struct OwnClass {
  uint32_t start, end;

  FASTKD_INLINE uint32_t others(uint32_t n) const { return n - (end - start); }
  // The i-th row of the other classes.
  FASTKD_INLINE uint32_t other(uint32_t i) const { return i < start ? i : i + (end - start); }
};

// starts: [classes + 1], rising from 0 to n, so that class c has rows starts[c] … starts[c+1]-1.
FASTKD_INLINE OwnClass class_of_row(int64_t row, const int64_t* starts, int64_t classes) {
  int64_t low = 0, high = classes;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    if (starts[middle] <= row)
      low = middle;
    else
      high = middle;
  }
  return {static_cast<uint32_t>(starts[low]), static_cast<uint32_t>(starts[low + 1])};
}

// A row of the sample's own class.
FASTKD_INLINE uint32_t relaxed_positive(const Stream& stream, const OwnClass& own) {
  return own.start + scaled(stream(POSITIVE_COUNTER).x, own.end - own.start);
}

}  // namespace fastkd
