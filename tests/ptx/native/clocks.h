// Happens-before as vector clocks; interpreter/clocks.py says what they mean.
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "words.h"

constexpr int WARP = 32;
constexpr int GPU_SCOPE = 2;

using Row = std::vector<u32>;
using Foreign = std::map<int, std::shared_ptr<const Row>>;

struct Released {
  int block, scope;
  std::shared_ptr<const Row> row;
  Foreign foreign;
};

inline std::shared_ptr<const Row> greater_row(const std::shared_ptr<const Row>& one, const Row& other) {
  if (one == nullptr) return std::make_shared<const Row>(other);
  auto both = std::make_shared<Row>(*one);
  for (size_t i = 0; i < both->size(); ++i) (*both)[i] = std::max((*both)[i], other[i]);
  return both;
}
inline void merge(Foreign& into, const Foreign& from) {
  for (const auto& [block, row] : from) {
    auto& known = into[block];
    if (known != row) known = greater_row(known, *row);
  }
}

struct Clocks {
  int block, threads, warps;
  std::vector<u32> seen, proxied;  // [threads, threads]
  Row counter;
  Row floor;  // of each warp: what every thread has seen of all its lanes
  std::vector<Foreign> foreign;
  std::vector<std::optional<Released>> fenced;
  std::vector<std::vector<Released>> pending;
  bool communicates = false;

  Clocks(int block_, int threads_)
      : block(block_),
        threads(threads_),
        warps((threads_ + WARP - 1) / WARP),
        seen(size_t(threads_) * threads_),
        proxied(seen.size()),
        counter(warps, 1),
        floor(warps, 0),
        foreign(threads_),
        fenced(threads_),
        pending(threads_) {}

  u32 now(int thread) const { return counter[thread / WARP]; }
  u32* row(int thread) { return seen.data() + size_t(thread) * threads; }
  const u32* row(int thread) const { return seen.data() + size_t(thread) * threads; }
  u32* proxied_row(int thread) { return proxied.data() + size_t(thread) * threads; }

  void advance(const std::vector<int>& of) {
    int last = -1;
    for (int thread : of)
      if (thread / WARP != last) ++counter[last = thread / WARP];
  }

  void join(const std::vector<int>& of) {
    Row joined(threads, 0), passed(threads, 0);
    for (int thread : of) {
      const u32 *known = row(thread), *fenced_row = proxied_row(thread);
      for (int i = 0; i < threads; ++i) joined[i] = std::max(joined[i], known[i]);
      for (int i = 0; i < threads; ++i) passed[i] = std::max(passed[i], fenced_row[i]);
    }
    for (int thread : of) joined[thread] = std::max(joined[thread], now(thread));
    for (int thread : of) {
      std::copy(joined.begin(), joined.end(), row(thread));
      std::copy(passed.begin(), passed.end(), proxied_row(thread));
    }
    if (communicates) {
      Foreign together;
      for (int thread : of) merge(together, foreign[thread]);
      for (int thread : of) foreign[thread] = together;
    }
    if (int(of.size()) == threads)
      for (int warp = 0; warp < warps; ++warp) floor[warp] = counter[warp];
    advance(of);
  }

  void fence_proxy(const std::vector<int>& of) {
    for (int thread : of) {
      u32 *passed = proxied_row(thread), *known = row(thread);
      for (int i = 0; i < threads; ++i) passed[i] = std::max(passed[i], known[i]);
      passed[thread] = now(thread);
    }
    advance(of);
  }

  bool ordered(int thread, int other, u32 clock) const { return other == thread || row(thread)[other] >= clock; }

  bool knows(int thread, int of_block, int other, u32 clock) const {
    if (of_block == block) return ordered(thread, other, clock);
    const auto found = foreign[thread].find(of_block);
    return found != foreign[thread].end() && (*found->second)[other] >= clock;
  }

  Released released(int thread, int scope) {
    communicates = true;
    auto own = std::make_shared<Row>(row(thread), row(thread) + threads);
    (*own)[thread] = now(thread);
    return {block, scope, own, foreign[thread]};
  }

  void acquire(int thread, const Released& item, int scope) {
    communicates = true;
    if (item.block == block) {
      u32* own = row(thread);
      for (int i = 0; i < threads; ++i) own[i] = std::max(own[i], (*item.row)[i]);
    } else if (std::min(scope, item.scope) < GPU_SCOPE) {
      return;
    } else {
      merge(foreign[thread], {{item.block, item.row}});
    }
    merge(foreign[thread], item.foreign);
  }

  void fence(int thread, int scope) {
    for (const Released& item : pending[thread]) acquire(thread, item, scope);
    pending[thread].clear();
    fenced[thread] = released(thread, scope);
  }
};
