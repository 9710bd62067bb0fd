// The types of tensors that the CPU's kernels of logits take.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include "matrix.h"

namespace fastkd {

inline Type type_of(const torch::stable::Tensor& logits) {
  using torch::headeronly::ScalarType;
  switch (logits.scalar_type()) {
    case ScalarType::Float:
      return Type::FLOAT32;
    case ScalarType::BFloat16:
      return Type::BFLOAT16;
    case ScalarType::Half:
      return Type::FLOAT16;
    default:
      STD_TORCH_CHECK(false, "the kernels of logits take float32, bfloat16 and float16");
  }
}

}  // namespace fastkd
