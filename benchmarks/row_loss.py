"""Losses of large vocabularies against plain PyTorch and torch.compile: python -m benchmarks.row_loss

KL and CE of N tokens with hit counts, forward and backward, bfloat16 on a GPU: from logits, and behind a linear layer
(`linear`, the teacher as a layer, too). `reference` is how it is usually written, with the logits of all tokens;
`compile` the same compiled, on a GPU; `triton` ours there, `cpu` ours on a CPU, `fallback` ours where nothing is
compiled. On a CPU every form is timed at shapes of smaller batches, too.

--host times what the host does for the Triton path in an eager loop, its launches left out, at N=1 K=2: without a GPU.
"""

import argparse
import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import row_forms
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
from fastkd.ops import select

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


def ours_by_path(loss: Callable) -> dict[str, Callable]:
    """Ours on a CPU: compiled where it is, and in PyTorch."""
    compiled = {"cpu": loss} if select.able("row_loss", "cpu", "cpu") else {}
    return compiled | {"fallback": in_pytorch(loss)}


def in_pytorch(loss: Callable) -> Callable:
    def call(*arguments):
        with forced("reference"):
            return loss(*arguments)

    return call


@contextlib.contextmanager
def forced(path: str) -> Iterator[None]:
    before = os.environ.get("FASTKD_OPS", "")
    os.environ["FASTKD_OPS"] = f"row_loss={path}"
    try:
        yield
    finally:
        os.environ["FASTKD_OPS"] = before


def measure(case: Case, capture: bool, repetitions: int, device: str) -> list[Record]:
    losses: dict[str, Loss] = {"reference": plain}
    own = ours(bool(case.dim), device)
    if device == "cuda":
        losses |= {"compile": torch.compile(plain, dynamic=False), "triton": own}
    else:
        losses |= ours_by_path(own)
    tensors, labels = inputs(case, device)
    calls = {name: step(loss, tensors, labels) for name, loss in losses.items()}
    peaks = {name: peak_bytes(call, device) for name, call in calls.items()}
    if capture:
        calls = {name: captured(call) for name, call in calls.items()}
    right = {name: is_right(loss, case, device) for name, loss in losses.items()}
    return records(f"{case}" + (" captured" if capture else ""), calls, right, peaks, repetitions, device)


def measure_form(form: str, samples: int, classes: int, repetitions: int) -> list[Record]:
    """A form on a CPU, forward and backward."""
    losses = {"reference": row_forms.plain(form), **ours_by_path(row_forms.ours(form))}
    given = row_forms.inputs(form, samples, classes)
    calls = {name: gradient_of_form(loss, given) for name, loss in losses.items()}
    exact = given.to(torch.float64)
    exact.student.requires_grad_()
    right = gradient_of_form(losses["reference"], exact)()
    close = {name: bool((call() - right).norm() <= 1e-4 * right.norm()) for name, call in calls.items()}
    case = f"N={samples} K={classes} {form}"
    return records(case, calls, close, dict.fromkeys(calls), repetitions, "cpu")


def gradient_of_form(loss: Callable, given: row_forms.Given) -> Callable[[], Tensor]:
    return lambda: torch.autograd.grad(loss(given), given.student)[0]


def records(
    case: str,
    calls: Mapping[str, Callable[[], object]],
    right: Mapping[str, bool],
    peaks: Mapping[str, int | None],
    repetitions: int,
    device: str,
) -> list[Record]:
    return [
        Record(
            benchmark="row_loss",
            contender=name,
            case=case,
            device=device_name(device),
            median_s=timing.median_s,
            p20_s=timing.p20_s,
            p80_s=timing.p80_s,
            cpu_s=timing.cpu_s,
            peak_bytes=peaks[name],
            checked=right[name],
            versions=versions(),
            commit=commit(),
        )
        for name, timing in interleaved({name: [call] for name, call in calls.items()}, repetitions, device).items()
    ]


def show(records: list[Record]) -> None:
    reference = records[0].cpu_s
    for record in records:
        memory = "" if record.peak_bytes is None else f"{record.peak_bytes / 2**20:9.1f} MiB"
        if record.device.startswith("cpu"):  # processor time: a shared machine's clock says little
            memory = f"cpu {record.cpu_s * 1e3:9.3f} ms {record.cpu_s / reference:6.2f} of the reference's"
        wrong = "" if record.checked else "  WRONG RESULT"
        print(
            f"{record.case:40} {record.contender:18} {record.median_s * 1e3:10.3f} ms {memory}{wrong}",
            flush=True,
        )


def show_host(repetitions: int) -> None:
    """What an eager call costs before and after the GPU's share: KD of one weighted row of two classes."""
    from fastkd.ops import row_loss
    from fastkd.ops.row_loss import launch  # imports Triton

    for name in ("fill", "scale_in_place"):
        setattr(launch, name, lambda *_arguments: None)
    own, written = row_forms.ours("kd"), row_forms.plain("kd")
    row_loss._path = lambda *_given: "triton"  # what a GPU would be given
    given = row_forms.inputs("kd", 1, 2)
    calls = {"reference": written, "triton, not launched": own}
    several: dict[str, Sequence[Callable[[], object]]] = {
        name: [repeated(gradient_of_form(loss, given))] for name, loss in calls.items()
    }
    timings = interleaved(several, repetitions, "cpu")
    for name, timing in timings.items():
        times, ratio = (timing.median_s, timing.p20_s, timing.p80_s), timing.cpu_s / timings["reference"].cpu_s
        median, p20, p80 = (seconds / AT_ONCE * 1e6 for seconds in times)
        print(f"host {name:22} {median:8.1f} us ({p20:.1f}-{p80:.1f}), {ratio:.2f} times the reference's cpu")


AT_ONCE = 100


def repeated(call: Callable[[], object]) -> Callable[[], None]:
    def calls() -> None:
        for _ in range(AT_ONCE):
            call()

    return calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two shapes; under a minute on two cores")
    parser.add_argument("--host", action="store_true", help="the Triton path's time on the host alone")
    parser.add_argument("--json", type=record_file, metavar="FILE", help="write the records there")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.host:
        show_host(20 if options.quick else 60)
        return
    repetitions = 5 if options.quick else 30
    cases = ON_GPU if device == "cuda" else ON_CPU
    words = [cases[-2], cases[-1]] if options.quick else cases
    jobs = [partial(measure, case, mode, repetitions, device) for case in words for mode in modes(device)]
    if device == "cpu":
        jobs += [
            partial(measure_form, form, *shape, repetitions) for form in row_forms.FORMS for shape in row_forms.SHAPES
        ]
    found = []
    for job in jobs:
        new = job()
        show(new)
        found += new
        if options.json:  # after every case, so that one that fails loses nothing
            write_json(found, options.json)


def modes(device: str) -> tuple[bool, ...]:
    """Whether a case is captured: both on a GPU."""
    return (False, True) if device == "cuda" else (False,)


if __name__ == "__main__":
    main()
