"""The fused distillation loss against plain PyTorch, torch.compile and Liger: python -m benchmarks.distill_loss

SFTN's loss with its hit counts, N branches; without branches KD's, from one teacher. `reference` is how distillation
code is usually written, `compile` the same compiled, `liger` log_softmax with Liger's KL and CE kernels where
liger-kernel is installed (it waits for the GPU and cannot be captured), `triton` ours on a GPU, `cpu` ours without one,
`fallback` ours where nothing is compiled.

--host times what the host does for the Triton path in an eager loop, its launches left out, at B=1 K=2: without a GPU.
"""

import argparse
import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.timing import (
    Record,
    captured,
    commit,
    device_name,
    input_sets,
    interleaved,
    peak_bytes,
    record_file,
    versions,
    write_json,
)
from fastkd.losses import KDLoss, SFTNLoss
from fastkd.ops import distill_loss, select

TEMPERATURE, TEACHER_WEIGHT, KL_WEIGHT, CE_WEIGHT = 4.0, 1.0, 3.0, 1.0
Loss = Callable[[Tensor, list[Tensor], Tensor], Tensor]


class Case(NamedTuple):
    samples: int
    classes: int
    branches: int
    dtype: torch.dtype

    @property
    def networks(self) -> int:
        """KD has a student and its teacher."""
        return 1 + max(self.branches, 1)

    def least_bytes(self, backward: bool) -> int:
        """Each logit read once, each gradient written once."""
        written = (self.branches + 1) if backward else 0
        return (self.networks + written) * self.samples * self.classes * self.dtype.itemsize

    def __str__(self) -> str:
        form = f"N={self.branches}" if self.branches else "KD"
        return f"B={self.samples} K={self.classes} {form} {str(self.dtype).removeprefix('torch.')}"


FP32, BF16 = torch.float32, torch.bfloat16
ON_GPU = [
    Case(64, 100, 3, FP32),
    Case(256, 100, 3, FP32),
    Case(4096, 100, 3, FP32),
    Case(256, 1000, 3, BF16),
    Case(1024, 1000, 3, BF16),
    Case(1024, 1000, 3, FP32),
    Case(4096, 1000, 3, BF16),
    Case(4096, 1000, 3, FP32),
    Case(1024, 21841, 4, BF16),
    Case(4096, 21841, 4, BF16),
]
KD_ON_CPU = [Case(*shape, 0, FP32) for shape in ((64, 10), (64, 100), (256, 1000), (1024, 100), (1024, 1000))]
ON_CPU = [
    *KD_ON_CPU,
    Case(64, 100, 3, FP32),
    Case(256, 1000, 1, FP32),
    Case(256, 1000, 3, FP32),
    Case(1024, 1000, 3, FP32),
]
FORWARD, STEP = "forward", "forward+backward"
QUICK = {
    "cuda": [(ON_GPU[0], STEP), (ON_GPU[4], STEP), (ON_GPU[7], STEP), (ON_GPU[7], FORWARD)],
    "cpu": [*((case, STEP) for case in KD_ON_CPU), (Case(64, 100, 3, FP32), STEP), (Case(64, 100, 3, FP32), FORWARD)],
}


def hits(logits: Tensor, labels: Tensor) -> Tensor:
    top5 = logits.detach().topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
    return torch.stack([top5[:, :1].any(1).sum(), top5.any(1).sum()])


def plain(teacher: Tensor, branches: list[Tensor], labels: Tensor) -> Tensor:
    hits(teacher, labels)
    total = TEACHER_WEIGHT * F.cross_entropy(teacher.float(), labels)
    target = F.softmax(teacher.float() / TEMPERATURE, dim=1)
    for branch in branches:
        hits(branch, labels)
        log_q = F.log_softmax(branch.float() / TEMPERATURE, dim=1)
        kl = F.kl_div(log_q, target, reduction="batchmean") * TEMPERATURE**2
        total = total + (KL_WEIGHT * kl + CE_WEIGHT * F.cross_entropy(branch.float(), labels)) / len(branches)
    return total


def plain_kd(student: Tensor, teachers: list[Tensor], labels: Tensor) -> Tensor:
    hits(student, labels)
    target = F.softmax(teachers[0].float() / TEMPERATURE, dim=1)
    kl = F.kl_div(F.log_softmax(student.float() / TEMPERATURE, dim=1), target, reduction="batchmean")
    return CE_WEIGHT * F.cross_entropy(student.float(), labels) + KL_WEIGHT * TEMPERATURE**2 * kl


def liger() -> Loss:
    from liger_kernel.transformers import (  # pyright: ignore[reportMissingImports]
        LigerCrossEntropyLoss,
        LigerKLDIVLoss,
    )

    cross_entropy, kl_div = LigerCrossEntropyLoss(), LigerKLDIVLoss(reduction="batchmean")

    def loss(teacher: Tensor, branches: list[Tensor], labels: Tensor) -> Tensor:
        hits(teacher, labels)
        total = TEACHER_WEIGHT * cross_entropy(teacher.clone(), labels)  # it overwrites the logits
        target = F.softmax(teacher.float() / TEMPERATURE, dim=1)
        for branch in branches:
            hits(branch, labels)
            kl = kl_div(F.log_softmax(branch.float() / TEMPERATURE, dim=1), target) * TEMPERATURE**2
            ce = cross_entropy(branch.clone(), labels)
            total = total + (KL_WEIGHT * kl + CE_WEIGHT * ce) / len(branches)
        return total

    return loss


def ours(device: str, case: Case) -> Loss:
    if case.branches:
        module = SFTNLoss(
            temperature=TEMPERATURE, teacher_weight=TEACHER_WEIGHT, kl_weight=KL_WEIGHT, ce_weight=CE_WEIGHT
        ).to(device)
        return lambda teacher, branches, labels: module(teacher, branches, labels).total
    module = KDLoss(temperature=TEMPERATURE, kl_weight=KL_WEIGHT, ce_weight=CE_WEIGHT).to(device)
    return lambda student, teachers, labels: module(student, teachers[0], labels).total


def forced(implementation: str, loss: Loss) -> Loss:
    def computed(*arguments) -> Tensor:
        with forcing(implementation):
            return loss(*arguments)

    return computed


@contextlib.contextmanager
def forcing(implementation: str) -> Iterator[None]:
    os.environ["FASTKD_OPS"] = f"distill_loss={implementation}"
    try:
        yield
    finally:
        del os.environ["FASTKD_OPS"]


def contenders(device: str, case: Case) -> dict[str, Loss]:
    usual: Loss = plain if case.branches else plain_kd
    losses: dict[str, Loss] = {"reference": usual, "compile": torch.compile(usual, dynamic=False)}
    if device == "cpu":
        if select.able("distill_loss", "cpu", device):
            losses["cpu"] = ours(device, case)
        losses["fallback"] = forced("reference", ours(device, case))
        return losses
    losses["triton"] = ours(device, case)
    if case.branches and importlib.util.find_spec("liger_kernel"):
        losses["liger"] = liger()
    return losses


def inputs(case: Case, seed: int, device: str) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator(device).manual_seed(seed)
    shape = (case.samples, case.classes)
    logits = [3 * torch.randn(shape, generator=generator, device=device) for _ in range(case.networks)]
    labels = torch.randint(case.classes, shape[:1], generator=generator, device=device)
    learning = 1 + case.branches
    return [tensor.to(case.dtype).requires_grad_(i < learning) for i, tensor in enumerate(logits)], labels


def step(loss: Loss, logits: list[Tensor], labels: Tensor, backward: bool) -> Callable[[], object]:
    if backward:
        learning = [tensor for tensor in logits if tensor.requires_grad]
        return lambda: torch.autograd.grad(loss(logits[0], logits[1:], labels), learning)
    detached = [tensor.detach() for tensor in logits]
    return lambda: loss(detached[0], detached[1:], labels)


def check(name: str, loss: Loss, case: Case, device: str) -> bool:
    """Values and gradients against float64. Liger's KL sends none to its target."""
    logits, labels = inputs(case, 0, device)
    exact = [tensor.detach().double().requires_grad_(tensor.requires_grad) for tensor in logits]
    in_float64 = exact_loss if case.branches else plain_kd_in_float64
    value, exact_value = loss(logits[0], logits[1:], labels), in_float64(exact[0], exact[1:], labels)
    learning = 1 + case.branches
    found = torch.autograd.grad(value, logits[:learning])
    expected = torch.autograd.grad(exact_value, exact[:learning])
    tolerance = 1e-4 if case.dtype == FP32 else 1e-2
    close = [(value - exact_value).abs() <= tolerance * exact_value.abs()]
    for gradient, reference in list(zip(found, expected, strict=True))[1 if name == "liger" else 0 :]:
        close.append((gradient - reference).norm() <= tolerance * reference.norm())
    return all(bool(one) for one in close)


def exact_loss(teacher: Tensor, branches: list[Tensor], labels: Tensor) -> Tensor:
    log_t, total = F.log_softmax(teacher / TEMPERATURE, 1), TEACHER_WEIGHT * F.cross_entropy(teacher, labels)
    for branch in branches:
        log_q = F.log_softmax(branch / TEMPERATURE, 1)
        kl = (log_t.exp() * (log_t - log_q)).sum(1).mean() * TEMPERATURE**2
        total = total + (KL_WEIGHT * kl + CE_WEIGHT * F.cross_entropy(branch, labels)) / len(branches)
    return total


def plain_kd_in_float64(student: Tensor, teachers: list[Tensor], labels: Tensor) -> Tensor:
    log_p, log_q = (F.log_softmax(logits / TEMPERATURE, 1) for logits in (teachers[0], student))
    kl = (log_p.exp() * (log_p - log_q)).sum(1).mean() * TEMPERATURE**2
    return KL_WEIGHT * kl + CE_WEIGHT * F.cross_entropy(student, labels)


def copy_bandwidth() -> float:
    """Bytes read and written in a second by a device-to-device copy."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / interleaved({"copy": [lambda: target.copy_(source)]}, 20, "cuda")["copy"].median_s


def measure(
    case: Case, mode: str, capture: bool, repetitions: int, device: str, bandwidth: float | None
) -> list[Record]:
    backward = mode != FORWARD
    calls, peaks, checked = {}, {}, {}
    sets = [inputs(case, seed, device) for seed in range(input_sets(case.least_bytes(False), device))]
    for name, loss in contenders(device, case).items():
        if capture and name == "liger":
            continue
        checked[name] = check(name, loss, case, device)
        steps = [step(loss, logits, labels, backward) for logits, labels in sets]
        peaks[name] = peak_bytes(steps[0], device)
        calls[name] = [captured(one) for one in steps] if capture else steps
    label = f"{case} {mode}" + (" captured" if capture else "")
    return [
        Record(
            benchmark="distill_loss",
            contender=name,
            case=label,
            device=device_name(device),
            median_s=timing.median_s,
            p20_s=timing.p20_s,
            p80_s=timing.p80_s,
            cpu_s=timing.cpu_s,
            peak_bytes=peaks[name],
            checked=checked[name],
            versions=versions("liger-kernel"),
            commit=commit(),
            bandwidth_share=bandwidth and case.least_bytes(backward) / timing.median_s / bandwidth,
        )
        for name, timing in interleaved(calls, repetitions, device).items()
    ]


def show_host(repetitions: int) -> None:
    """What an eager call costs before and after the GPU's share: KD of one row of two classes, both directions."""
    from fastkd.ops.distill_loss import launch  # imports Triton

    class NotLaunched:
        def __getitem__(self, _grid):
            return lambda *_arguments, **_options: None

    for kernel in ("rows_kernel", "finish_kernel", "scale_kernel"):
        setattr(launch, kernel, NotLaunched())
    distill_loss._path = lambda *_given: "triton"  # what a GPU would be given
    case = Case(1, 2, 0, FP32)
    logits, labels = inputs(case, 0, "cpu")
    losses = {"reference": plain_kd, "triton, not launched": ours("cpu", case)}
    calls: dict[str, Sequence[Callable[[], object]]] = {
        name: [several(step(loss, logits, labels, True))] for name, loss in losses.items()
    }
    timings = {name: timing.per(AT_ONCE) for name, timing in interleaved(calls, repetitions, "cpu").items()}
    for name, timing in timings.items():
        times = f"{timing.median_s * 1e6:8.1f} us ({timing.p20_s * 1e6:.1f}-{timing.p80_s * 1e6:.1f})"
        ratio = timing.cpu_s / timings["reference"].cpu_s
        print(f"{case} host  {name:22} {times:32} cpu {timing.cpu_s * 1e6:8.1f} us, {ratio:.2f} times the reference's")


AT_ONCE = 100


def several(call: Callable[[], object]) -> Callable[[], None]:
    def calls() -> None:
        for _ in range(AT_ONCE):
            call()

    return calls


def show(records: list[Record]) -> None:
    reference = records[0]
    for record in records:
        share = "" if record.bandwidth_share is None else f"{record.bandwidth_share:6.1%} of copy bandwidth"
        memory = "" if record.peak_bytes is None else f"{record.peak_bytes / 2**20:9.1f} MiB"
        times = f"{record.median_s * 1e6:10.1f} us ({record.p20_s * 1e6:.1f}-{record.p80_s * 1e6:.1f})"
        ratio = f"{reference.median_s / record.median_s:6.2f}x"
        if record.device.startswith("cpu"):  # processor time: a shared machine's clock says little
            ratio += f"  cpu {record.cpu_s * 1e6:9.1f} us {reference.cpu_s / record.cpu_s:6.2f}x"
        wrong = "" if record.checked else "  WRONG RESULT"
        print(f"{record.case:52} {record.contender:10} {times:36} {ratio} {memory} {share}{wrong}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="fewer shapes and repetitions; under a minute on two cores"
    )
    parser.add_argument("--host", action="store_true", help="the Triton path's time on the host alone")
    parser.add_argument("--json", type=record_file, metavar="FILE", help="write the records there")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    every = [(case, mode) for case in (ON_GPU if device == "cuda" else ON_CPU) for mode in (FORWARD, STEP)]
    bandwidth = copy_bandwidth() if device == "cuda" else None
    print(device_name(device), versions("liger-kernel"))
    if bandwidth:
        print(f"copy bandwidth {bandwidth / 1e12:.2f} TB/s")
    if options.host:
        show_host(20 if options.quick else 60)
        return
    records = []
    for case, mode in QUICK[device] if options.quick else every:
        for capture in (False, True) if device == "cuda" else (False,):
            new = measure(case, mode, capture, 20 if options.quick else 60, device, bandwidth)
            show(new)
            records += new
            if options.json:  # after every case, so that one that fails loses nothing
                write_json(records, options.json)
    if not all(record.checked for record in records):
        raise SystemExit("a contender's result is wrong")


if __name__ == "__main__":
    main()
