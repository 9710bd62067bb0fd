"""The CRD memory bank against the usual formulation: python -m benchmarks.crd

One step: loss, gradients of both embeddings, update of the bank, at the shapes of CIFAR-100 and ImageNet, and the draws
of a batch by themselves. `reference` is how CRD code is written (index_select, bmm, exp, autograd, index_copy_; written
anew here) on rows drawn beforehand; its sampler is numpy's choice for every sample. Ours draw for themselves: `gather`
and `dense` on a GPU, `cpu_tiles` and `cpu` without one (FASTKD_CPU limits their instruction set), `fallback` where
nothing is compiled, each with a bank of fp32 or bf16.
"""

import argparse
import ctypes
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.timing import (
    Record,
    Timing,
    captured,
    commit,
    device_name,
    interleaved,
    peak_bytes,
    record_file,
    versions,
    write_json,
)
from fastkd.ops import crd, select
from fastkd.ops.crd import Contrast, DrawPlan, Inputs

TEMPERATURE, MOMENTUM = 0.07, 0.5
Call = Callable[[], tuple[Tensor, ...]]
Calls = Sequence[Callable[[], object]]
"""One contender's, over several inputs."""


class Case(NamedTuple):
    name: str
    rows: int
    samples: int
    negatives: int
    classes: int
    replacement: bool
    dim: int = 128

    def least_bytes(self, dtype: torch.dtype, dense: bool) -> int:
        """Rows read once for every draw, or once altogether; both halves."""
        rows = self.rows if dense else self.samples * (self.negatives + 1)
        return rows * 2 * self.dim * dtype.itemsize

    def __str__(self) -> str:
        return f"{self.name}: n={self.rows} B={self.samples} K={self.negatives} D={self.dim}"


CIFAR = Case("CIFAR-100", 50_000, 64, 16_384, 100, replacement=False)
IMAGENET = Case("ImageNet", 1_281_167, 256, 16_384, 1000, replacement=True)
IMAGENET_64 = Case("ImageNet, small batch", 1_281_167, 64, 16_384, 1000, replacement=True)
BANDWIDTH = {"cuda": 4.3e12}
"""Bytes a second that an H200 copies; only for the column that sets bytes against it."""


class Problems(NamedTuple):
    bank: Tensor
    batches: list[Contrast]
    chosen: list[Tensor]
    """The same rows as the batches draw for themselves, for the reference."""


def inputs(case: Case, device: str, sets: int) -> Problems:
    generator = torch.Generator().manual_seed(0)
    width = (3 / case.dim) ** 0.5
    bank = torch.empty(case.rows, 2, case.dim).uniform_(-width, width, generator=generator).to(device)
    starts = torch.linspace(0, case.rows, case.classes + 1, dtype=torch.float64).long().to(device)
    batches, chosen = [], []
    for step in range(sets):
        student, teacher = torch.randn(2, case.samples, case.dim, generator=generator).to(device)
        student, teacher = (torch.nn.functional.normalize(t, dim=1).requires_grad_() for t in (student, teacher))
        rows = torch.randint(case.rows, (case.samples,), generator=generator).to(device)
        plan = DrawPlan(
            starts,
            torch.tensor(step, device=device),
            case.negatives,
            7,
            0,
            case.replacement,
            relaxed=False,
            scarce=case.rows - case.rows // case.classes - 1 < case.negatives,
        )
        batches.append(Contrast(student, teacher, rows, None, plan))
        path = crd.implementation(bank, case.samples, case.negatives)[0]
        chosen.append(crd.draw(rows, case.rows, plan, path))
    return Problems(bank, batches, chosen)


def plain_side(anchor_BD: Tensor, bank_nD: Tensor, chosen_BK: Tensor, z: Tensor) -> Tensor:
    samples, columns = chosen_BK.shape
    rows, dim = bank_nD.shape
    gathered = bank_nD.index_select(0, chosen_BK.flatten()).detach().view(samples, columns, dim)
    share = (torch.bmm(gathered, anchor_BD.view(samples, dim, 1)) / TEMPERATURE).exp() / z
    noise, eps = (columns - 1) / rows, 1e-7
    positive = (share[:, 0] / (share[:, 0] + noise + eps)).log().sum(0)
    negatives = share[:, 1:]
    negative = (torch.full_like(negatives, noise) / (negatives + noise + eps)).log().sum(0).sum(0)
    return -(positive + negative) / samples


def plain_step(bank_1: Tensor, bank_2: Tensor, batch: Contrast, chosen_BK: Tensor, z: Tensor) -> tuple[Tensor, ...]:
    """The student's bank and the teacher's are two tensors, as in the code that is around."""
    total = plain_side(batch.student_BD, bank_2, chosen_BK, z[0]) + plain_side(
        batch.teacher_BD, bank_1, chosen_BK, z[1]
    )
    gradients = torch.autograd.grad(total, batch[:2])
    with torch.no_grad():
        for bank, embedding in ((bank_1, batch.student_BD), (bank_2, batch.teacher_BD)):
            moved = bank.index_select(0, batch.rows_B) * MOMENTUM + embedding * (1 - MOMENTUM)
            bank.index_copy_(0, batch.rows_B, moved / moved.pow(2).sum(1, keepdim=True).sqrt())
    return total.detach(), *gradients


def our_step(bank: Tensor, z: Tensor, step: Tensor, batch: Contrast, numbers: Tensor, path: str) -> tuple[Tensor, ...]:
    known, scaled = crd.prepare(Inputs(batch, bank, z, numbers), path)
    total = crd.loss(Inputs(batch, bank, known, numbers), path, scaled=scaled).total
    gradients = torch.autograd.grad(total, batch[:2])
    student, teacher = batch.student_BD.detach(), batch.teacher_BD.detach()
    crd.update_(bank, z, step, batch.rows_B, student, teacher, known, numbers, path)
    return total.detach(), *gradients


def paths(case: Case, device: str) -> list[str]:
    able = [name for name in select.OPERATIONS["crd"] if select.able("crd", name, device)]
    # Nobody would choose tiles of a large bank, nor the fallback, which gathers as the reference does on a GPU.
    never = ("cpu_tiles", "reference") if case.rows >= 10**6 else () if device == "cpu" else ("reference",)
    return [name for name in able if name not in never]


def contenders(case: Case, given: Problems, device: str) -> dict[str, list[Call]]:
    z = torch.full((2,), 2.2 * case.rows, device=device)
    numbers = torch.tensor((TEMPERATURE, MOMENTUM), device=device)
    banks = [given.bank[:, side].contiguous() for side in range(2)]
    calls: dict[str, list[Call]] = {
        "reference": [
            lambda b=batch, c=chosen: plain_step(banks[0], banks[1], b, c, z)
            for batch, chosen in zip(given.batches, given.chosen, strict=True)
        ]
    }
    for path in paths(case, device):
        for dtype, short in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
            name = f"{'fallback' if path == 'reference' else path} {short}"
            bank = given.bank.to(dtype, copy=True)
            state = (bank, z.clone(), torch.zeros((), dtype=torch.int64, device=device))
            calls[name] = [lambda s=state, b=batch, p=path: our_step(*s, b, numbers, p) for batch in given.batches]
    return calls


def check(calls: dict[str, list[Call]]) -> dict[str, bool]:
    """Loss and gradients of each contender against the reference; a bank of bfloat16 is a rounded one."""
    expected = calls["reference"][0]()  # every contender's first call finds its bank as it was at the start
    checked = {"reference": True}
    for name, (first, *_) in list(calls.items())[1:]:
        tolerance = 5e-2 if name.endswith("bf16") else 1e-4
        checked[name] = all(
            bool((ours - theirs).norm() <= tolerance * theirs.norm())
            for ours, theirs in zip(first(), expected, strict=True)
        )
    return checked


def samplers(case: Case, given: Problems, device: str) -> dict[str, Calls]:
    """The draws of one batch: numpy's as the reference uses it, and for what it costs at its best; ours."""
    others = np.arange(case.rows - case.rows // case.classes)
    generator = np.random.default_rng(0)
    path = next(iter(paths(case, device)))
    calls: dict[str, Calls] = {
        "numpy choice": [
            lambda: [np.random.choice(others, case.negatives, replace=False) for _ in range(case.samples)]
        ],
        "numpy integers": [lambda: [generator.integers(0, len(others), case.negatives) for _ in range(case.samples)]],
    }
    for replacement in (False, True):
        name = f"{path} {'with' if replacement else 'without'} replacement"
        calls[name] = [
            lambda b=batch, r=replacement: crd.draw(b.rows_B, case.rows, b.plan._replace(replacement=r), path)
            for batch in given.batches
        ]
    return calls


def extra_bytes(call: Callable[[], object], device: str) -> int | None:
    """The most memory that one call takes on top of what stood before it: of the process, on a CPU."""
    if device == "cuda":
        return peak_bytes(call, device)
    call()
    release_free_memory()
    before, most, done = resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.is_set():
            most = max(most, resident() - before)
            time.sleep(0.0005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(5):
        call()
    done.set()
    watcher.join()
    return max(most, 0)


def release_free_memory() -> None:
    """What the process keeps of earlier calls would hide what this one needs."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def resident() -> int:
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096
    except OSError:
        return 0


def show(case: Case, timings: dict[str, Timing], memory: dict[str, int | None], against: str, device: str) -> None:
    print(f"\n{case}, {device_name(device)}")
    print(f"{'':28}{'median ms':>10}{'p20':>9}{'p80':>9}{'CPU ms':>9}{'ratio':>8}{'extra MB':>10}{'of bandwidth':>14}")
    base = timings[against].median_s
    for name, timing in timings.items():
        path, _, short = name.partition(" ")
        extra = memory.get(name)
        dtype = torch.bfloat16 if short == "bf16" else torch.float32
        reads = case.least_bytes(dtype, path == "dense") if short in ("fp32", "bf16") else 0
        share = reads / timing.median_s / BANDWIDTH[device] if device in BANDWIDTH and reads else None
        columns = (timing.median_s, timing.p20_s, timing.p80_s, timing.cpu_s)
        line = f"{name:28}" + "".join(f"{1000 * c:{10 if i == 0 else 9}.2f}" for i, c in enumerate(columns))
        line += f"{base / timing.median_s:7.1f}x" + (f"{extra / 1e6:10.1f}" if extra is not None else " " * 10)
        print(line + (f"{share:13.0%}" if share is not None else ""))


def records(
    benchmark: str,
    case: Case,
    timings: dict[str, Timing],
    memory: dict[str, int | None],
    checked: dict[str, bool],
    device: str,
) -> list[Record]:
    return [
        Record(
            benchmark,
            name,
            str(case),
            device_name(device),
            timing.median_s,
            timing.p20_s,
            timing.p80_s,
            timing.cpu_s,
            memory.get(name),
            checked.get(name, False),
            versions(),
            commit(),
        )
        for name, timing in timings.items()
    ]


def measure(case: Case, device: str, repetitions: int) -> list[Record]:
    given = inputs(case, device, 3)
    calls = contenders(case, given, device)
    checked = check(calls)
    for name, good in checked.items():
        if not good:
            print(f"{name} does not agree with the reference at {case}: not timed")
            del calls[name]
    memory = {name: extra_bytes(several[0], device) for name, several in calls.items()}
    timings = interleaved(dict(calls.items()), repetitions, device)
    show(case, timings, memory, "reference", device)
    result = records("crd", case, timings, memory, checked, device)
    if device == "cuda":
        graphs: dict[str, Calls] = {
            f"{name}, captured": [captured(one) for one in several] for name, several in calls.items()
        }
        timings = interleaved(graphs, repetitions, device)
        show(case, timings, {}, "reference, captured", device)
        result += records("crd", case, timings, {}, {f"{k}, captured": v for k, v in checked.items()}, device)
    if case is CIFAR:
        timings = interleaved(samplers(case, given, device), repetitions, device)
        show(case, timings, {}, "numpy choice", device)
        result += records("crd sampler", case, timings, {}, {}, device)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="few rounds, under a minute; CIFAR's shape alone without a GPU"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=record_file, help="write the records there")
    options = parser.parse_args()
    on_gpu = options.device == "cuda"
    cases = [CIFAR, IMAGENET] if on_gpu else [CIFAR] if options.quick else [CIFAR, IMAGENET_64]
    repetitions = (30 if on_gpu else 5) if options.quick else (100 if on_gpu else 15)
    found: list[Record] = []
    for case in cases:
        found += measure(case, options.device, repetitions)
        if options.json:  # after every case, so that one that fails loses nothing
            write_json(found, options.json)


if __name__ == "__main__":
    main()
