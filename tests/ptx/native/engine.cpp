// Runs the blocks of a launch, one after the other; native/engine.py calls run_launch.
#include "known.h"
#include "warpgroups.h"

namespace {

// %tid %ntid %ctaid %nctaid in three axes, then the lane's and the warp's number and the masks of lanes.
u64 special(const GivenLaunch& given, int which, int block, int thread) {
  const s32 *size = which < 6 ? given.block : given.grid;
  if (which < 12) {
    const int kind = which / 3, axis = which % 3;
    if (kind % 2) return size[axis];
    const int x = size[0], y = size[1], at = kind == 0 ? thread : block;
    return axis == 0 ? at % x : axis == 1 ? at / x % y : at / (x * y);
  }
  const u32 lane = thread % WARP, bit = 1u << lane;
  switch (which) {
    case 12: return lane;
    case 13: return thread / WARP;
    case 14: return bit;
    case 15: return bit - 1;
    case 16: return bit | (bit - 1);
    case 17: return ~(bit | (bit - 1));
    default: return ~(bit - 1);
  }
}

}  // namespace

Block::Block(Run& run_, int number_)
    : run(run_),
      given(run_.given),
      number(number_),
      threads(run_.threads),
      warps(run_.warps),
      clocks(number_, run_.threads),
      registers(given.slot_count),
      active_bytes(warps * WARP, 0),
      guard_bytes(warps * WARP, 0),
      open_copies(threads, 0),
      open_products(warps, 0) {
  const int padded = warps * WARP;
  for (int warp = 0; warp < warps; ++warp) {
    const int rest = threads - warp * WARP;
    alive[warp] = rest >= WARP ? ~0u : (1u << rest) - 1;
  }
  size_t bytes = 0;
  for (int i = 0; i < given.slot_count; ++i) bytes += size_t(std::max(given.slots[i].bits / 8, 1)) * padded;
  run.registers.assign(bytes + 64, 0);
  u8* next = run.registers.data();
  for (int i = 0; i < given.slot_count; ++i) {
    const GivenSlot& slot = given.slots[i];
    Register& r = registers[i];
    r.bytes = std::max(slot.bits / 8, 1);
    r.data = next;
    next += size_t(r.bytes) * padded;
    if (slot.special == 0) continue;
    r.lower.fill(~0u);
    r.upper.fill(~0u);
    for (int thread = 0; thread < padded; ++thread)
      r.set(thread, slot.special == 1 ? slot.value : special(given, slot.special - 2, number, thread));
  }
  run.shared_data.assign(given.shared_bytes + 16, 0);
  const s64 cells = (given.shared_bytes + given.shared_cell - 1) / given.shared_cell;
  run.shared_flags.assign(cells + 1, F_GIVEN);
  run.shared_region = {run.shared_data.data(), given.shared_bytes, run.shared_flags.data(), cells, given.shared_cell, 1,
                       "shared memory"};
  if (given.checked) run.shared_watch.open(&run.shared_region, warps, true);
  if (given.matrices) fresh.assign(given.slot_count, Mask{~0u});
  groups.push_back({0, alive});
}

void Block::leave(Group& group, const Mask& mask) {
  changed = true;
  for (int warp = 0; warp < warps; ++warp) group.mask[warp] &= ~mask[warp];
}

void Block::go_on(int to, const Mask& mask) {
  changed = true;
  groups.push_back({to, mask});
}

void Block::end(const Mask& mask) {
  for (int warp = 0; warp < warps; ++warp) alive[warp] &= ~mask[warp];
  look();
}

void Block::execute() {
  s64 steps = 0;
  while (true) {
    std::erase_if(groups, [&](const Group& group) { return !any(group.mask); });
    if (groups.empty()) {
      if (waiting.empty()) break;
      give_up();
      continue;
    }
    int first = groups[0].place, limit = given.instructions;
    for (const Group& group : groups) first = std::min(first, group.place);
    Group together{first, {}};
    for (const Group& group : groups) {
      if (group.place != first) {
        limit = std::min(limit, group.place);
        continue;
      }
      for (int warp = 0; warp < warps; ++warp) together.mask[warp] |= group.mask[warp];
    }
    std::erase_if(groups, [&](const Group& group) { return group.place == first; });
    if (first >= given.instructions) {
      end(together.mask);
      continue;
    }
    changed = false;
    while (!changed && together.place < limit) {
      step(together);
      ++steps;
    }
    if (steps > given.most_steps) {
      report(ENDLESS, first_of(alive), NONE, "after %lld steps", static_cast<long long>(given.most_steps));
      return;
    }
    groups.push_back(together);
  }
  for (Watch& watch : run.watches) {
    for (s64 cell : watch.read_cells)
      for (int warp = 0; warp < warps; ++warp) {
        u32& mask = watch.readers[size_t(cell) * warps + warp];
        for (; mask != 0; mask &= mask - 1)
          watch.earlier_readers[cell].push_back({number, warp * WARP + std::countr_zero(mask),
                                                 watch.read_clock[size_t(cell) * warps + warp], GPU_SCOPE,
                                                 watch.read_place[cell]});
      }
    watch.read_cells.clear();
  }
}

void Block::step(Group& group) {
  place = group.place++;
  at = &given.code[place];
  Mask mask = group.mask, unknown{};
  bool has_unknown = false;
  for (int warp = 0; warp < warps; ++warp) given.warps[place] += group.mask[warp] != 0;
  if (at->guard != NONE) {
    const Register& guard = registers[at->guard];
    for (int warp = 0; warp < warps; ++warp) {
      unknown[warp] = mask[warp] & ~guard.lower[warp];
      has_unknown |= unknown[warp] != 0;
      const u32 bits = packed_bits(guard.data + warp * WARP);
      mask[warp] &= at->unless ? ~bits : bits;
    }
    if (has_unknown && at->action != LANE) report(UNDEFINED, first_of(unknown), NONE, "the guard");
  }
  if (!running.empty()) check_products(mask);
  const bool some = any(mask);
  if (at->action == LANE) {
    if (some) {
      bool everybody = true;
      for (int warp = 0; warp < warps; ++warp) everybody &= mask[warp] == ~0u || (warp == warps - 1 && mask[warp] == alive[warp] && threads % WARP);
      lane(mask, everybody);
    }
    if (has_unknown) {
      Register& target = reg(0);
      for (int warp = 0; warp < warps; ++warp) {
        target.lower[warp] &= ~unknown[warp];
        target.upper[warp] &= ~unknown[warp];
      }
    }
  } else if (at->action == BRANCH) {
    if (some) {
      leave(group, mask);
      go_on(static_cast<int>(at->numbers[0]), mask);
    }
  } else if (at->action == END) {
    leave(group, mask);
    end(mask);
  } else if (some) {
    for (int warp = 0; warp < warps; ++warp) {
      given.passing[place] += mask[warp] != 0;
      given.lanes[place] += std::popcount(mask[warp]);
    }
    switch (at->action) {
      case LOAD: load(mask); break;
      case STORE: store(mask); break;
      case ATOMIC: atomic(mask); break;
      case COPY: copy(mask); break;
      case COMMIT_COPIES:
        for (int thread : threads_of(mask, warps)) ++open_copies[thread];
        break;
      case WAIT_FOR_COPIES: wait_for_copies(mask, at->numbers[0]); break;
      case FENCE:
        for (int thread : threads_of(mask, warps)) clocks.fence(thread, at->details[0]);
        clocks.advance(threads_of(mask, warps));
        break;
      case PROXY_FENCE: clocks.fence_proxy(threads_of(mask, warps)); break;
      case TRAP:
      case CALL:
        report(TRAPPED, first_of(mask), NONE, "%s", at->action == TRAP ? "trap" : "a call");
        leave(group, mask);
        end(mask);
        break;
      case BARRIER:
        if (at->details[1]) whole_warps(mask, DIVERGENCE);
        arrive(group, mask, true);
        break;
      case ARRIVE: arrive(group, mask, false); break;
      case WARP_BARRIER: warp_barrier(mask); break;
      case SHUFFLE: shuffle(mask); break;
      case VOTE: vote(mask); break;
      case REDUCE: reduce(mask); break;
      case ELECT: elect(mask); break;
      case ACTIVE:
        for (int thread : threads_of(mask, warps))
          if (slot(0) != NONE) reg(0).put(thread, mask[thread / WARP]);
        break;
      case PACK: pack(mask); break;
      case LOAD_MATRIX: load_matrix(mask); break;
      case STORE_MATRIX: store_matrix(mask); break;
      case MULTIPLY: multiply(mask); break;
      case MATRIX_FENCE:
        whole_warps(mask, INACTIVE);
        for (Mask& warps_fresh : fresh)
          for (int warp = 0; warp < warps; ++warp)
            if (mask[warp] == ~0u) warps_fresh[0] &= ~(1u << warp);
        break;
      case COMMIT_MATRICES:
        whole_warps(mask, INACTIVE);
        for (int warp = 0; warp < warps; ++warp) open_products[warp] += mask[warp] == ~0u;
        break;
      case WAIT_FOR_MATRICES: wait_for_products(mask, at->numbers[0]); break;
      case MULTIPLY_ASYNC: multiply_async(mask); break;
      default: break;
    }
  }
  if (given.matrices) note_written(mask);
}

// No instruction but their own touches the registers of the matrix instructions that run.
void Block::check_products(const Mask& mask) {
  if (at->action == MULTIPLY_ASYNC || !given.checked) return;
  const s32* slots = given.operands + at->first;
  for (const RunningProduct& item : running) {
    if (mask[item.warp] == 0) continue;
    for (int i = 0; i < at->count; ++i) {
      if (slots[i] == NONE) continue;
      const auto in = [&](const std::vector<s32>& list) { return std::find(list.begin(), list.end(), slots[i]) != list.end(); };
      if (in(item.accumulators) || (i >= at->written_from && i < at->written_to && in(item.operands))) {
        report(MATRIX_REGISTERS, item.warp * WARP, NONE, "register %d is in use until the wait", slots[i]);
        return;
      }
    }
  }
}

void Block::note_written(const Mask& mask) {
  if (at->action == MULTIPLY_ASYNC) return;
  const s32* slots = given.operands + at->first;
  for (int i = at->written_from; i < at->written_to; ++i)
    if (slots[i] != NONE)
      for (int warp = 0; warp < warps; ++warp) fresh[slots[i]][0] |= u32(mask[warp] != 0) << warp;
}

extern "C" void run_launch(GivenLaunch* given) {
  Run run(*given);
  for (int i = 0; i < given->blocks; ++i) Block(run, given->order[i]).execute();
}
