// Barriers, and what the threads of a warp do together; as interpreter/threads.py.
#pragma once

#include "atomics.h"
#include "copies.h"

enum Reduction { RED_NONE, RED_AND, RED_OR, RED_POPC, RED_ALL, RED_ANY, RED_UNI, RED_BALLOT, RED_ADD, RED_MIN, RED_MAX, RED_XOR };

inline bool Block::whole_warps(const Mask& mask, Kind kind) {
  for (int warp = 0; warp < warps; ++warp)
    if (mask[warp] != 0 && mask[warp] != alive[warp]) {
      report(kind, warp * WARP + std::countr_zero(alive[warp] & ~mask[warp]), NONE, "not all threads of the warp are here");
      return false;
    }
  return true;
}

inline void Block::arrive(Group& group, const Mask& mask, bool waits) {
  const s32* slots = given.operands + at->first;
  if (slots[1] == NONE && given.slots[slots[0]].special == 1) return bring(group, mask, waits);
  for (int warp = 0; warp < warps; ++warp) {  // a barrier with a count may be complete before all of them are there
    Mask own{};
    own[warp] = mask[warp];
    if (any(own)) bring(group, own, waits);
  }
}

inline void Block::bring(Group& group, const Mask& mask, bool waits) {
  const int first = first_of(mask);
  Waiting& here = waiting[static_cast<int>(defined(0, mask, "the number of a barrier").get(first))];
  here.expected = slot(1) == NONE ? NONE : static_cast<int>(reg(1).get(first));
  Mask& at_place = here.places[place];
  if (slot(3) != NONE) defined(3, mask, "what a barrier reduces");
  for (int thread : threads_of(mask, warps))
    if (slot(3) != NONE && reg(3).get(thread)) here.given[thread / WARP] |= 1u << (thread % WARP);
  for (int warp = 0; warp < warps; ++warp) {
    here.here[warp] |= mask[warp];
    at_place[warp] |= mask[warp];
    if (waits) here.blocked[warp] |= mask[warp];
  }
  if (slot(3) != NONE) here.targets.emplace_back(slot(2), at->details[0], mask);
  if (waits) leave(group, mask);
  look();
}

inline void Block::look() {
  for (auto entry = waiting.begin(); entry != waiting.end();) {
    const int expected = entry->second.expected != NONE ? entry->second.expected : count_of(alive);
    if (count_of(entry->second.here) >= expected) {
      Waiting done = std::move(entry->second);
      entry = waiting.erase(entry);
      complete(done);
    } else {
      ++entry;
    }
  }
}

inline void Block::complete(Waiting& here) {
  if (here.places.size() > 1 && here.expected == NONE) {  // with a count, different roles may meet
    auto fewest = here.places.begin();
    for (auto other = here.places.begin(); other != here.places.end(); ++other)
      if (count_of(other->second) < count_of(fewest->second)) fewest = other;
    const auto other = here.places.begin() == fewest ? std::next(here.places.begin()) : here.places.begin();
    const int before = place;
    place = fewest->first;
    report(DIVERGENCE, first_of(fewest->second), other->first, "meets threads at another barrier instruction");
    place = before;
  }
  clocks.join(threads_of(here.here, warps));
  Mask given_here{};
  bool every = true, some = false;
  int count = 0;
  for (int warp = 0; warp < warps; ++warp) {
    given_here[warp] = here.given[warp] & here.here[warp];
    every &= given_here[warp] == here.here[warp];
    some |= given_here[warp] != 0;
    count += std::popcount(given_here[warp]);
  }
  for (const auto& [target, reduction, mask] : here.targets)
    if (target != NONE)
      for (int thread : threads_of(mask, warps))
        registers[target].put(thread, reduction == RED_AND ? every : reduction == RED_OR ? some : count);
  for (const auto& [where, arrived] : here.places) {
    Mask going{};
    for (int warp = 0; warp < warps; ++warp) going[warp] = arrived[warp] & here.blocked[warp];
    if (any(going)) go_on(where + 1, going);
  }
  changed = true;
}

inline void Block::give_up() {
  const auto entry = waiting.begin();
  Waiting here = std::move(entry->second);
  const int barrier = entry->first;
  Mask missing{};
  for (int warp = 0; warp < warps; ++warp) missing[warp] = alive[warp] & ~here.here[warp];
  place = here.places.begin()->first;
  const int thread = any(missing) ? first_of(missing) : first_of(here.places.begin()->second);
  report(DIVERGENCE, thread, NONE, "never comes to barrier %d", barrier);
  waiting.erase(entry);
  complete(here);
}

// The lanes that the masks name, who must all be here.
inline Mask Block::members(int i, const Mask& mask) {
  const Register& named_by = defined(i, mask, "a mask of lanes");
  Mask named{};
  for (int warp = 0; warp < warps; ++warp) {
    if (mask[warp] == 0) continue;
    named[warp] = static_cast<u32>(named_by.get(warp * WARP + std::countr_zero(mask[warp])));
    if (const u32 absent = named[warp] & alive[warp] & ~mask[warp])
      report(INACTIVE, warp * WARP + std::countr_zero(absent), NONE, "named by the mask, but elsewhere");
    if (const u32 stray = mask[warp] & ~named[warp])
      report(INACTIVE, warp * WARP + std::countr_zero(stray), NONE, "here, but not named by the mask");
  }
  return named;
}

inline void Block::warp_barrier(const Mask& mask) {
  const Mask named = members(0, mask);
  for (int warp = 0; warp < warps; ++warp) {
    if (mask[warp] == 0) continue;
    std::vector<int> of;
    for (u32 bits = named[warp]; bits != 0; bits &= bits - 1)
      if (const int thread = warp * WARP + std::countr_zero(bits); thread < threads) of.push_back(thread);
    if (!of.empty()) clocks.join(of);
  }
}

enum ShuffleMode { UP, DOWN, BUTTERFLY, INDEX };

inline void Block::shuffle(const Mask& mask) {
  members(5, mask);
  const Register &by = defined(3, mask, "the lane of a shuffle"), &clamp = defined(4, mask, "the clamp of a shuffle");
  const Register& value = reg(2);
  const std::vector<int> who = threads_of(mask, warps);
  std::vector<u64> values;
  std::vector<u8> known, valid;
  bool told = false;
  for (int thread : who) {
    const int lane = thread % WARP, b = by.get(thread) & 31, c = static_cast<int>(clamp.get(thread));
    const int segment = c >> 8 & 31, limit = c & 31, low = lane & segment, high = low | (limit & ~segment & 31);
    const int mode = at->details[0];
    const int wanted = mode == UP ? lane - b : mode == DOWN ? lane + b : mode == BUTTERFLY ? lane ^ b : low | (b & ~segment & 31);
    const bool ok = mode == UP ? wanted >= high : wanted <= high;
    int origin = thread - lane + (ok ? wanted : lane);
    if (ok && (origin >= threads || !has(mask, origin))) {
      if (!told) report(INACTIVE, thread, NONE, "reads lane %d, which is not here", wanted);
      told = true;
      origin = thread;
    }
    values.push_back(value.get(origin));
    known.push_back(value.known(origin));
    valid.push_back(ok);
  }
  for (size_t i = 0; i < who.size(); ++i) {
    if (slot(0) != NONE) reg(0).put(who[i], values[i], known[i]);
    if (slot(1) != NONE) reg(1).put(who[i], valid[i]);
  }
}

inline void Block::vote(const Mask& mask) {
  const Mask named = members(2, mask);
  const Register& given_bits = defined(1, mask, "what is voted on");
  for (int warp = 0; warp < warps; ++warp) {
    if (mask[warp] == 0) continue;
    const u32 here = mask[warp] & named[warp];
    u32 votes = 0;
    for (u32 bits = here; bits != 0; bits &= bits - 1) {
      const int lane = std::countr_zero(bits);
      votes |= u32(given_bits.get(warp * WARP + lane) != 0) << lane;
    }
    const int reduction = at->details[0];
    const u32 result = reduction == RED_BALLOT ? votes
                       : reduction == RED_ALL  ? votes == here
                       : reduction == RED_ANY  ? votes != 0
                                               : votes == here || votes == 0;
    for (u32 bits = mask[warp]; bits != 0 && slot(0) != NONE; bits &= bits - 1)
      reg(0).put(warp * WARP + std::countr_zero(bits), result);
  }
}

inline void Block::reduce(const Mask& mask) {
  const Mask named = members(2, mask);
  const int reduction = at->details[0], kind = at->details[1];
  const bool absolute = at->details[2], nan = at->details[3];
  const Register& source = reg(1);
  for (int warp = 0; warp < warps; ++warp) {
    if (mask[warp] == 0) continue;
    u32 result = 0;
    int known = 3;
    bool first = true, not_a_number = false;
    f32 number = 0;
    for (u32 bits = mask[warp] & named[warp]; bits != 0; bits &= bits - 1) {
      const int thread = warp * WARP + std::countr_zero(bits);
      const u32 word = static_cast<u32>(source.get(thread));
      known &= source.known(thread);
      if (kind == KIND_F32) {
        const f32 x = absolute ? std::fabs(std::bit_cast<f32>(word)) : std::bit_cast<f32>(word);
        if (x != x) {
          not_a_number = true;
          continue;
        }
        number = first ? x : reduction == RED_MIN ? words::lesser_number(number, x) : words::greater_number(number, x);
      } else if (first) {
        result = word;
      } else {
        switch (reduction) {
          case RED_ADD: result += word; break;
          case RED_AND: result &= word; break;
          case RED_OR: result |= word; break;
          case RED_XOR: result ^= word; break;
          case RED_MIN: result = kind == KIND_S32 ? u32(std::min(s32(result), s32(word))) : std::min(result, word); break;
          default: result = kind == KIND_S32 ? u32(std::max(s32(result), s32(word))) : std::max(result, word);
        }
      }
      first = false;
    }
    if (kind == KIND_F32) result = types::f32_::store(first || (nan && not_a_number) ? NAN : number);
    for (u32 bits = mask[warp]; bits != 0 && slot(0) != NONE; bits &= bits - 1)
      reg(0).put(warp * WARP + std::countr_zero(bits), result, known);
  }
}

inline void Block::elect(const Mask& mask) {
  const Mask named = members(2, mask);
  for (int warp = 0; warp < warps; ++warp)
    for (u32 bits = mask[warp]; bits != 0; bits &= bits - 1) {
      const int lane = std::countr_zero(bits), leader = named[warp] ? std::countr_zero(named[warp]) : 0;
      if (slot(0) != NONE) reg(0).put(warp * WARP + lane, leader);
      if (slot(1) != NONE) reg(1).put(warp * WARP + lane, lane == leader);
    }
}

inline void Block::pack(const Mask& mask) {
  const int targets = static_cast<int>(at->numbers[0]), sources = at->count - targets;
  const int part = static_cast<int>(at->numbers[1]) / std::max(targets, sources);
  const auto other_half = [](int i, int parts) { return i < parts / 2 ? 2 : 1; };
  for (int thread : threads_of(mask, warps)) {
    u64 joined = 0;
    int known = 3;
    for (int i = 0; i < sources; ++i) {
      const Register& source = reg(targets + i);
      joined |= source.get(thread) << (part * i);
      const int flags = source.known(thread);
      known &= sources == 1 || flags == 3 ? flags : other_half(i, sources);
    }
    for (int i = 0; i < targets; ++i) {
      if (slot(i) == NONE) continue;
      u64 value = joined >> (part * i);
      if (targets > 1) value &= (u64{1} << part) - 1;
      const int half = 3 & ~other_half(i, targets);
      reg(i).put(thread, value, targets == 1 ? known : known & half ? 3 : 0);
    }
  }
}
