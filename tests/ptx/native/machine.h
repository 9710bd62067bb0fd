// What Python hands over, and the state of a launch. native/engine.py declares the same structures.
#pragma once

#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "clocks.h"
#include "lanes.h"

struct GivenInstruction {
  s32 action, lane, guard, unless, first, count;
  s32 written_from, written_to;  // of its operands
  s64 numbers[5];
  s32 details[5];
};
struct GivenSlot {
  s32 bits, special;  // special: 0 a register, 1 a constant, 2 + i the i-th special register
  u64 value;
};
struct GivenRegion {
  u8* data;
  s64 bytes;
  u8* flags;
  s64 cells;
  s32 cell, tracked;
  const char* name;
};
struct GivenFound {
  s32 kind, place, block, thread, other, times;
  char detail[160];
};
struct GivenLaunch {
  const GivenInstruction* code;
  const s32* operands;
  const GivenSlot* slots;
  const u8* parameters;
  GivenRegion* regions;
  GivenFound* found;
  const s32* order;
  s64 *warps, *passing, *lanes, *sectors, *passes, *least_passes, *worst;
  s64 most_steps;
  s32 instructions, slot_count, region_count, most_found, found_count, blocks;
  s32 grid[3], block[3];
  s32 shared_bytes, shared_cell, approximation, checked, matrices;
};

enum Action {
  LANE, LOAD, STORE, ATOMIC, COPY, COMMIT_COPIES, WAIT_FOR_COPIES, FENCE, PROXY_FENCE, NOTHING, BRANCH, END, TRAP, CALL,
  BARRIER, ARRIVE, WARP_BARRIER, SHUFFLE, VOTE, REDUCE, ELECT, ACTIVE, PACK, LOAD_MATRIX, STORE_MATRIX, MULTIPLY,
  MATRIX_FENCE, COMMIT_MATRICES, WAIT_FOR_MATRICES, MULTIPLY_ASYNC
};
enum Kind {
  OUTSIDE, NOT_GIVEN, MISALIGNED, UNINITIALISED, UNDEFINED, RACE, RACE_BETWEEN_BLOCKS, DIVERGENCE, INACTIVE, IN_FLIGHT,
  PROXY, MATRIX_REGISTERS, ENDLESS, TRAPPED
};
enum Flag : u8 { F_GIVEN = 1, F_KNOWN = 2, F_UNDEFINED = 4, F_READ = 8, F_WRITTEN = 16 };
enum Space { GLOBAL, SHARED, PARAM };
enum Semantics { WEAK, RELAXED, ACQUIRE, RELEASE, ACQ_REL };

constexpr int NONE = -1;
constexpr int SPACING_BITS = 40;
constexpr int MOST_WARPS = 32;
using Mask = std::array<u32, MOST_WARPS>;

struct Touch {
  int block, thread;
  u32 clock;
  int scope, place;
  bool reads = true, writes = false;
};
