// Which instruction set of this CPU the kernels use: found once in a process, and limited by FASTKD_CPU.
#pragma once

#include <atomic>
#include <cstdint>

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define FASTKD_SETS_OF_X86
#endif

namespace fastkd {

enum Instructions : int { BASELINE, AVX2, AVX512 };
constexpr const char* INSTRUCTIONS[] = {"baseline", "avx2", "avx512"};

inline Instructions best_instructions() {
#ifdef FASTKD_SETS_OF_X86
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
  return avx2 ? avx512 ? AVX512 : AVX2 : BASELINE;
#else
  return BASELINE;
#endif
}

inline std::atomic<int>& instructions() {
  static std::atomic<int> used{best_instructions()};
  return used;
}

// Calls what a kernel is called in the namespace of the instruction set that is used.
#ifdef FASTKD_SETS_OF_X86
#define FASTKD_BEST(kernel)                                                         \
  (fastkd::instructions() == fastkd::AVX512 ? fastkd::avx512::kernel                \
                                            : fastkd::instructions() == fastkd::AVX2 ? fastkd::avx2::kernel \
                                                                                     : fastkd::baseline::kernel)
#else
#define FASTKD_BEST(kernel) (fastkd::baseline::kernel)
#endif

}  // namespace fastkd
