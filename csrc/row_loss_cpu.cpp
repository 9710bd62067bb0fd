// The losses of rows on a CPU. fastkd/ops/row_loss/reference.py is the definition, operation.py has the schema,
// row_loss_rows.h the kernel. Rows know nothing of each other: no result depends on threads.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <optional>
#include <string>
#include <vector>

#include "portable.h"
#include "row_loss.h"
#include "types.h"

#define FASTKD_KERNELS "row_loss_rows.h"
#include "each_target.h"

namespace {

using torch::stable::Tensor;
using namespace fastkd;

constexpr int64_t WORTH_A_THREAD = 1 << 15;  // numbers
constexpr const char* TEACHERS[] = {"none", "logits", "probabilities", "renormalised", "lumped", "sampled"};
constexpr const char* DIVERGENCES[] = {"forward", "reverse", "jsd"};

template <typename T, size_t COUNT>
T named(const std::string& name, const char* const (&names)[COUNT]) {
  for (size_t i = 0; i < COUNT; ++i)
    if (name == names[i]) return static_cast<T>(i);
  STD_TORCH_CHECK(false, "row_loss: the compiled library has nothing that is called ", name);
}

Dense dense_of(const std::optional<Tensor>& tensor) {
  if (!tensor.has_value() || tensor->numel() == 0) return {};
  const Tensor& t = *tensor;
  return {{t.const_data_ptr(), type_of(t), t.stride(1), t.stride(2)}, t.stride(0)};
}

template <typename T>
const T* data_of(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? tensor->const_data_ptr<T>() : nullptr;
}

// Raises where a row that counts has a label, or keeps a class, that is none.
void check_classes(const RowLosses& given) {
  for (int64_t i = 0; i < given.samples; ++i) {
    if (given.weights[i] == 0.0f) continue;
    if (given.labels != nullptr)
      STD_TORCH_CHECK(given.labels[i] >= 0 && given.labels[i] < given.classes, "a label is outside 0..",
                      given.classes - 1);
    for (int64_t j = i * given.kept.count; j < (i + 1) * given.kept.count; ++j)
      STD_TORCH_CHECK(given.kept.classes[j] < given.classes, "a kept class is outside 0..", given.classes - 1);
  }
}

void row_loss(Tensor student, std::optional<Tensor> dense, std::optional<Tensor> kept, std::optional<Tensor> log_probs,
              std::optional<Tensor> log_rest, std::optional<Tensor> labels, std::optional<Tensor> shares,
              Tensor weights, Tensor numbers, std::string teacher, std::string divergence, bool tau_squared,
              bool capped, bool teacher_capped, Tensor losses, Tensor parts, Tensor ranks, Tensor gradient) {
  RowLosses given{};
  given.rows_of_batch = student.size(1);
  given.samples = student.size(0) * student.size(1);
  given.classes = student.size(2);
  given.student = dense_of(student);
  given.teacher_rows = dense_of(dense);
  given.shares = dense_of(shares);
  given.gradient = dense_of(gradient);
  given.kept = {data_of<int32_t>(kept), data_of<float>(log_probs), data_of<float>(log_rest),
                kept.has_value() ? kept->size(1) : 0};
  given.labels = data_of<int64_t>(labels);
  given.weights = weights.const_data_ptr<float>();
  given.numbers = numbers.const_data_ptr<float>();
  given.teacher = named<Teacher>(teacher, TEACHERS);
  given.divergence = named<Divergence>(divergence, DIVERGENCES);
  given.kind_of_labels = !labels.has_value() ? Labels::NONE
                         : shares.has_value() ? Labels::PROBABILITIES
                                              : Labels::CLASSES;
  given.tau_squared = tau_squared;
  given.capped = capped;
  given.teacher_capped = teacher_capped;
  given.losses = losses.mutable_data_ptr<float>();
  given.parts = parts.mutable_data_ptr<float>();
  given.ranks = ranks.mutable_data_ptr<int64_t>();
  check_classes(given);
  const auto kernel = FASTKD_BEST(row_losses);
  torch::stable::parallel_for(0, given.samples, 1 + WORTH_A_THREAD / (given.classes + 1),
                              [&](int64_t begin, int64_t end) { kernel(given, begin, end); });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastkd, CPU, m) { m.impl("_row_loss", TORCH_BOX(&row_loss)); }
