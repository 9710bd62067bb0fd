// Loads and stores; as interpreter/memory.py.
#pragma once

#include "traffic.h"

// Where an access of one thread lies, if it is sound. reported: what this instruction has reported already.
inline bool Block::placed(int space, u64 address, int size, int wanted, int thread, const char* verb, Place& to,
                          u8& reported) {
  GivenRegion* region = nullptr;
  Watch* watch = nullptr;
  s64 offset = 0;
  if (space == SHARED) {
    region = &run.shared_region;
    watch = &run.shared_watch;
    offset = static_cast<s64>(address);
  } else {
    const s64 which = static_cast<s64>(address >> SPACING_BITS) - 1;
    offset = address & ((u64{1} << SPACING_BITS) - 1);
    if (which >= 0 && which < given.region_count) {
      region = &given.regions[which];
      watch = &run.watches[which];
    }
  }
  const auto once = [&](Kind kind) {
    const bool first = !(reported >> kind & 1);
    reported |= 1 << kind;
    return first;
  };
  if (region == nullptr || offset < 0 || offset + size > region->bytes) {
    if (once(OUTSIDE))
      report(OUTSIDE, thread, NONE, "%s %d bytes at %#llx", verb, size, static_cast<unsigned long long>(address));
    return false;
  }
  if (offset % size != 0) {
    if (once(MISALIGNED))
      report(MISALIGNED, thread, NONE, "%s %d bytes at %#llx", verb, size, static_cast<unsigned long long>(address));
    return false;
  }
  const s64 cell = offset / region->cell;
  const int cells = std::max(size / region->cell, 1);
  for (int i = 0; i < cells && i * region->cell < wanted; ++i)
    if (!(region->flags[cell + i] & F_GIVEN)) {
      if (once(NOT_GIVEN))
        report(NOT_GIVEN, thread, NONE, "%s %d bytes of %s at %#llx", verb, size, region->name,
               static_cast<unsigned long long>(address));
      return false;
    }
  to = {region, watch, offset, cell, cells};
  return true;
}

// What a strong read saw at a place.
inline void Block::acquired(const Place& at_place, int thread, bool acquires, int scope) {
  const auto found = run.locations.find({at_place.watch, at_place.cell});
  if (found == run.locations.end()) return;
  for (const Released& item : found->second) {
    if (acquires)
      clocks.acquire(thread, item, scope);
    else
      clocks.pending[thread].push_back(item);
  }
}

inline void Block::released(const Place& at_place, int thread, bool releases, int scope, bool chained) {
  std::optional<Released> item = clocks.fenced[thread];
  if (releases) {
    item = clocks.released(thread, scope);
    clocks.advance({thread});
  }
  auto& there = run.locations[{at_place.watch, at_place.cell}];
  if (!chained) there.clear();
  if (item) there.push_back(*item);
}

inline void Block::note_read(const std::vector<int>& who, const std::vector<Place>& places, const char* verb, int semantics,
                             int scope) {
  bool never = false;
  for (size_t i = 0; i < who.size(); ++i) {
    const Place& p = places[i];
    for (int c = 0; c < p.cells; ++c) {
      const u8 flags = p.region->flags[p.cell + c];
      if (!never && !(flags & (F_KNOWN | F_UNDEFINED)) && given.checked) {
        never = true;
        report(UNINITIALISED, who[i], NONE, "byte %lld of %s", static_cast<long long>(p.offset), p.region->name);
      }
    }
  }
  if (given.checked) {
    for (size_t begin = 0; begin < who.size();) {
      Checks checks{*places[begin].watch, clocks, *this, verb};
      size_t end = begin;
      for (; end < who.size() && places[end].watch == places[begin].watch; ++end)
        for (int c = 0; c < places[end].cells; ++c) {
          const s64 cell = places[end].cell + c;
          checks.flight(who[end], cell);
          if (semantics) checks.async_reads(who[end], cell);
          checks.written(who[end], cell);
          if (semantics) checks.read(who[end], cell);
          checks.changed(who[end], cell, semantics ? scope : NONE);
        }
      begin = end;
    }
    for (size_t i = 0; i < who.size();) {
      Reads reads{*places[i].watch, clocks, place, who[i] / WARP, {}, {}};
      for (const size_t first = i; i < who.size() && who[i] / WARP == reads.warp && places[i].watch == places[first].watch; ++i)
        for (int c = 0; c < places[i].cells; ++c) {
          if (semantics)
            record_atomic(reads.watch, clocks, who[i], places[i].cell + c, scope, place, true, false);
          else if (reads.watch.tracked)
            reads.add(who[i] % WARP, places[i].cell + c);
        }
      reads.record();
    }
  }
  for (const Place& p : places)
    for (int c = 0; c < p.cells; ++c) p.region->flags[p.cell + c] |= F_READ;
}

// known: two flags a register; all bytes of an access are written before any of it is recorded.
inline void Block::note_write(const std::vector<int>& who, const std::vector<Place>& places, const char* verb, int semantics,
                              int scope, const std::vector<const u8*>& values, int size) {
  if (!given.checked) return;
  for (size_t begin = 0; begin < who.size();) {
    Checks checks{*places[begin].watch, clocks, *this, verb};
    size_t end = begin;
    for (; end < who.size() && places[end].watch == places[begin].watch; ++end)
      for (int c = 0; c < places[end].cells; ++c) {
        const s64 cell = places[end].cell + c;
        checks.flight(who[end], cell);
        checks.async_reads(who[end], cell);
        checks.written(who[end], cell);
        checks.read(who[end], cell);
        checks.changed(who[end], cell, semantics ? scope : NONE);
      }
    begin = end;
  }
  if (!semantics) {
    std::unordered_map<s64, const u8*> written;
    std::unordered_map<const Watch*, std::unordered_map<s64, const u8*>> by_watch;
    for (size_t i = 0; i < who.size(); ++i) {
      auto& cells = by_watch[places[i].watch];
      const int width = std::min<int>(places[i].region->cell, size);
      for (int c = 0; c < places[i].cells; ++c) {
        const u8* value = values[i] + c * width;
        const auto [seen, fresh] = cells.try_emplace(places[i].cell + c, value);
        if (!fresh && std::memcmp(seen->second, value, width) != 0) {
          report(RACE, who[i], place, "writes what another thread writes at once, another value");
          i = who.size();
          break;
        }
      }
      if (i >= who.size()) break;
    }
  }
  for (size_t i = 0; i < who.size(); ++i)
    for (int c = 0; c < places[i].cells; ++c) {
      if (semantics)
        record_atomic(*places[i].watch, clocks, who[i], places[i].cell + c, scope, place, false, true);
      else
        record_write(*places[i].watch, clocks, who[i], places[i].cell + c, place);
    }
}

inline void Block::load(const Mask& mask) {
  const int size = at->numbers[1], parts = at->count - 1, whole = size * parts;
  const bool is_signed = at->numbers[2];
  const int space = at->details[0], semantics = at->details[1], scope = at->details[2];
  if (slot(0) != NONE) defined(0, mask, "an address");
  std::vector<int> who, sound;
  std::vector<u64> addresses;
  std::vector<Place> places;
  const auto give = [&](int thread, const u8* data, const Place* from) {
    for (int i = 0; i < parts; ++i) {
      if (slot(i + 1) == NONE) continue;
      u64 value = 0;
      if (data != nullptr) std::memcpy(&value, data + i * size, size);
      if (is_signed && size < 8) value = static_cast<s64>(value << (64 - 8 * size)) >> (64 - 8 * size);
      int known = 3;
      if (from != nullptr && given.checked)
        for (int half = 0; half < 2; ++half) {
          const int begin = (2 * i + half) * size / 2, end = std::max((2 * i + half + 1) * size / 2, begin + 1);
          for (int c = begin / from->region->cell; c * from->region->cell < end && c < from->cells; ++c)
            if (from->region->flags[from->cell + c] & F_UNDEFINED) known &= ~(1 << half);
        }
      registers[slot(i + 1)].put(thread, value, known);
    }
  };
  u8 reported = 0;
  for (int thread : threads_of(mask, warps)) {
    const u64 where = address(0, at->numbers[0], thread);
    if (space == PARAM) {
      give(thread, given.parameters + where, nullptr);
      continue;
    }
    who.push_back(thread);
    addresses.push_back(where);
    Place p;
    if (placed(space, where, whole, whole, thread, "reads", p, reported)) {
      sound.push_back(thread);
      places.push_back(p);
    } else {
      give(thread, nullptr, nullptr);
    }
  }
  if (space == PARAM) return;
  count_memory(space, who, addresses, whole);
  note_read(sound, places, "reads", semantics, scope);
  for (size_t i = 0; i < sound.size(); ++i) {
    give(sound[i], places[i].region->data + places[i].offset, &places[i]);
    if (semantics && given.checked) acquired(places[i], sound[i], semantics == ACQUIRE, scope);
  }
}

inline void Block::store(const Mask& mask) {
  const int size = at->numbers[1], parts = at->count - 1, whole = size * parts;
  const int space = at->details[0], semantics = at->details[1], scope = at->details[2];
  if (slot(0) != NONE) defined(0, mask, "an address");
  std::vector<int> who, sound;
  std::vector<u64> addresses;
  std::vector<Place> places;
  u8 reported = 0;
  for (int thread : threads_of(mask, warps)) {
    who.push_back(thread);
    addresses.push_back(address(0, at->numbers[0], thread));
    Place p;
    if (placed(space, addresses.back(), whole, whole, thread, "writes", p, reported)) {
      sound.push_back(thread);
      places.push_back(p);
    }
  }
  count_memory(space, who, addresses, whole);
  std::vector<u8> bytes(sound.size() * whole);
  std::vector<const u8*> values;
  bool unknown = false;
  for (size_t i = 0; i < sound.size(); ++i) {
    u8* to = bytes.data() + i * whole;
    values.push_back(to);
    for (int part = 0; part < parts; ++part) {
      const u64 value = reg(part + 1).get(sound[i]);
      std::memcpy(to + part * size, &value, size);
      if (!unknown && given.checked && space != SHARED && reg(part + 1).known(sound[i]) != 3) {
        unknown = true;
        report(UNDEFINED, sound[i], NONE, "stored in %s", places[i].region->name);
      }
    }
  }
  note_write(sound, places, "writes", semantics, scope, values, whole);
  for (size_t i = 0; i < sound.size(); ++i) {
    const Place& p = places[i];
    std::memcpy(p.region->data + p.offset, values[i], whole);
    for (int c = 0; c < p.cells; ++c) {
      bool known = true;
      if (given.checked)
        for (int part = 0; part < parts; ++part) {
          const int flags = reg(part + 1).known(sound[i]);
          for (int half = 0; half < 2; ++half) {
            const int begin = (2 * part + half) * size / 2, end = std::max((2 * part + half + 1) * size / 2, begin + 1);
            const bool inside = begin < (c + 1) * p.region->cell && end > c * p.region->cell;
            if (inside && !(size < 4 ? flags == 3 : flags >> half & 1)) known = false;
          }
        }
      u8& flag = p.region->flags[p.cell + c];
      flag = (flag & ~(F_KNOWN | F_UNDEFINED)) | F_WRITTEN | (known ? F_KNOWN : F_UNDEFINED);
    }
    if (semantics && given.checked) released(p, sound[i], semantics == RELEASE, scope, false);
  }
}

enum Operation { OP_ADD, OP_AND, OP_OR, OP_XOR, OP_MIN, OP_MAX, OP_EXCH, OP_INC, OP_DEC, OP_CAS };
enum NumberKind { KIND_U32, KIND_S32, KIND_U64, KIND_S64, KIND_F32, KIND_F64, KIND_F16, KIND_BF16, KIND_TF32 };
