// The arguments that the operations of fastkd/ops/crd/operation.py hand over flat. fastkd/ops/crd/inputs.py decides on
// them and on their order; tests/ops/crd/test_inputs.py compares.

#pragma once

#define FASTKD_DRAW_PLAN                                                                                  \
  Tensor starts, Tensor step, int64_t negatives, int64_t seed, int64_t first_place, bool replacement, bool relaxed, \
      bool scarce

#define FASTKD_CRD_INPUTS                                                                                 \
  Tensor student, Tensor teacher, Tensor rows, std::optional<Tensor> chosen, FASTKD_DRAW_PLAN, Tensor bank, Tensor z, \
      Tensor numbers

// Counted up, here and in fastkd/ops/compiled.py, when operations take other arguments: who finds a library of older
// sources does not use it.
#define FASTKD_INTERFACE "_interface_3"
