// One block of a grid: registers, groups of threads, and the steps that are no lane forms. As interpreter/block.py.
#pragma once

#include <cstdarg>
#include <cstring>

#include "watch.h"

struct Register {
  u8* data = nullptr;  // an element a thread: 1 byte (a predicate), 2, 4 or 8
  int bytes = 0;
  Mask lower{}, upper{};  // threads in which the halves have a value, by warp

  u64 get(int thread) const {
    switch (bytes) {
      case 1: return data[thread];
      case 2: return reinterpret_cast<const u16*>(data)[thread];
      case 4: return reinterpret_cast<const u32*>(data)[thread];
      default: return reinterpret_cast<const u64*>(data)[thread];
    }
  }
  void set(int thread, u64 value) {
    switch (bytes) {
      case 1: data[thread] = value != 0; break;
      case 2: reinterpret_cast<u16*>(data)[thread] = static_cast<u16>(value); break;
      case 4: reinterpret_cast<u32*>(data)[thread] = static_cast<u32>(value); break;
      default: reinterpret_cast<u64*>(data)[thread] = value;
    }
  }
  int known(int thread) const {
    const int warp = thread / WARP, lane = thread % WARP;
    return (lower[warp] >> lane & 1) | (upper[warp] >> lane & 1) << 1;
  }
  void know(int thread, int flags) {
    const int warp = thread / WARP;
    const u32 bit = 1u << (thread % WARP);
    lower[warp] = (lower[warp] & ~bit) | (flags & 1 ? bit : 0);
    upper[warp] = (upper[warp] & ~bit) | (flags & 2 ? bit : 0);
  }
  void put(int thread, u64 value, int flags = 3) {
    set(thread, value);
    know(thread, flags);
  }
};

struct Group {
  int place;
  Mask mask;
};

struct Waiting {
  Mask here{}, blocked{}, given{};
  int expected = NONE;
  std::map<int, Mask> places;
  std::vector<std::tuple<int, int, Mask>> targets;  // slot, reduction, threads
};

struct Copied {
  int thread, group, place;
  s64 first, count;  // cells
};

struct RunningProduct {
  int warp, group;
  std::vector<s64> cells;
  std::vector<s32> accumulators, operands;
};

struct Run {
  GivenLaunch& given;
  int threads, warps;
  std::vector<Watch> watches;
  std::map<std::pair<const Watch*, s64>, std::vector<Released>> locations;
  std::map<std::pair<int, int>, int> found;  // kind, place → where in given.found
  std::vector<u8> registers, shared_data, shared_flags;
  Watch shared_watch;
  GivenRegion shared_region;

  explicit Run(GivenLaunch& launch)
      : given(launch), threads(launch.block[0] * launch.block[1] * launch.block[2]), warps((threads + WARP - 1) / WARP) {
    watches.resize(launch.region_count);
    if (launch.checked)
      for (int i = 0; i < launch.region_count; ++i) watches[i].open(&launch.regions[i], warps, false);
  }

  void report(Kind kind, int place, int block, int thread, int other, const char* detail) {
    const auto [at, fresh] = found.try_emplace({kind, place}, given.found_count);
    if (!fresh) {
      if (at->second < given.most_found) ++given.found[at->second].times;
      return;
    }
    if (given.found_count >= given.most_found) {
      at->second = given.most_found;
      return;
    }
    GivenFound& entry = given.found[given.found_count++];
    entry = {kind, place, block, thread, other, 1, {}};
    std::snprintf(entry.detail, sizeof entry.detail, "%s", detail);
  }
};

inline std::vector<int> threads_of(const Mask& mask, int warps) {
  std::vector<int> found;
  for (int warp = 0; warp < warps; ++warp)
    for (u32 bits = mask[warp]; bits != 0; bits &= bits - 1) found.push_back(warp * WARP + std::countr_zero(bits));
  return found;
}

struct Block : Reporter {
  Run& run;
  GivenLaunch& given;
  const int number, threads, warps;
  Clocks clocks;
  std::vector<Register> registers;
  std::vector<u8> active_bytes, guard_bytes;
  Mask alive{};
  std::vector<Group> groups;
  std::map<int, Waiting> waiting;
  std::vector<Copied> copies;
  std::vector<int> open_copies;
  std::vector<RunningProduct> running;
  std::vector<int> open_products;
  std::vector<Mask> fresh;  // of slots: bit w of [0]: no wgmma.fence of warp w since they were written
  int place = 0;
  bool changed = false;
  const GivenInstruction* at = nullptr;

  Block(Run& run_, int number_);
  void execute();

  void report(Kind kind, int thread, int other, const char* format, ...) override {
    char detail[160];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(detail, sizeof detail, format, arguments);
    va_end(arguments);
    run.report(kind, place, number, thread, other, detail);
  }

  s32 slot(int i) const { return given.operands[at->first + i]; }
  Register& reg(int i) { return registers[slot(i)]; }
  bool any(const Mask& mask) const {
    u32 found = 0;
    for (int warp = 0; warp < warps; ++warp) found |= mask[warp];
    return found != 0;
  }
  int first_of(const Mask& mask) const {
    for (int warp = 0; warp < warps; ++warp)
      if (mask[warp]) return warp * WARP + std::countr_zero(mask[warp]);
    return 0;
  }
  int count_of(const Mask& mask) const {
    int found = 0;
    for (int warp = 0; warp < warps; ++warp) found += std::popcount(mask[warp]);
    return found;
  }
  static bool has(const Mask& mask, int thread) { return mask[thread / WARP] >> (thread % WARP) & 1; }

  // A register that decides something: that it is undefined is a finding.
  const Register& defined(int i, const Mask& mask, const char* what) {
    const Register& r = reg(i);
    for (int warp = 0; warp < warps; ++warp)
      if (const u32 unknown = mask[warp] & ~(r.lower[warp] & r.upper[warp])) {
        report(UNDEFINED, warp * WARP + std::countr_zero(unknown), NONE, "%s", what);
        break;
      }
    return r;
  }

  void step(Group& group);
  void lane(const Mask& mask, bool everybody);
  void leave(Group& group, const Mask& mask);
  void go_on(int to, const Mask& mask);
  void end(const Mask& mask);
  bool whole_warps(const Mask& mask, Kind kind);
  void check_products(const Mask& mask);
  void note_written(const Mask& mask);

  // memory.h
  u64 address(int i, s64 offset, int thread) {
    if (slot(i) == NONE) return static_cast<u32>(offset);
    const Register& base = registers[slot(i)];
    return base.bytes == 4 ? static_cast<u32>(base.get(thread) + offset) : base.get(thread) + offset;
  }
  struct Place {
    GivenRegion* region = nullptr;
    Watch* watch = nullptr;
    s64 offset = 0, cell = 0;
    int cells = 0;
  };
  struct Sound;
  bool placed(int space, u64 address, int size, int wanted, int thread, const char* verb, Place& to, u8& reported);
  void count_global(const std::vector<int>& who, const std::vector<u64>& addresses, int size);
  void count_shared(const std::vector<int>& who, const std::vector<u64>& addresses, int size);
  void count_memory(int space, const std::vector<int>& who, const std::vector<u64>& addresses, int size);
  void note_read(const std::vector<int>& who, const std::vector<Place>& places, const char* verb, int semantics, int scope);
  void note_write(const std::vector<int>& who, const std::vector<Place>& places, const char* verb, int semantics, int scope,
                  const std::vector<const u8*>& values, int size);
  void load(const Mask& mask);
  void store(const Mask& mask);
  void atomic(const Mask& mask);
  void copy(const Mask& mask);
  void wait_for_copies(const Mask& mask, s64 pending);
  void acquired(const Place& at_place, int thread, bool acquires, int scope);
  void released(const Place& at_place, int thread, bool releases, int scope, bool chained);

  // threads.h
  void arrive(Group& group, const Mask& mask, bool waits);
  void bring(Group& group, const Mask& mask, bool waits);
  void look();
  void complete(Waiting& here);
  void give_up();
  Mask members(int i, const Mask& mask);
  void warp_barrier(const Mask& mask);
  void shuffle(const Mask& mask);
  void vote(const Mask& mask);
  void reduce(const Mask& mask);
  void elect(const Mask& mask);
  void pack(const Mask& mask);

  // matrices.h
  struct Tile {
    std::vector<f64> numbers;
    std::vector<u8> known;
    int rows, columns;
  };
  void load_matrix(const Mask& mask);
  void store_matrix(const Mask& mask);
  void multiply(const Mask& mask);
  void multiply_async(const Mask& mask);
  void wait_for_products(const Mask& mask, s64 pending);
  Tile gathered(const s32* slots, int registers_, int warp, int which, int kind, int columns);
  void scatter(const s32* slots, int registers_, int warp, const Tile& result);
  Tile tile_at(u64 descriptor, int along, bool transposed, int kind, int first_warp, std::vector<s64>& used);
};
