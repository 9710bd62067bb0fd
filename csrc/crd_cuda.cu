// The CRD memory bank on a GPU: launches. fastkd/ops/crd/reference.py is the definition, operation.py has the schemas.

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <type_traits>

#include "gather.cuh"
#include "inputs.h"
#include "marks.cuh"
#include "update.cuh"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using namespace fastkd;

constexpr int64_t WANTED_BLOCKS = 4096;  // enough for some waves on a large GPU

cudaStream_t stream_of(const Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

void check_launch() {
  const cudaError_t error = cudaGetLastError();
  STD_TORCH_CHECK(error == cudaSuccess, "crd: ", cudaGetErrorString(error));
}

Draws plan(const Tensor& rows, const std::optional<Tensor>& chosen, const Tensor& starts, const Tensor& step, int64_t n,
           int64_t negatives, int64_t seed, int64_t first_place, bool replacement, bool relaxed, bool scarce) {
  const uint64_t key = static_cast<uint64_t>(seed);
  return {rows.const_data_ptr<int64_t>(),
          chosen.has_value() ? chosen->const_data_ptr<int64_t>() : nullptr,
          starts.const_data_ptr<int64_t>(),
          step.const_data_ptr<int64_t>(),
          starts.size(0) - 1,
          n,
          negatives,
          first_place,
          static_cast<uint32_t>(key),
          static_cast<uint32_t>(key >> 32),
          replacement,
          relaxed,
          scarce};
}

template <typename T, int V, int PIECES, int ROWS>
void launch_gather(const Pass& pass, cudaStream_t stream) {
  gather<T, V, PIECES, ROWS><<<dim3(pass.splits, pass.samples), THREADS, 0, stream>>>(pass);
}

void launch_gather(const Pass& pass, bool narrow, cudaStream_t stream) {
  const int dim = pass.dim;
  if (narrow) {
    if (dim % 8 != 0 && dim <= 128)
      launch_gather<__nv_bfloat16, 1, 8, 4>(pass, stream);
    else if (dim % 8 != 0)
      launch_gather<__nv_bfloat16, 1, 16, 2>(pass, stream);
    else if (dim <= 128)
      launch_gather<__nv_bfloat16, 8, 1, 8>(pass, stream);
    else
      launch_gather<__nv_bfloat16, 8, 2, 8>(pass, stream);
  } else {
    if (dim % 4 != 0 && dim <= 128)
      launch_gather<float, 1, 8, 4>(pass, stream);
    else if (dim % 4 != 0)
      launch_gather<float, 1, 16, 2>(pass, stream);
    else if (dim <= 64)
      launch_gather<float, 4, 1, 8>(pass, stream);
    else if (dim <= 128)
      launch_gather<float, 4, 2, 8>(pass, stream);
    else
      launch_gather<float, 4, 4, 4>(pass, stream);
  }
}

Pass prepare(const Tensor& student, const Tensor& teacher, const Tensor& bank, const Draws& draws, const Tensor& z,
             const Tensor& numbers, bool measures) {
  const int64_t samples = student.size(0), dim = student.size(1);
  STD_TORCH_CHECK(dim <= 256, "crd: the gather takes up to 256 dimensions, got ", dim);
  const int64_t tiles = (draws.negatives + TILE) / TILE, most = (tiles + WARPS - 1) / WARPS;
  const int64_t wanted = samples > 0 ? (WANTED_BLOCKS + samples - 1) / samples : 1;
  const int64_t splits = wanted < most ? wanted : most;
  return {draws,
          student.const_data_ptr<float>(),
          teacher.const_data_ptr<float>(),
          bank.const_data_ptr(),
          z.const_data_ptr<float>(),
          numbers.const_data_ptr<float>(),
          static_cast<int>(samples),
          static_cast<int>(dim),
          static_cast<int>(splits),
          measures,
          nullptr,
          nullptr};
}

bool is_narrow(const Tensor& bank) { return bank.scalar_type() == ScalarType::BFloat16; }

void crd_loss(FASTKD_CRD_INPUTS, Tensor total, Tensor sides, Tensor student_gradient, Tensor teacher_gradient) {
  const torch::stable::accelerator::DeviceGuard guard(student.get_device_index());
  const cudaStream_t stream = stream_of(student);
  const Draws draws =
      plan(rows, chosen, starts, step, bank.size(0), negatives, seed, first_place, replacement, relaxed, scarce);
  Pass pass = prepare(student, teacher, bank, draws, z, numbers, false);
  const Tensor gradients = torch::stable::new_empty(student, {pass.samples, pass.splits, 2, pass.dim});
  const Tensor sums = torch::stable::new_empty(student, {pass.samples, pass.splits, 2});
  pass.gradients = gradients.mutable_data_ptr<float>();
  pass.sums = sums.mutable_data_ptr<float>();
  if (pass.samples > 0) launch_gather(pass, is_narrow(bank), stream);
  finish<<<pass.samples + 1, THREADS, 0, stream>>>(
      pass, total.mutable_data_ptr<float>(), sides.mutable_data_ptr<float>(), student_gradient.mutable_data_ptr<float>(),
      teacher_gradient.mutable_data_ptr<float>());
  check_launch();
}

void crd_normaliser(FASTKD_CRD_INPUTS, Tensor out) {
  const torch::stable::accelerator::DeviceGuard guard(student.get_device_index());
  const cudaStream_t stream = stream_of(student);
  const Draws draws =
      plan(rows, chosen, starts, step, bank.size(0), negatives, seed, first_place, replacement, relaxed, scarce);
  Pass pass = prepare(student, teacher, bank, draws, z, numbers, true);
  const Tensor sums = torch::stable::new_empty(student, {pass.samples, pass.splits, 2});
  pass.sums = sums.mutable_data_ptr<float>();
  if (pass.samples > 0) launch_gather(pass, is_narrow(bank), stream);
  finish_normaliser<<<1, THREADS, 0, stream>>>(pass, out.mutable_data_ptr<float>());
  check_launch();
}

void crd_update(Tensor bank, Tensor z, Tensor step, Tensor rows, Tensor student, Tensor teacher, Tensor new_z,
                Tensor numbers) {
  const torch::stable::accelerator::DeviceGuard guard(bank.get_device_index());
  const cudaStream_t stream = stream_of(bank);
  const int samples = static_cast<int>(rows.size(0)), dim = static_cast<int>(student.size(1));
  if (samples == 0) return;
  const auto launch = [&](auto* data) {
    using T = std::remove_pointer_t<decltype(data)>;
    update<T><<<samples, UPDATE_THREADS, 0, stream>>>(
        data, z.mutable_data_ptr<float>(), step.mutable_data_ptr<int64_t>(), rows.const_data_ptr<int64_t>(),
        student.const_data_ptr<float>(), teacher.const_data_ptr<float>(), new_z.const_data_ptr<float>(),
        numbers.const_data_ptr<float>(), samples, dim, bank.size(0));
  };
  void* const data = bank.mutable_data_ptr();
  if (is_narrow(bank))
    launch(static_cast<__nv_bfloat16*>(data));
  else
    launch(static_cast<float*>(data));
  check_launch();
}

void crd_draw(Tensor rows, FASTKD_DRAW_PLAN, int64_t n, Tensor out) {
  const torch::stable::accelerator::DeviceGuard guard(rows.get_device_index());
  const Draws draws = plan(rows, std::nullopt, starts, step, n, negatives, seed, first_place, replacement, relaxed, scarce);
  const unsigned samples = static_cast<unsigned>(rows.size(0)), tiles = static_cast<unsigned>((negatives + TILE) / TILE);
  if (samples > 0) draw<<<dim3(tiles, samples), 32, 0, stream_of(rows)>>>(draws, out.mutable_data_ptr<int64_t>());
  check_launch();
}

void crd_mark(Tensor rows, FASTKD_DRAW_PLAN, int64_t n, Tensor bits, Tensor positives) {
  const torch::stable::accelerator::DeviceGuard guard(rows.get_device_index());
  const Draws draws = plan(rows, std::nullopt, starts, step, n, negatives, seed, first_place, replacement, relaxed, scarce);
  const int words = static_cast<int>(bits.size(1)), most = words < MARKED_WORDS ? words : MARKED_WORDS;
  const unsigned samples = static_cast<unsigned>(rows.size(0)), parts = (words + MARKED_WORDS - 1) / MARKED_WORDS;
  if (samples > 0)
    mark<<<dim3(samples, parts), MARKING_THREADS, most * sizeof(uint32_t), stream_of(rows)>>>(
        draws, words, reinterpret_cast<uint32_t*>(bits.mutable_data_ptr<int32_t>()),
        positives.mutable_data_ptr<int64_t>());
  check_launch();
}

void interface(Tensor) {}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastkd, CUDA, m) {
  m.impl("_crd_loss", TORCH_BOX(&crd_loss));
  m.impl("_crd_normaliser", TORCH_BOX(&crd_normaliser));
  m.impl("_crd_update", TORCH_BOX(&crd_update));
  m.impl("_crd_draw", TORCH_BOX(&crd_draw));
  m.impl(FASTKD_INTERFACE, TORCH_BOX(&interface));
  m.impl("_crd_mark", TORCH_BOX(&crd_mark));
}
