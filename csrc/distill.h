// What the row kernel of the distillation losses is given. fastkd/ops/numbers.py has the roles of the numbers.
#pragma once

#include "matrix.h"

namespace fastkd {

enum Role {
  TEMPERATURE,
  PAIR_WEIGHT,
  ANCHOR_CE_WEIGHT,
  PARTNER_CE_WEIGHT,
  CE_TEMPERATURE,
  OTHERS_WEIGHT,
  LABEL_PROBABILITY,
  SMOOTHING,
  TARGET_TEMPERATURE,
  TEACHER_EXPONENT,
  STUDENT_EXPONENT,
  MIXTURE,
  LOGIT_SCALE,
  SOFTCAP,
  TEACHER_LOGIT_SCALE,
  TEACHER_SOFTCAP,
  ROLES
};

// Contiguous, of the type of the logits, but float32 for float16; null where nobody wants it.
struct Gradient {
  void* data;
  bool bfloat16;
};

struct Distillation {
  const Matrix* logits;  // [networks]: the anchor's, then its partners'
  const Gradient* gradients;
  int64_t networks, samples, classes;
  const int64_t* labels;
  int64_t ignore_index;
  const float* numbers;  // [ROLES]
  const float* shares;   // [partners, samples], or null
  int64_t share_strides[2];
  bool detached, tau_squared;
  float per_row;  // 1 / counted rows
};

// What rows add to the losses, before any weight, and to the hits.
struct Sums {
  double anchor_ce, pair, third;
  int64_t* hits;  // [networks that learn, 2]
};

// What a form of the loss is, but for its kernel.
struct Traits {
  const char* name;
  bool partners_learn;  // they have a cross-entropy and hits
  int third_weight;     // the role of the weight of the third part, or -1 where there is none
  bool anchor_ce;       // whether the anchor's cross-entropy is a part of the total
};

}  // namespace fastkd
