// How the numbers of a bank lie in memory: float32 or bfloat16, one or 16 bytes of them at a time.
#pragma once

#include <cuda_bf16.h>

#include "portable.h"

namespace fastkd {

__device__ inline float single(float value) { return value; }
__device__ inline float single(__nv_bfloat16 value) { return __bfloat162float(value); }

__device__ inline void assign(float* to, float value) { *to = value; }
__device__ inline void assign(__nv_bfloat16* to, float value) { *to = __float2bfloat16_rn(value); }

// V elements of a bank's row, as they lie in memory.
template <typename T, int V>
struct Piece {
  T elements[V];
  __device__ float operator[](int i) const { return elements[i]; }
};
template <>
struct Piece<float, 4> {
  float4 bits;
  __device__ float operator[](int i) const { return i == 0 ? bits.x : i == 1 ? bits.y : i == 2 ? bits.z : bits.w; }
};
template <>
struct Piece<__nv_bfloat16, 8> {
  uint4 bits;
  __device__ float operator[](int i) const {
    const uint32_t pair = i < 2 ? bits.x : i < 4 ? bits.y : i < 6 ? bits.z : bits.w;
    return __uint_as_float(i % 2 == 0 ? pair << 16 : pair & 0xFFFF0000u);
  }
};
template <typename T>
struct Piece<T, 1> {
  T bits;
  __device__ float operator[](int) const { return single(bits); }
};

}  // namespace fastkd
