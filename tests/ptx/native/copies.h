// Asynchronous copies; as interpreter/copies.py.
#pragma once

#include "memory.h"

inline void Block::copy(const Mask& mask) {
  const int size = at->numbers[2];
  for (int i = 0; i < 2; ++i)
    if (slot(i) != NONE) defined(i, mask, "an address");
  if (slot(2) != NONE) defined(2, mask, "the size of a copy");
  std::vector<int> all = threads_of(mask, warps), readers, sound_readers, sound;
  std::vector<u64> targets, sources;
  std::vector<Place> from, to;
  std::vector<u8> bytes(all.size() * size, 0);
  std::vector<const u8*> values;
  u8 reported = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    const int thread = all[i];
    targets.push_back(address(0, at->numbers[0], thread));
    const s64 real = slot(2) == NONE ? size : std::min<s64>(static_cast<u32>(reg(2).get(thread)), size);
    if (real <= 0) continue;
    readers.push_back(thread);
    sources.push_back(address(1, at->numbers[1], thread));
    Place p;
    if (placed(GLOBAL, sources.back(), size, int(real), thread, "reads", p, reported)) {
      sound_readers.push_back(thread);
      from.push_back(p);
      std::memcpy(bytes.data() + i * size, p.region->data + p.offset, real);
    }
  }
  count_global(readers, sources, size);
  note_read(sound_readers, from, "reads", WEAK, GPU_SCOPE);
  count_shared(all, targets, size);
  reported = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    Place p;
    if (placed(SHARED, targets[i], size, size, all[i], "copies to", p, reported)) {
      sound.push_back(all[i]);
      to.push_back(p);
      values.push_back(bytes.data() + i * size);
    }
  }
  note_write(sound, to, "copies to", WEAK, GPU_SCOPE, values, size);
  for (size_t i = 0; i < sound.size(); ++i) {
    const Place& p = to[i];
    std::memcpy(p.region->data + p.offset, values[i], size);
    for (int c = 0; c < p.cells; ++c) {
      u8& flag = p.region->flags[p.cell + c];
      flag = (flag & ~F_UNDEFINED) | F_KNOWN | F_WRITTEN;
      if (given.checked) run.shared_watch.flight[p.cell + c] = place;
    }
    if (given.checked) copies.push_back({sound[i], open_copies[sound[i]], place, p.cell, p.cells});
  }
}

inline void Block::wait_for_copies(const Mask& mask, s64 pending) {
  Watch& watch = run.shared_watch;
  std::erase_if(copies, [&](const Copied& item) {
    if (!has(mask, item.thread)) return false;
    if (pending != NONE && item.group >= open_copies[item.thread] - pending) return false;
    for (s64 cell = item.first; cell < item.first + item.count; ++cell) {
      watch.flight[cell] = -1;
      watch.writer[cell] = item.thread;
      watch.write_clock[cell] = clocks.now(item.thread);
    }
    return true;
  });
}
