// What the kernel of the losses of rows is given. fastkd/ops/row_loss/inputs.py has the words.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "distill.h"

namespace fastkd {

enum class Labels { NONE, CLASSES, PROBABILITIES };
enum class Teacher { NONE, LOGITS, PROBABILITIES, RENORMALISED, LUMPED, SAMPLED };
enum class Divergence { FORWARD, REVERSE, JSD };

// [B,R,K]: row i is row i % R of the matrix i / R.
struct Dense {
  Matrix rows;  // of the first matrix; its data are null where there are none
  int64_t batch_stride;
};

struct Kept {
  const int32_t* classes;   // [N,count], below 0: padding
  const float* log_probs;   // [N,count]
  const float* log_rest;    // [N], or null
  int64_t count;
};

struct RowLosses {
  int64_t samples, rows_of_batch, classes;
  Dense student, teacher_rows, shares;
  Dense gradient;  // may be the student's own memory
  Kept kept;
  const int64_t* labels;  // [N], where there are labels
  const float* weights;   // [N]
  const float* numbers;   // [ROLES]
  Teacher teacher;
  Labels kind_of_labels;
  Divergence divergence;
  bool tau_squared, capped, teacher_capped;
  float *losses, *parts;  // [N], [2,N]
  int64_t* ranks;         // [N]
};

constexpr int64_t MISS = 5;  // a row without a label ranks so far behind all classes

// A kept class of a row.
struct KeptClass {
  int32_t place;
  float log_prob;
};

// Those of a row; where it has several chunks in the order of the classes, so that those of a chunk follow each other.
inline void gather_kept(const Kept& kept, int64_t row, bool in_order, std::vector<KeptClass>& gathered) {
  gathered.clear();
  for (int64_t i = row * kept.count; i < (row + 1) * kept.count; ++i)
    if (kept.classes[i] >= 0) gathered.push_back({kept.classes[i], kept.log_probs[i]});
  if (in_order)
    std::sort(gathered.begin(), gathered.end(),
              [](const KeptClass& a, const KeptClass& b) { return a.place < b.place; });
}

// Which of them is the first one that is not before a class.
inline size_t first_kept(const std::vector<KeptClass>& ordered, int64_t place) {
  const auto before = [](const KeptClass& one, int64_t at) { return one.place < at; };
  return std::lower_bound(ordered.begin(), ordered.end(), place, before) - ordered.begin();
}

}  // namespace fastkd
