// Rows of logits, and of their gradients, as the CPU's kernels are given them.
#pragma once

#include <cstdint>

namespace fastkd {

enum class Type { FLOAT32, BFLOAT16, FLOAT16 };

struct Matrix {
  const void* data;
  Type type;
  int64_t row_stride, column_stride;
};

// The same to be written; `data` is null where nobody wants it.
struct Target {
  void* data;
  Type type;
  int64_t row_stride, column_stride;
};

}  // namespace fastkd
