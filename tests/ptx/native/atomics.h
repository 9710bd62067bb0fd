// Atomics; as interpreter/atomics.py.
#pragma once

#include "memory.h"

template <class T>
T atomically(int operation, T old, T b, T c) {
  switch (operation) {
    case OP_ADD: return old + b;
    case OP_MIN: return words::least(old, b);
    case OP_MAX: return words::greatest(old, b);
    case OP_EXCH: return b;
    case OP_CAS: return old == b ? c : old;
    case OP_INC: return old >= b ? T{0} : static_cast<T>(old + 1);
    case OP_DEC: return old == 0 || old > b ? b : static_cast<T>(old - 1);
  }
  if constexpr (std::is_integral_v<T>) {
    if (operation == OP_AND) return old & b;
    if (operation == OP_OR) return old | b;
    if (operation == OP_XOR) return old ^ b;
  }
  return old;
}

inline u64 changed_word(int operation, int kind, u64 old, u64 b, u64 c) {
  switch (kind) {
    case KIND_S32: return static_cast<u32>(atomically<s32>(operation, s32(old), s32(b), s32(c)));
    case KIND_U64: return atomically<u64>(operation, old, b, c);
    case KIND_S64: return static_cast<u64>(atomically<s64>(operation, s64(old), s64(b), s64(c)));
    case KIND_F32:
      if (operation == OP_EXCH) return b;
      return types::f32_::store(atomically<f32>(operation, std::bit_cast<f32>(u32(old)), std::bit_cast<f32>(u32(b)), 0));
    case KIND_F64:
      if (operation == OP_EXCH) return b;
      return types::f64_::store(atomically<f64>(operation, std::bit_cast<f64>(old), std::bit_cast<f64>(b), 0));
    default: return atomically<u32>(operation, u32(old), u32(b), u32(c));
  }
}

inline void Block::atomic(const Mask& mask) {
  const int size = at->numbers[1], space = at->details[0], semantics = at->details[1], scope = at->details[2];
  const int operation = at->details[3], kind = at->details[4];
  if (slot(1) != NONE) defined(1, mask, "an address");
  for (int i = 2; i < at->count; ++i) defined(i, mask, "the operand of an atomic");
  std::vector<int> who, sound;
  std::vector<u64> addresses;
  std::vector<Place> places;
  u8 reported = 0;
  for (int thread : threads_of(mask, warps)) {
    who.push_back(thread);
    addresses.push_back(address(1, at->numbers[0], thread));
    Place p;
    if (placed(space, addresses.back(), size, size, thread, "changes atomically", p, reported)) {
      sound.push_back(thread);
      places.push_back(p);
    } else if (slot(0) != NONE) {
      reg(0).put(thread, 0);
    }
  }
  count_memory(space, who, addresses, size);
  if (given.checked) {
    for (size_t begin = 0; begin < sound.size();) {
      Checks checks{*places[begin].watch, clocks, *this, "changes atomically"};
      size_t end = begin;
      bool never = false;
      for (; end < sound.size() && places[end].watch == places[begin].watch; ++end)
        for (int c = 0; c < places[end].cells; ++c) {
          const s64 cell = places[end].cell + c;
          checks.flight(sound[end], cell);
          checks.async_reads(sound[end], cell);
          checks.written(sound[end], cell);
          checks.read(sound[end], cell);
          checks.changed(sound[end], cell, scope);
          if (!never && !(places[end].region->flags[cell] & F_KNOWN)) {
            never = true;
            report(UNINITIALISED, sound[end], NONE, "byte %lld of %s", static_cast<long long>(places[end].offset),
                   places[end].region->name);
          }
        }
      begin = end;
    }
  }
  for (size_t i = 0; i < sound.size(); ++i) {
    const Place& p = places[i];
    const int thread = sound[i];
    if (given.checked) acquired(p, thread, semantics == ACQUIRE || semantics == ACQ_REL, scope);
    u64 old = 0;
    std::memcpy(&old, p.region->data + p.offset, size);
    const u64 fresh_word = changed_word(operation, kind, old, reg(2).get(thread), at->count > 3 ? reg(3).get(thread) : 0);
    std::memcpy(p.region->data + p.offset, &fresh_word, size);
    if (slot(0) != NONE) reg(0).put(thread, old);
    for (int c = 0; c < p.cells; ++c) {
      p.region->flags[p.cell + c] |= F_READ | F_WRITTEN | F_KNOWN;
      if (given.checked) record_atomic(*p.watch, clocks, thread, p.cell + c, scope, place, true, true);
    }
    if (given.checked) released(p, thread, semantics == RELEASE || semantics == ACQ_REL, scope, true);
  }
}
