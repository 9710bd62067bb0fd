// Includes FASTKD_KERNELS, a header without a guard, once for each instruction set: in a namespace of its own, with so
// many LANES in a vector. target_clones would not do, since it leaves the vectors as wide as they were written.
//
// Whatever the kernels include of others has to be included before: what is defined here would be compiled for one
// instruction set, and be taken for another.

#include "instructions.h"

#ifdef FASTKD_SETS_OF_X86

#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")
namespace fastkd::avx512 {
constexpr int64_t LANES = 16, REGISTERS = 32;
#include "vectors.h"
#include FASTKD_KERNELS
}  // namespace fastkd::avx512
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace fastkd::avx2 {
constexpr int64_t LANES = 8, REGISTERS = 16;
#define FASTKD_MULTIPLY(a, b) __builtin_ia32_pmuludq256((Ints)(a), (Ints)(b))
#include "vectors.h"
#include FASTKD_KERNELS
#undef FASTKD_MULTIPLY
}  // namespace fastkd::avx2
#pragma GCC pop_options

#endif

namespace fastkd::baseline {
constexpr int64_t LANES = 4, REGISTERS = 16;
#include "vectors.h"
#include FASTKD_KERNELS
}  // namespace fastkd::baseline
