// What a source needs that is compiled for a CPU and for a GPU.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define FASTKD_INLINE __host__ __device__ __forceinline__
#else
#define FASTKD_INLINE inline __attribute__((always_inline))
#endif

namespace fastkd {

// The bits of a float as an integer, and back.
FASTKD_INLINE uint32_t bits_of(float value) {
#ifdef __CUDA_ARCH__
  return __float_as_uint(value);
#else
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
#endif
}

FASTKD_INLINE float float_of(uint32_t bits) {
#ifdef __CUDA_ARCH__
  return __uint_as_float(bits);
#else
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
#endif
}

}  // namespace fastkd
