// Matrix units; as interpreter/matrices.py.
#pragma once

#include "threads.h"

inline f64 number_of(u32 word, int half, int kind) {
  switch (kind) {
    case KIND_F16: return words::of_f16(static_cast<u16>(word >> (16 * half)));
    case KIND_BF16: return words::of_bf16(static_cast<u16>(word >> (16 * half)));
    case KIND_TF32: return std::bit_cast<f32>(word & 0xFFFFE000u);
    default: return std::bit_cast<f32>(word);
  }
}

inline void Block::load_matrix(const Mask& mask) {
  const int count = at->count - 1;
  const bool transposed = at->details[0];
  whole_warps(mask, INACTIVE);
  Mask addressing{};
  const u32 lanes = count == 4 ? ~0u : (1u << (8 * count)) - 1;
  for (int warp = 0; warp < warps; ++warp) addressing[warp] = mask[warp] & lanes;
  if (slot(0) != NONE) defined(0, addressing, "an address");
  std::vector<int> who = threads_of(addressing, warps), sound;
  std::vector<u64> addresses;
  std::vector<Place> places;
  std::vector<u16> rows(size_t(warps) * WARP * 8, 0);
  std::vector<u8> known(size_t(warps) * WARP, 1);
  u8 reported = 0;
  for (int thread : who) {
    addresses.push_back(address(0, at->numbers[0], thread));
    Place p;
    if (!placed(SHARED, addresses.back(), 16, 16, thread, "reads", p, reported)) continue;
    sound.push_back(thread);
    places.push_back(p);
    std::memcpy(&rows[size_t(thread) * 8], p.region->data + p.offset, 16);
    for (int c = 0; c < p.cells; ++c)
      if (p.region->flags[p.cell + c] & F_UNDEFINED) known[thread] = 0;
  }
  count_shared(who, addresses, 16);
  note_read(sound, places, "reads", WEAK, GPU_SCOPE);
  for (int thread : threads_of(mask, warps)) {
    const int lane = thread % WARP, first = thread - lane;
    for (int i = 0; i < count; ++i) {
      if (slot(i + 1) == NONE) continue;
      u32 word = 0;
      bool all = true;
      for (int h = 0; h < 2; ++h) {
        const int row = first + 8 * i + (transposed ? 2 * (lane % 4) + h : lane / 4);
        const int column = transposed ? lane / 4 : 2 * (lane % 4) + h;
        word |= u32{rows[size_t(row) * 8 + column]} << (16 * h);
        all &= known[row] != 0;
      }
      reg(i + 1).put(thread, word, all ? 3 : 0);
    }
  }
}

inline void Block::store_matrix(const Mask& mask) {
  const int count = at->count - 1;
  const bool transposed = at->details[0];
  whole_warps(mask, INACTIVE);
  Mask addressing{};
  const u32 lanes = count == 4 ? ~0u : (1u << (8 * count)) - 1;
  for (int warp = 0; warp < warps; ++warp) addressing[warp] = mask[warp] & lanes;
  if (slot(0) != NONE) defined(0, addressing, "an address");
  std::vector<u16> rows(size_t(warps) * WARP * 8, 0);
  std::vector<u8> known(size_t(warps) * WARP, 1);
  for (int thread : threads_of(mask, warps)) {
    const int lane = thread % WARP, first = thread - lane;
    for (int i = 0; i < count; ++i)
      for (int h = 0; h < 2; ++h) {
        const int row = first + 8 * i + (transposed ? 2 * (lane % 4) + h : lane / 4);
        const int column = transposed ? lane / 4 : 2 * (lane % 4) + h;
        rows[size_t(row) * 8 + column] = static_cast<u16>(reg(i + 1).get(thread) >> (16 * h));
        if (reg(i + 1).known(thread) != 3) known[row] = 0;
      }
  }
  std::vector<int> who = threads_of(addressing, warps), sound;
  std::vector<u64> addresses;
  std::vector<Place> places;
  std::vector<const u8*> values;
  u8 reported = 0;
  for (int thread : who) {
    addresses.push_back(address(0, at->numbers[0], thread));
    Place p;
    if (!placed(SHARED, addresses.back(), 16, 16, thread, "writes", p, reported)) continue;
    sound.push_back(thread);
    places.push_back(p);
    values.push_back(reinterpret_cast<const u8*>(&rows[size_t(thread) * 8]));
  }
  count_shared(who, addresses, 16);
  note_write(sound, places, "writes", WEAK, GPU_SCOPE, values, 16);
  for (size_t i = 0; i < sound.size(); ++i) {
    std::memcpy(places[i].region->data + places[i].offset, values[i], 16);
    for (int c = 0; c < places[i].cells; ++c) {
      u8& flag = places[i].region->flags[places[i].cell + c];
      flag = (flag & ~(F_KNOWN | F_UNDEFINED)) | F_WRITTEN | (known[sound[i]] ? F_KNOWN : F_UNDEFINED);
    }
  }
}

enum Which { MATRIX_A, MATRIX_B, MATRIX_C };

struct Spot {
  int row, column;
};
// Where a number of a fragment lies in its matrix.
inline Spot spot(int which, int i, int lane, int h, bool packed) {
  const int width = packed ? 2 : 1, g = lane / 4, t = lane % 4;
  if (which == MATRIX_A) return {g + 8 * (i % 2), width * t + h + 4 * width * (i / 2)};
  if (which == MATRIX_B) return {width * t + h + 4 * width * i, g};
  return {g + 8 * (i / 2 % 2), 8 * (i / 4) + 2 * t + i % 2};
}

inline Block::Tile Block::gathered(const s32* slots, int count, int warp, int which, int kind, int columns) {
  const bool packed = kind == KIND_F16 || kind == KIND_BF16;
  const int numbers = which == MATRIX_C ? 1 : packed ? 2 : 1;
  const int rows = which == MATRIX_B ? 4 * (packed ? 2 : 1) * count : 16;
  Tile made{std::vector<f64>(size_t(rows) * columns), std::vector<u8>(size_t(rows) * columns), rows, columns};
  for (int i = 0; i < count; ++i)
    for (int lane = 0; lane < WARP; ++lane) {
      const Register& r = registers[slots[i]];
      const u32 word = static_cast<u32>(r.get(warp * WARP + lane));
      for (int h = 0; h < numbers; ++h) {
        const Spot s = spot(which, i, lane, h, packed);
        made.numbers[size_t(s.row) * columns + s.column] = number_of(word, h, kind);
        made.known[size_t(s.row) * columns + s.column] = r.known(warp * WARP + lane) == 3;
      }
    }
  return made;
}

inline void Block::scatter(const s32* slots, int count, int warp, const Tile& result) {
  for (int i = 0; i < count; ++i)
    for (int lane = 0; lane < WARP; ++lane) {
      const Spot s = spot(MATRIX_C, i, lane, 0, false);
      const size_t from = size_t(s.row) * result.columns + s.column;
      const u32 bits = types::f32_::store(static_cast<f32>(result.numbers[from]));
      registers[slots[i]].put(warp * WARP + lane, bits, result.known[from] ? 3 : 0);
    }
}

// a · b + c: the products added in the order of k, then c.
template <class Tile>
Tile product(const Tile& a, int a_row, const Tile& b, const Tile& c) {
  Tile made{std::vector<f64>(c.numbers.size(), 0.0), std::vector<u8>(c.known), c.rows, c.columns};
  const int depth = b.rows;
  std::vector<u8> row_known(c.rows, 1), column_known(c.columns, 1);
  for (int k = 0; k < depth; ++k) {
    for (int i = 0; i < c.rows; ++i) row_known[i] &= a.known[size_t(a_row + i) * a.columns + k];
    for (int j = 0; j < c.columns; ++j) column_known[j] &= b.known[size_t(k) * b.columns + j];
    for (int i = 0; i < c.rows; ++i) {
      const f64 factor = a.numbers[size_t(a_row + i) * a.columns + k];
      for (int j = 0; j < c.columns; ++j)
        made.numbers[size_t(i) * c.columns + j] += factor * b.numbers[size_t(k) * b.columns + j];
    }
  }
  for (int i = 0; i < c.rows; ++i)
    for (int j = 0; j < c.columns; ++j) {
      const size_t at = size_t(i) * c.columns + j;
      made.numbers[at] += c.numbers[at];
      made.known[at] &= row_known[i] & column_known[j];
    }
  return made;
}

inline void Block::multiply(const Mask& mask) {
  const int in_a = static_cast<int>(at->numbers[0]), in_b = static_cast<int>(at->numbers[1]), kind = at->details[0];
  const bool packed = kind != KIND_TF32;
  const s32* slots = given.operands + at->first;
  whole_warps(mask, INACTIVE);
  for (int warp = 0; warp < warps; ++warp) {
    if (mask[warp] != ~0u) continue;
    const int depth = 4 * (packed ? 2 : 1) * in_b;
    const Tile a = gathered(slots + 4, in_a, warp, MATRIX_A, kind, depth);
    const Tile b = gathered(slots + 4 + in_a, in_b, warp, MATRIX_B, kind, 8);
    const Tile c = gathered(slots + 4 + in_a + in_b, 4, warp, MATRIX_C, KIND_F32, 8);
    scatter(slots, 4, warp, product(a, 0, b, c));
  }
}
