// Instructions of the table: what they give, and which of it is known.
#pragma once

#include "block.h"

#include "lanes.inc"

enum KnownRule { KNOWN_ALL, KNOWN_SAME, KNOWN_SELECT, KNOWN_AND, KNOWN_OR, KNOWN_LOWER };

inline u32 packed_bits(const u8* bytes) {  // 32 bytes of 0 or 1 as a mask
  u32 found = 0;
  for (int i = 0; i < 4; ++i) {
    u64 eight;
    std::memcpy(&eight, bytes + 8 * i, 8);
    found |= static_cast<u32>((eight * 0x0102040810204080ull) >> 56) << (8 * i);
  }
  return found;
}

inline void Block::lane(const Mask& mask, bool everybody) {
  Register& target = reg(0);
  const int sources = at->count - 1;
  // What is known depends on the operands, which the result may overwrite.
  Mask lower, upper;
  const int rule = at->details[0];
  for (int warp = 0; warp < warps; ++warp) {
    if (mask[warp] == 0) continue;
    u32 low = ~0u, high = ~0u;
    for (int i = 1; i <= sources; ++i) {
      low &= reg(i).lower[warp];
      high &= reg(i).upper[warp];
    }
    if (rule == KNOWN_LOWER) {
      high = low;
    } else if (rule != KNOWN_SAME && (low & high) != ~0u) {
      if (rule == KNOWN_SELECT) {
        const u32 chosen = packed_bits(reg(3).data + warp * WARP), known = reg(3).lower[warp];
        low = known & ((chosen & reg(1).lower[warp]) | (~chosen & reg(2).lower[warp]));
        high = known & ((chosen & reg(1).upper[warp]) | (~chosen & reg(2).upper[warp]));
      } else {
        low = high = low & high;
        if (rule == KNOWN_AND || rule == KNOWN_OR)
          for (int i = 1; i <= 2; ++i) {
            const Register& r = reg(i);
            const u64 ones = r.bytes == 1 ? 1 : r.bytes == 8 ? ~u64{0} : (u64{1} << (8 * r.bytes)) - 1;
            for (int lane = 0; lane < WARP; ++lane)
              if (r.get(warp * WARP + lane) == (rule == KNOWN_AND ? 0 : ones) && (r.lower[warp] & r.upper[warp]) >> lane & 1)
                low = high |= 1u << lane;
          }
      }
    }
    lower[warp] = low;
    upper[warp] = high;
  }
  Call call{target.data, {}, warps * WARP, nullptr, given.approximation};
  for (int i = 0; i < sources; ++i) call.sources[i] = reg(i + 1).data;
  if (!everybody) {
    for (int warp = 0; warp < warps; ++warp)
      for (int lane = 0; lane < WARP; ++lane) active_bytes[warp * WARP + lane] = mask[warp] >> lane & 1;
    call.active = active_bytes.data();
  }
  lane_function(at->lane)(call);
  for (int warp = 0; warp < warps; ++warp) {
    if (mask[warp] == 0) continue;
    target.lower[warp] = (target.lower[warp] & ~mask[warp]) | (lower[warp] & mask[warp]);
    target.upper[warp] = (target.upper[warp] & ~mask[warp]) | (upper[warp] & mask[warp]);
  }
}
