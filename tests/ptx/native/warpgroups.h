// Asynchronous products of four warps; as interpreter/warpgroups.py.
#pragma once

#include "matrices.h"

constexpr int WARPGROUP = 128;

// Numbers [along, 16] of a matrix in shared memory, read through the asynchronous proxy; `used`: its cells.
inline Block::Tile Block::tile_at(u64 descriptor, int along, bool transposed, int kind, int first_warp,
                                  std::vector<s64>& used) {
  static constexpr int WIDTHS[] = {16, 128, 64, 32};
  const s64 start = (descriptor & 0x3FFF) << 4, lead = (descriptor >> 16 & 0x3FFF) << 4, stride = (descriptor >> 32 & 0x3FFF) << 4;
  const int width = WIDTHS[descriptor >> 62];
  GivenRegion& region = run.shared_region;
  Watch& watch = run.shared_watch;
  const int size = kind == KIND_TF32 ? 4 : 2, depth = 32 / size;
  Tile made{std::vector<f64>(size_t(along) * depth), std::vector<u8>(size_t(along) * depth), along, depth};
  std::vector<s64> cells;
  s64 outside = -1;
  for (int i = 0; i < along; ++i)
    for (int k = 0; k < depth; ++k) {
      s64 where = start + (transposed ? size * i / width * lead + k / 8 * stride + k % 8 * width + size * i % width
                                      : i / 8 * stride + size * k / width * lead + i % 8 * width + size * k % width);
      where ^= (where >> 7 & (width / 16 - 1)) << 4;
      if (where + size > region.bytes) {
        if (outside < 0) outside = where;
        where = 0;
      }
      cells.push_back(where / region.cell);
      u32 bits = 0;
      std::memcpy(&bits, region.data + where, size);
      made.numbers[size_t(i) * depth + k] = number_of(bits, 0, kind);
      made.known[size_t(i) * depth + k] = !(region.flags[where / region.cell] & F_UNDEFINED);
    }
  const int thread = first_warp * WARP;
  if (outside >= 0)
    report(OUTSIDE, thread, NONE, "reads a matrix at %#llx of shared memory", static_cast<unsigned long long>(outside));
  std::sort(cells.begin(), cells.end());
  cells.erase(std::unique(cells.begin(), cells.end()), cells.end());
  used.insert(used.end(), cells.begin(), cells.end());
  if (given.checked) {
    bool never = false, flying = false, late = false, hidden = false;
    Row least(threads, ~0u), passed(threads, ~0u);
    for (int t = thread; t < std::min(thread + WARPGROUP, threads); ++t) {
      const u32 *known = clocks.row(t), *through = clocks.proxied_row(t);
      for (int s = 0; s < threads; ++s) {
        if (s != t) least[s] = std::min(least[s], known[s]);
        passed[s] = std::min(passed[s], through[s]);
      }
    }
    for (s64 cell : cells) {
      if (!never && !(region.flags[cell] & (F_KNOWN | F_UNDEFINED))) {
        never = true;
        report(UNINITIALISED, thread, NONE, "byte %lld of shared memory", static_cast<long long>(cell * region.cell));
      }
      if (!flying && watch.flight[cell] >= 0) {
        flying = true;
        report(IN_FLIGHT, thread, watch.flight[cell], "a matrix instruction reads what a copy is still writing");
      }
      const int writer = watch.writer[cell];
      if (writer < 0) continue;
      if (least[writer] < watch.write_clock[cell]) {
        if (!late)
          report(RACE, thread, watch.write_place[cell], "a matrix instruction reads what thread %d wrote, not ordered", writer);
        late = true;
      } else if (!hidden && passed[writer] < watch.write_clock[cell]) {
        hidden = true;
        report(PROXY, thread, watch.write_place[cell], "what thread %d wrote", writer);
      }
    }
  }
  for (s64 cell : cells) region.flags[cell] |= F_READ;
  return made;
}

inline void Block::multiply_async(const Mask& mask) {
  const int in_a = static_cast<int>(at->numbers[0]), columns = at->details[1], kind = at->details[0];
  const int accumulators = columns / 2, places_of_a = std::max(in_a, 1);
  const s32* slots = given.operands + at->first;
  const s32 *a = slots + accumulators, b = slots[accumulators + places_of_a], added = slots[accumulators + places_of_a + 1];
  whole_warps(mask, INACTIVE);
  for (int first = 0; first < warps; first += 4) {
    int here = 0;
    for (int warp = first; warp < std::min(first + 4, warps); ++warp) here += mask[warp] == ~0u;
    if (here == 0) continue;
    if (here < 4) {
      int some = first;
      while (mask[some] != ~0u) ++some;
      report(INACTIVE, some * WARP, NONE, "not all four warps of the group are here");
      continue;
    }
    for (int i = 0, told = 0; i < accumulators + in_a && !told && given.checked; ++i)
      for (int warp = first; warp < first + 4 && !told; ++warp)
        if (fresh[slots[i]][0] >> warp & 1) {
          told = 1;
          report(MATRIX_REGISTERS, warp * WARP, NONE, "register %d: no wgmma.fence since it was written", slots[i]);
        }
    std::vector<s64> used;
    Tile b_nk = tile_at(registers[b].get(first * WARP), columns, at->numbers[4], kind, first, used);
    const int depth = b_nk.columns;
    Tile b_kn{std::vector<f64>(b_nk.numbers.size()), std::vector<u8>(b_nk.known.size()), depth, columns};
    for (int n = 0; n < columns; ++n)
      for (int k = 0; k < depth; ++k) {
        const f64 value = b_nk.numbers[size_t(n) * depth + k];
        b_kn.numbers[size_t(k) * columns + n] = at->numbers[2] ? -value : value;
        b_kn.known[size_t(k) * columns + n] = b_nk.known[size_t(n) * depth + k];
      }
    Tile whole_a;
    if (in_a == 0) whole_a = tile_at(registers[a[0]].get(first * WARP), 64, at->numbers[3], kind, first, used);
    std::sort(used.begin(), used.end());
    used.erase(std::unique(used.begin(), used.end()), used.end());
    for (int warp = first; warp < first + 4; ++warp) {
      Tile a_mk = in_a ? gathered(a, in_a, warp, MATRIX_A, kind, depth) : whole_a;
      if (at->numbers[1])
        for (f64& x : a_mk.numbers) x = -x;
      Tile c = gathered(slots, accumulators, warp, MATRIX_C, KIND_F32, columns);
      if (!registers[added].get(warp * WARP)) {
        std::fill(c.numbers.begin(), c.numbers.end(), 0.0);
        std::fill(c.known.begin(), c.known.end(), 1);
      }
      scatter(slots, accumulators, warp, product(a_mk, in_a ? 0 : 16 * (warp - first), b_kn, c));
      if (!given.checked) continue;
      for (s64 cell : used) ++run.shared_watch.async_reads[cell];
      running.push_back({warp, open_products[warp], used, {slots, slots + accumulators}, {}});
      if (in_a) running.back().operands.assign(a, a + in_a);
    }
  }
}

inline void Block::wait_for_products(const Mask& mask, s64 pending) {
  Watch& watch = run.shared_watch;
  whole_warps(mask, INACTIVE);
  std::erase_if(running, [&](const RunningProduct& item) {
    if (mask[item.warp] != ~0u || item.group >= open_products[item.warp] - pending) return false;
    for (s64 cell : item.cells) {
      --watch.async_reads[cell];
      const size_t at_warp = size_t(cell) * watch.warps + item.warp;
      watch.readers[at_warp] = ~0u;
      watch.read_clock[at_warp] = clocks.counter[item.warp];
      watch.read_place[cell] = place;
    }
    return true;
  });
}
