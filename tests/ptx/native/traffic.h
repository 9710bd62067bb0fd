// What accesses ask of global memory and of the banks of shared memory.
#pragma once

#include "block.h"

constexpr s64 SECTOR = 32;

inline void Block::count_global(const std::vector<int>& who, const std::vector<u64>& addresses, int size) {
  u64 seen[3 * WARP];
  int count = 0;
  s64 sectors = 0;
  for (size_t i = 0; i < who.size(); ++i) {
    if (i > 0 && who[i] / WARP != who[i - 1] / WARP) count = 0;
    for (u64 sector : {addresses[i] / SECTOR, (addresses[i] + size - 1) / SECTOR}) {
      bool known = false;
      for (int j = count - 1; j >= 0 && !known; --j) known = seen[j] == sector;
      if (!known) {
        seen[count++] = sector;
        ++sectors;
      }
    }
  }
  given.sectors[place] += sectors;
}

inline void Block::count_shared(const std::vector<int>& who, const std::vector<u64>& addresses, int size) {
  const int together = WARP * 4 / std::max(size, 4), words = std::max(size / 4, 1);
  size_t i = 0;
  while (i < who.size()) {
    const int part = who[i] / together;  // of the lanes that are served at once; they divide a warp
    u64 seen[WARP * 4];
    int in_bank[32] = {}, count = 0, degree = 0;
    for (; i < who.size() && who[i] / together == part; ++i)
      for (int w = 0; w < words; ++w) {
        const u64 word = addresses[i] / 4 + w;
        bool known = false;
        for (int j = count - 1; j >= 0 && !known; --j) known = seen[j] == word;
        if (known) continue;
        seen[count++] = word;
        degree = std::max(degree, ++in_bank[word % 32]);
      }
    given.passes[place] += degree;
    given.least_passes[place] += 1;
    given.worst[place] = std::max<s64>(given.worst[place], degree);
  }
}

inline void Block::count_memory(int space, const std::vector<int>& who, const std::vector<u64>& addresses, int size) {
  if (space == SHARED)
    count_shared(who, addresses, size);
  else
    count_global(who, addresses, size);
}
