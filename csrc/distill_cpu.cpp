// The distillation losses on a CPU. fastkd/ops/distill_loss/reference.py is the definition, operation.py has the
// schemas, distill_rows.h the kernel.
//
// A task is so many rows; what tasks have summed is added in their order: no result depends on threads.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "distill.h"
#include "portable.h"
#include "types.h"

#define FASTKD_KERNELS "distill_rows.h"
#include "each_target.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using namespace fastkd;

constexpr int64_t ROWS = 16;                 // of a task
constexpr int64_t WORTH_A_THREAD = 1 << 15;  // numbers

int form_named(const std::string& name) {
  for (const auto& form : baseline::FORMS)
    if (name == form.traits.name) return static_cast<int>(&form - baseline::FORMS);
  STD_TORCH_CHECK(false, "distill_loss: the compiled library has no form ", name);
}

std::string forms() {
  std::string names;
  for (const auto& form : baseline::FORMS) names += std::string(names.empty() ? "" : ",") + form.traits.name;
  return names;
}

// A gradient without elements is one that nobody wants.
Gradient gradient_in(const Tensor& tensor) {
  return {tensor.numel() == 0 ? nullptr : tensor.mutable_data_ptr(), tensor.scalar_type() == ScalarType::BFloat16};
}

// How many rows count. Raises where a label is of no class.
int64_t counted_rows(const int64_t* labels, int64_t samples, int64_t classes, int64_t ignore_index) {
  int64_t counted = 0;
  for (int64_t i = 0; i < samples; ++i) {
    if (labels[i] == ignore_index) continue;
    STD_TORCH_CHECK(labels[i] >= 0 && labels[i] < classes, "a label is outside 0..", classes - 1);
    ++counted;
  }
  return counted;
}

void distill_loss(std::vector<Tensor> logits, std::vector<Tensor> gradients, Tensor labels, Tensor numbers,
                  std::optional<Tensor> shares, std::string form_name, bool detached, bool tau_squared,
                  int64_t ignore_index, Tensor total, Tensor parts, Tensor hits, Tensor correction) {
  const int form = form_named(form_name);
  const Traits& traits = baseline::FORMS[form].traits;
  const int64_t networks = static_cast<int64_t>(logits.size()), learning = traits.partners_learn ? networks : 1;
  const int64_t samples = logits[0].size(0), classes = logits[0].size(1);
  std::vector<Matrix> matrices;
  std::vector<Gradient> targets;
  for (const Tensor& one : logits)
    matrices.push_back({one.const_data_ptr(), type_of(one), one.stride(0), one.stride(1)});
  for (const Tensor& one : gradients) targets.push_back(gradient_in(one));
  const int64_t* const label = labels.const_data_ptr<int64_t>();
  const double counted = static_cast<double>(std::max<int64_t>(counted_rows(label, samples, classes, ignore_index), 1));
  const float* const number = numbers.const_data_ptr<float>();
  Distillation given{matrices.data(), targets.data(), networks, samples, classes, label, ignore_index, number,
                     nullptr, {0, 0}, detached, tau_squared, static_cast<float>(1 / counted)};
  if (shares.has_value()) {
    given.shares = shares->const_data_ptr<float>();
    given.share_strides[0] = shares->stride(0);
    given.share_strides[1] = shares->stride(1);
  }
  const int64_t tasks = (samples + ROWS - 1) / ROWS, numbers_of_task = ROWS * networks * classes;
  std::vector<Sums> sums(static_cast<size_t>(tasks));
  std::vector<int64_t> counts(static_cast<size_t>(tasks * 2 * learning));
  const auto rows = FASTKD_BEST(distill_rows);
  torch::stable::parallel_for(0, tasks, 1 + WORTH_A_THREAD / (numbers_of_task + 1), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      sums[i] = {0, 0, 0, counts.data() + i * 2 * learning};
      rows(given, form, i * ROWS, std::min((i + 1) * ROWS, samples), sums[i]);
    }
  });
  double part[3] = {0, 0, 0};
  int64_t* const hit = hits.mutable_data_ptr<int64_t>();
  std::fill(hit, hit + 2 * learning, 0);
  for (const Sums& task : sums) {
    part[0] += task.anchor_ce;
    part[1] += task.pair;
    part[2] += task.third;
    for (int64_t j = 0; j < 2 * learning; ++j) hit[j] += task.hits[j];
  }
  for (int j = 0; j < 3; ++j) parts.mutable_data_ptr<float>()[j] = static_cast<float>(part[j] / counted);
  double weighted = part[1] * number[PAIR_WEIGHT];
  if (traits.anchor_ce) weighted += part[0] * number[ANCHOR_CE_WEIGHT];
  if (traits.third_weight >= 0) weighted += part[2] * number[traits.third_weight];
  *total.mutable_data_ptr<float>() = static_cast<float>(weighted / counted);
  *correction.mutable_data_ptr<float>() = 1;  // the rows that count were counted before
}

// Multiplies in place; returns at once if that changes nothing, as after `loss.total.backward()`.
void distill_scale(std::vector<Tensor> gradients, Tensor scale) {
  const float by = *scale.const_data_ptr<float>();
  if (by == 1.0f) return;
  const auto kernel = FASTKD_BEST(scale);
  for (const Tensor& one : gradients) {
    const Gradient gradient = gradient_in(one);
    torch::stable::parallel_for(0, one.numel(), WORTH_A_THREAD, [&](int64_t begin, int64_t end) {
      kernel(gradient, begin, end, by);
    });
  }
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastkd, CPU, m) {
  m.impl("_distill_loss", TORCH_BOX(&distill_loss));
  m.impl("_distill_scale", TORCH_BOX(&distill_scale));
}

STABLE_TORCH_LIBRARY_IMPL(fastkd, CompositeExplicitAutograd, m) { m.impl("_distill_forms", TORCH_BOX(&forms)); }
