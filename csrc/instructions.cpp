// Which instruction set the kernels of this library use. fastkd/ops/compiled.py has the schema.

#include "instructions.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <string>

namespace {

using namespace fastkd;

// Limits the kernels to the instruction set `most`, "" for no limit; returns the name of the one that they use.
std::string limit_instructions(std::string most) {
  int limit = AVX512;
  if (!most.empty())
    for (limit = 0; most != INSTRUCTIONS[limit];)
      STD_TORCH_CHECK(++limit <= AVX512, "there is no instruction set ", most);
  instructions() = limit < best_instructions() ? limit : best_instructions();
  return INSTRUCTIONS[instructions()];
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastkd, CompositeExplicitAutograd, m) {
  m.impl("_instructions", TORCH_BOX(&limit_instructions));
}
