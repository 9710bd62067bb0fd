// Who touched each cell of a region; interpreter/watch.py says how it is decided.
#pragma once

#include <cstdio>
#include <functional>

#include "machine.h"

// `when` a report is made, at most one an instruction and check.
struct Reporter {
  virtual void report(Kind kind, int thread, int other, const char* format, ...) __attribute__((format(printf, 5, 6))) = 0;
};

struct Accessor {
  int thread;
  const char* verb;
};

struct Watch {
  GivenRegion* region = nullptr;
  int warps = 0;
  bool tracked = false;
  std::vector<s32> writer_block, writer, write_place, flight, async_reads, read_place;
  std::vector<u32> write_clock, readers, together, read_clock;
  std::vector<s64> read_cells;  // that the present block has read
  std::unordered_map<s64, std::vector<Touch>> atomics, earlier_readers;

  void open(GivenRegion* given, int warps_, bool is_shared) {
    region = given;
    warps = warps_;
    tracked = given->tracked;
    const size_t cells = given->cells;
    writer_block.assign(cells, -1);
    writer.assign(cells, -1);
    write_clock.assign(cells, 0);
    write_place.assign(cells, 0);
    if (tracked) {
      readers.assign(cells * warps, 0);
      together.assign(cells * warps, 0);
      read_clock.assign(cells * warps, 0);
      read_place.assign(cells, 0);
    }
    if (is_shared) {
      flight.assign(cells, -1);
      async_reads.assign(cells, 0);
    }
    atomics.clear();
    earlier_readers.clear();
    read_cells.clear();
  }
};

// The checks of one instruction: each kind of collision is reported once.
struct Checks {
  Watch& watch;
  Clocks& clocks;
  Reporter& out;
  const char* verb;
  bool flying = false, reading = false, raced = false, raced_blocks = false, raced_readers = false, touched = false,
       touched_earlier = false;

  void flight(int thread, s64 cell) {
    if (watch.flight.empty()) return;
    if (!flying && watch.flight[cell] >= 0) {
      flying = true;
      out.report(IN_FLIGHT, thread, watch.flight[cell], "%s what a copy is still writing", verb);
    }
  }
  void async_reads(int thread, s64 cell) {
    if (watch.async_reads.empty()) return;
    if (!reading && watch.async_reads[cell] > 0) {
      reading = true;
      out.report(IN_FLIGHT, thread, NONE, "%s what a matrix instruction is still reading", verb);
    }
  }
  void written(int thread, s64 cell) {
    const int block = watch.writer_block[cell];
    if (block < 0) return;
    const int other = watch.writer[cell];
    if (block == clocks.block) {
      if (!raced && !clocks.ordered(thread, other, watch.write_clock[cell])) {
        raced = true;
        out.report(RACE, thread, watch.write_place[cell], "%s what thread %d wrote, not ordered", verb, other);
      }
    } else if (!raced_blocks && !clocks.knows(thread, block, other, watch.write_clock[cell])) {
      raced_blocks = true;
      out.report(RACE_BETWEEN_BLOCKS, thread, watch.write_place[cell], "%s what thread %d of block %d wrote, not ordered",
                 verb, other, block);
    }
  }
  void read(int thread, s64 cell) {
    if (!watch.tracked) return;
    const size_t first = size_t(cell) * watch.warps;
    for (int warp = 0; warp < watch.warps && !raced_readers; ++warp) {
      u32 mask = watch.readers[first + warp];
      const u32 clock = watch.read_clock[first + warp];
      if (mask == 0 || clock <= clocks.floor[warp]) continue;
      if (warp == thread / WARP && watch.together[first + warp] >> (thread % WARP) & 1) mask &= ~watch.together[first + warp];
      for (; mask != 0; mask &= mask - 1) {
        const int other = warp * WARP + std::countr_zero(mask);
        if (!clocks.ordered(thread, other, clock)) {
          raced_readers = true;
          out.report(RACE, thread, watch.read_place[cell], "%s what thread %d read, not ordered", verb, other);
          break;
        }
      }
    }
    touches(thread, cell, watch.earlier_readers, "read", NONE, touched_earlier);
  }
  void changed(int thread, s64 cell, int atomic_scope = NONE) {
    touches(thread, cell, watch.atomics, "changed atomically", atomic_scope, touched);
  }

 private:
  void touches(int thread, s64 cell, const std::unordered_map<s64, std::vector<Touch>>& table, const char* did,
               int atomic_scope, bool& done) {
    if (done || table.empty()) return;
    const auto found = table.find(cell);
    if (found == table.end()) return;
    bool observed = false;
    for (auto at = found->second.rbegin(); at != found->second.rend(); ++at) {
      const Touch& touch = *at;
      const bool here = touch.block == clocks.block;
      if (atomic_scope != NONE && (here || std::min(touch.scope, atomic_scope) >= GPU_SCOPE)) continue;
      if (clocks.knows(thread, touch.block, touch.thread, touch.clock)) {
        observed = touch.reads;  // what read the cell has observed all that changed it before, back to a plain store
        continue;
      }
      if (observed && touch.writes) continue;
      done = true;
      if (here)
        out.report(RACE, thread, touch.place, "%s what thread %d %s, not ordered", verb, touch.thread, did);
      else
        out.report(RACE_BETWEEN_BLOCKS, thread, touch.place, "%s what thread %d of block %d %s, not ordered", verb,
                   touch.thread, touch.block, did);
      return;
    }
  }
};

inline void record_write(Watch& watch, const Clocks& clocks, int thread, s64 cell, int place) {
  watch.writer_block[cell] = clocks.block;
  watch.writer[cell] = thread;
  watch.write_clock[cell] = clocks.now(thread);
  watch.write_place[cell] = place;
  if (watch.tracked)
    for (int warp = 0; warp < watch.warps; ++warp) watch.readers[size_t(cell) * watch.warps + warp] = 0;
  if (!watch.atomics.empty()) watch.atomics.erase(cell);
  if (!watch.earlier_readers.empty()) watch.earlier_readers.erase(cell);
}

inline void record_atomic(Watch& watch, const Clocks& clocks, int thread, s64 cell, int scope, int place, bool reads,
                          bool writes) {
  auto& touches = watch.atomics[cell];
  std::erase_if(touches, [&](const Touch& t) { return t.block == clocks.block && t.thread == thread; });
  touches.push_back({clocks.block, thread, clocks.now(thread), scope, place, reads, writes});
}

// The reads of one instruction by one warp, recorded after all of them were checked.
struct Reads {
  Watch& watch;
  Clocks& clocks;
  int place, warp;
  std::vector<s64> cells;
  std::vector<int> lanes;

  void add(int lane, s64 cell) {
    cells.push_back(cell);
    lanes.push_back(lane);
  }
  void record() {
    if (!watch.tracked || cells.empty()) return;
    const u32 now = clocks.counter[warp];
    for (size_t i = 0; i < cells.size(); ++i) {
      const size_t at = size_t(cells[i]) * watch.warps + warp;
      watch.read_place[cells[i]] = place;
      if (watch.readers[at] != 0 && watch.read_clock[at] != now) {
        bool covered = true;
        for (u32 mask = watch.readers[at]; mask != 0; mask &= mask - 1) {
          const int other = warp * WARP + std::countr_zero(mask);
          covered &= clocks.ordered(warp * WARP + lanes[i], other, watch.read_clock[at]);
        }
        if (covered) watch.readers[at] = 0;
      }
      if (watch.readers[at] == 0) watch.read_clock[at] = now;
      watch.together[at] = 0;
    }
    for (size_t i = 0; i < cells.size(); ++i) {
      const size_t at = size_t(cells[i]) * watch.warps + warp;
      watch.together[at] |= 1u << lanes[i];
    }
    for (size_t i = 0; i < cells.size(); ++i) {
      const size_t at = size_t(cells[i]) * watch.warps + warp;
      if (watch.readers[at] == 0) watch.read_cells.push_back(cells[i]);
      watch.readers[at] |= watch.together[at];
    }
    cells.clear();
    lanes.clear();
  }
};
