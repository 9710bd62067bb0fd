"""Losses of large vocabularies against plain PyTorch and torch.compile: python -m benchmarks.row_loss

KL and CE of N tokens with hit counts, forward and backward, bfloat16 on a GPU: from logits, and behind a linear layer
(`linear`, the teacher as a layer, too). `reference` is how it is usually written, with the logits of all tokens;
`compile` the same compiled, on a GPU; `triton` ours there, `cpu` what stands in for it on a CPU, in PyTorch.
"""

import argparse
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.timing import (
    Record,
    captured,
    commit,
    device_name,
    interleaved,
    peak_bytes,
    record_file,
    versions,
    write_json,
)
from fastkd.losses import KDLoss, LinearKDLoss, LinearTeacher

TEMPERATURE, KL_WEIGHT, CE_WEIGHT = 1.0, 0.5, 0.5
Loss = Callable[[list[Tensor], Tensor], Tensor]


class Case(NamedTuple):
    tokens: int
    classes: int
    dim: int
    """0: from logits."""

    def __str__(self) -> str:
        return f"N={self.tokens} K={self.classes}" + (f" D={self.dim} linear" if self.dim else "")


ON_GPU = [
    Case(8192, 32_000, 0),
    Case(4096, 128_256, 0),
    Case(4096, 151_936, 0),
    Case(2048, 256_000, 0),
    Case(8192, 32_000, 2048),
    Case(8192, 128_256, 4096),
]
ON_CPU = [Case(64, 8_000, 0), Case(256, 8_000, 64)]


def plain(tensors: list[Tensor], labels: Tensor) -> Tensor:
    student, teacher = tensors if len(tensors) == 2 else (tensors[0] @ tensors[1].t(), tensors[2] @ tensors[3].t())
    top5 = student.detach().topk(5, dim=1).indices == labels[:, None]
    top5[:, :1].any(1).sum(), top5.any(1).sum()
    target = F.softmax(teacher.detach().float() / TEMPERATURE, dim=1)
    kl = F.kl_div(F.log_softmax(student.float() / TEMPERATURE, dim=1), target, reduction="batchmean")
    return KL_WEIGHT * TEMPERATURE**2 * kl + CE_WEIGHT * F.cross_entropy(student.float(), labels)


def ours(linear: bool, device: str) -> Loss:
    kind = LinearKDLoss if linear else KDLoss
    loss = kind(temperature=TEMPERATURE, kl_weight=KL_WEIGHT, ce_weight=CE_WEIGHT).to(device)
    if linear:
        return lambda tensors, labels: loss(*tensors[:2], LinearTeacher(*tensors[2:]), labels).total
    return lambda tensors, labels: loss(tensors[0][None], tensors[1][None], labels[None]).total


def inputs(case: Case, device: str) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator(device).manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    shapes = [(case.tokens, case.dim), (case.classes, case.dim)] * 2 if case.dim else [(case.tokens, case.classes)] * 2
    tensors = [torch.randn(shape, generator=generator, device=device).to(dtype) for shape in shapes]
    for learner in tensors[: len(tensors) // 2]:
        learner.requires_grad_()
    return tensors, torch.randint(case.classes, (case.tokens,), generator=generator, device=device)


def step(loss: Loss, tensors: list[Tensor], labels: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    learners = [tensor for tensor in tensors if tensor.requires_grad]
    return lambda: torch.autograd.grad(loss(tensors, labels), learners)


def is_right(loss: Loss, case: Case, device: str) -> bool:
    """Against plain PyTorch in float64, on a few tokens."""
    tensors, labels = inputs(case._replace(tokens=16), device)
    exact = [tensor.detach().double().requires_grad_(tensor.requires_grad) for tensor in tensors]
    found, expected = step(loss, tensors, labels)(), step(plain, exact, labels)()
    tolerance = 3e-2 if device == "cuda" else 1e-4
    return all(
        bool((one - other).norm() <= tolerance * other.norm()) for one, other in zip(found, expected, strict=True)
    )


def measure(case: Case, capture: bool, repetitions: int, device: str) -> list[Record]:
    losses: dict[str, Loss] = {"reference": plain}
    if device == "cuda":
        losses["compile"] = torch.compile(plain, dynamic=False)
    losses["triton" if device == "cuda" else "cpu"] = ours(bool(case.dim), device)
    tensors, labels = inputs(case, device)
    calls, peaks = {}, {}
    for name, loss in losses.items():
        one = step(loss, tensors, labels)
        peaks[name] = peak_bytes(one, device)
        calls[name] = [captured(one) if capture else one]
    return [
        Record(
            benchmark="row_loss",
            contender=name,
            case=f"{case}" + (" captured" if capture else ""),
            device=device_name(device),
            median_s=timing.median_s,
            p20_s=timing.p20_s,
            p80_s=timing.p80_s,
            cpu_s=timing.cpu_s,
            peak_bytes=peaks[name],
            checked=is_right(losses[name], case, device),
            versions=versions(),
            commit=commit(),
        )
        for name, timing in interleaved(calls, repetitions, device).items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two shapes; under a minute on two cores")
    parser.add_argument("--json", type=record_file, metavar="FILE", help="write the records there")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cases = ON_GPU if device == "cuda" else ON_CPU
    records = []
    for case in [cases[-2], cases[-1]] if options.quick else cases:
        for capture in (False, True) if device == "cuda" else (False,):
            new = measure(case, capture, 5 if options.quick else 30, device)
            for record in new:
                memory = "" if record.peak_bytes is None else f"{record.peak_bytes / 2**20:9.1f} MiB"
                wrong = "" if record.checked else "  WRONG RESULT"
                print(
                    f"{record.case:40} {record.contender:18} {record.median_s * 1e3:10.3f} ms {memory}{wrong}",
                    flush=True,
                )
            records += new
            if options.json:  # after every case, so that one that fails loses nothing
                write_json(records, options.json)


if __name__ == "__main__":
    main()
