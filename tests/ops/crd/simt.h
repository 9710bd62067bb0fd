// Just enough of CUDA for the kernels of csrc/*.cuh to run on a CPU: a fiber for each thread, one block at a time.
// It knows barriers, votes and shuffles; of races and of speed it says nothing. test_crd_simulated.py builds this.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

using std::isfinite;
using std::min;

#define __global__
#define __device__
#define __launch_bounds__(...)
#define __shared__ static

struct dim3 {
  unsigned x, y;
  dim3(unsigned x_ = 1, unsigned y_ = 1) : x(x_), y(y_) {}
};
struct float4 {
  float x, y, z, w;
};
struct uint4 {
  uint32_t x, y, z, w;
};
struct __nv_bfloat16 {
  uint16_t bits;
};

static float __uint_as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
static float __bfloat162float(__nv_bfloat16 value) { return __uint_as_float(uint32_t{value.bits} << 16); }
static __nv_bfloat16 __float2bfloat16_rn(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return {static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16)};
}
static int __popc(unsigned bits) { return __builtin_popcount(bits); }

struct Thread {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(1 << 16);
  int warp_arrivals = 0, block_arrivals = 0;
  bool done = false;
  uint64_t shown = 0;
};
static std::vector<Thread> threads;
static int current;
static ucontext_t scheduler;
static std::function<void()> kernel_of_block;
static dim3 blockIdx;
static struct {
  struct {
    operator unsigned() const { return static_cast<unsigned>(current); }
  } x;
} threadIdx;

static void wait_for(int first, int last, int Thread::*arrivals) {
  const int wanted = ++(threads[current].*arrivals);
  for (;;) {
    bool all = true;
    for (int t = first; t < last; ++t) all &= threads[t].done || threads[t].*arrivals >= wanted;
    if (all) return;
    swapcontext(&threads[current].context, &scheduler);
  }
}
static void __syncwarp() {
  const int first = current / 32 * 32;
  wait_for(first, first + 32, &Thread::warp_arrivals);
}
static void __syncthreads() { wait_for(0, static_cast<int>(threads.size()), &Thread::block_arrivals); }

template <typename T>
T shuffle(T value, int lane) {
  std::memcpy(&threads[current].shown, &value, sizeof value);
  __syncwarp();
  T received;
  std::memcpy(&received, &threads[current / 32 * 32 + lane].shown, sizeof received);
  __syncwarp();
  return received;
}
template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return shuffle(value, current % 32 ^ mask);
}
template <typename T>
T __shfl_sync(unsigned, T value, int lane) {
  return shuffle(value, lane);
}
static unsigned __ballot_sync(unsigned, bool vote) {
  threads[current].shown = vote;
  __syncwarp();
  unsigned votes = 0;
  for (int lane = 0; lane < 32; ++lane) votes |= static_cast<unsigned>(threads[current / 32 * 32 + lane].shown) << lane;
  __syncwarp();
  return votes;
}
static int __syncthreads_or(bool vote) {
  threads[current].shown = vote;
  __syncthreads();
  int any = 0;
  for (const Thread& thread : threads) any |= static_cast<int>(thread.shown);
  __syncthreads();
  return any;
}

static void begin_thread() {
  kernel_of_block();
  threads[current].done = true;
  swapcontext(&threads[current].context, &scheduler);
}

template <typename Kernel>
void launch(dim3 grid, int block, Kernel kernel) {
  kernel_of_block = kernel;
  for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
    for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) {
      threads.resize(block);
      for (Thread& thread : threads) {
        thread.warp_arrivals = thread.block_arrivals = 0;
        thread.done = false;
        getcontext(&thread.context);
        thread.context.uc_stack.ss_sp = thread.stack.data();
        thread.context.uc_stack.ss_size = thread.stack.size();
        thread.context.uc_link = nullptr;
        makecontext(&thread.context, begin_thread, 0);
      }
      for (bool alive = true; alive;) {
        alive = false;
        for (current = 0; current < block; ++current)
          if (!threads[current].done) {
            alive = true;
            swapcontext(&scheduler, &threads[current].context);
          }
      }
    }
}
