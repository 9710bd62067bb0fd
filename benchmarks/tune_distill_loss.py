"""Times every layout of the fused distillation loss on a GPU: python -m benchmarks.tune_distill_loss [--json FILE]

The table that it prints, and the records, are what `fastkd.ops.distill_loss.launch.layout` is written from. A time is
that of one loss with all its gradients (the large kernel and the one that sums), captured, over rotating inputs;
layouts are interleaved, round after round, and their results compared with float64 first.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.timing import captured, commit, device_name, input_sets, record_file, versions
from fastkd.ops.distill_loss import launch, reference
from fastkd.ops.distill_loss.launch import Layout
from fastkd.ops.numbers import NUMBERS

FP32, BF16 = torch.float32, torch.bfloat16
WEIGHTS = (4.0, 3.0, 1.0, 0.9, 1.0, 0.9, 0.9, 0.1)  # by role
OPTIONS = {"detached": False, "tau_squared": True, "ignore_index": -100}


class Case(NamedTuple):
    form: str
    samples: int
    classes: int
    partners: int
    dtype: torch.dtype

    @property
    def learners(self) -> int:
        return 1 + self.partners if launch.FORMS[self.form].PARTNERS_LEARN else 1

    @property
    def least_bytes(self) -> int:
        """Each logit read once, each gradient written once."""
        return (1 + self.partners + self.learners) * self.samples * self.classes * self.dtype.itemsize

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.form} B={self.samples} K={self.classes} N={self.partners} {dtype}"


CASES = [
    Case("sftn", 64, 100, 3, FP32),
    Case("sftn", 64, 100, 3, BF16),
    Case("sftn", 1024, 1000, 3, BF16),
    Case("sftn", 1024, 1000, 3, FP32),
    Case("sftn", 4096, 1000, 3, FP32),
    Case("sftn", 256, 1000, 1, BF16),
    Case("sftn", 4096, 100, 3, FP32),
    Case("sftn", 1024, 4096, 3, BF16),
    Case("sftn", 256, 21841, 1, BF16),
    Case("sftn_reverse", 1024, 1000, 3, BF16),
    Case("kd", 1024, 1000, 1, BF16),
    Case("dkd", 1024, 1000, 1, BF16),
    Case("virtual", 1024, 1000, 0, BF16),
]
MAIN = CASES[2:5]


def compiled_layouts(case: Case) -> Iterator[Layout]:
    """All that differ in more than the number of programs, which is no matter of compiling."""
    if case.classes > launch.WIDEST_ROW:
        for columns in (1024, 2048, 4096, 8192):
            for warps in (4, 8, 16, 32):
                if 2 <= columns // (32 * warps) <= 32:
                    yield Layout(1, columns, warps, min(255, 2048 // warps), 8)
        return
    columns = max(16, 1 << (case.classes - 1).bit_length())
    for rows in (1, 2, 4, 8, 16, 32) if columns <= 256 else (1,):
        for warps in (1, 2, 4, 8, 16):
            numbers = rows * columns // (32 * warps)
            if not 2 <= numbers <= 32 or warps > max(4, columns // 128):
                continue
            for registers in REGISTERS[numbers] if case in MAIN else REGISTERS[numbers][:2]:
                yield Layout(rows, columns, warps, registers, 8)
            if case in MAIN and numbers <= 16:
                yield Layout(rows, columns, warps, REGISTERS[numbers][0], 8, STAGES=3)


REGISTERS = {2: (64, 48), 4: (72, 96, 56), 8: (96, 128, 80, 168), 16: (160, 192, 128, 255), 32: (255, 216)}
"""Registers a thread, by the numbers of a row that it holds."""


def layouts(case: Case) -> Iterator[Layout]:
    for layout in compiled_layouts(case):
        blocks = -(-case.samples // layout.ROWS)
        useful = -(-blocks // launch.multiprocessors(torch.device("cuda", 0)))
        resident = max(1, 65536 // (32 * layout.num_warps * layout.maxnreg))
        for programs in sorted({min(useful, n) for n in (resident, -(-resident // 2), 2 * resident, 64)}):
            yield layout._replace(programs=programs)


class Inputs(NamedTuple):
    logits: list[Tensor]
    gradients: list[Tensor | None]
    labels: Tensor
    numbers: Tensor


def inputs(case: Case, seed: int) -> Inputs:
    generator = torch.Generator("cuda").manual_seed(seed)
    shape = (case.samples, case.classes)
    logits = [
        (3 * torch.randn(shape, generator=generator, device="cuda")).to(case.dtype) for _ in range(1 + case.partners)
    ]
    gradients = [torch.full_like(one, torch.nan) if i < case.learners else None for i, one in enumerate(logits)]
    labels = torch.randint(case.classes, shape[:1], generator=generator, device="cuda")
    return Inputs(logits, gradients, labels, torch.tensor(WEIGHTS, device="cuda"))


def run(case: Case, given: Inputs, layout: Layout) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return launch.compute_losses_and_gradients(
        given.logits, given.gradients, given.labels, given.numbers, None, case.form, chosen=layout, **OPTIONS
    )


def exact(case: Case, given: Inputs) -> tuple[Tensor, list[Tensor]]:
    """Total and gradients in float64."""
    logits = [one.double().requires_grad_(i < case.learners) for i, one in enumerate(given.logits)]
    named = {name: WEIGHTS[number.role] for name, number in NUMBERS[case.form].items()}
    options = {"detached": False, "tau_squared": True} if case.form.startswith("sftn") else {}
    definition = reference.FORMS[case.form]
    total = definition(logits[0], logits[1:], given.labels, **named, **options, ignore_index=-100).total
    return total.detach(), list(torch.autograd.grad(total, logits[: case.learners]))


def is_right(case: Case, given: Inputs, layout: Layout, expected: tuple[Tensor, list[Tensor]]) -> bool:
    gradients = [gradient for gradient in given.gradients if gradient is not None]
    for gradient in gradients:
        gradient.fill_(torch.nan)
    total = run(case, given, layout)[0]
    tolerance = 1e-5 if case.dtype == FP32 else 5e-3
    close = [(total - expected[0]).abs() <= 1e-5 * expected[0].abs()]
    for found, gradient in zip(gradients, expected[1], strict=True):
        close.append((found - gradient).norm() <= tolerance * gradient.norm())
    return all(bool(one) for one in close)


def compile_some(share: Sequence[tuple[Case, Layout]]) -> list[str]:
    """In a process of its own, into Triton's cache on disk. Returns what failed."""
    failed = []
    for case, layout in share:
        try:
            run(case, inputs(case._replace(samples=max(2, layout.ROWS)), 0), layout)
        except Exception as error:  # a layout that does not compile is none
            failed.append(f"{case} {tuple(layout)}: {type(error).__name__}: {str(error)[:200]}")
    return failed


def compile_all(cases: Sequence[Case], processes: int) -> list[str]:
    work = {(case._replace(samples=0), layout): (case, layout) for case in cases for layout in compiled_layouts(case)}
    shares = [list(work.values())[i::processes] for i in range(processes)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        return [line for lines in pool.map(compile_some, shares) for line in lines]


def copy_bandwidth() -> float:
    """Bytes read and written in a second by a device-to-device copy."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / median_seconds([lambda: target.copy_(source)], 20)[0][0]


def median_seconds(calls: Sequence, rounds: int) -> list[tuple[float, float, float]]:
    """Median, 20th and 80th percentile of each, interleaved."""
    times: list[list[float]] = [[] for _ in calls]
    for repetition in range(2 + rounds):
        events = []
        for call in calls:
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            call()
            end.record()
            events.append((start, end))
        torch.cuda.synchronize()
        if repetition >= 2:
            for seconds, (start, end) in zip(times, events, strict=True):
                seconds.append(start.elapsed_time(end) / 1000)
    fifths = [statistics.quantiles(seconds, n=5, method="inclusive") for seconds in times]
    return [(statistics.median(seconds), fifth[0], fifth[3]) for seconds, fifth in zip(times, fifths, strict=True)]


def measure(case: Case, rounds: int, bandwidth: float) -> list[dict]:
    sets = [inputs(case, seed) for seed in range(min(input_sets(case.least_bytes // 2, "cuda"), 16))]
    expected = exact(case, sets[0])
    tried, calls, failed = [], [], []
    for layout in layouts(case):
        try:
            right = is_right(case, sets[0], layout, expected)
        except Exception as error:  # out of registers or shared memory
            failed.append(f"{tuple(layout)}: {type(error).__name__}")
            continue
        if not right:
            failed.append(f"{tuple(layout)}: WRONG RESULT")
            continue
        tried.append(layout)
        calls.append(captured(lambda layout=layout: [run(case, given, layout) for given in sets]))
    records = [
        {"case": str(case), **case._replace(dtype=str(case.dtype))._asdict(), "layout": layout._asdict()}
        | {"median_s": median / len(sets), "p20_s": p20 / len(sets), "p80_s": p80 / len(sets)}
        | {"bandwidth_share": case.least_bytes * len(sets) / median / bandwidth}
        for layout, (median, p20, p80) in zip(tried, median_seconds(calls, rounds), strict=True)
    ]
    records.sort(key=lambda record: record["median_s"])
    if failed:
        print(f"{case}: {len(failed)} failed, first: {failed[0]}", flush=True)
    return records


def show(case: Case, records: list[dict], best: int) -> None:
    default = launch.layout(
        case.classes, case.form, partners=case.partners, itemsize=case.dtype.itemsize, samples=case.samples
    )
    print(f"\n{case}: {len(records)} layouts, at least {case.least_bytes / 1e6:.1f} MB")
    now = [record for record in records if record["layout"] == default._asdict()]
    for record in records[:best] + now[:1]:
        layout = " ".join(f"{name}={int(value)}" for name, value in record["layout"].items())
        times = f"{record['median_s'] * 1e6:8.2f} us ({record['p20_s'] * 1e6:.2f}-{record['p80_s'] * 1e6:.2f})"
        mark = " <- launch.layout" if record in now else ""
        print(f"  {times:32} {record['bandwidth_share']:6.1%}  {layout}{mark}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=record_file, metavar="FILE", help="write the records there")
    parser.add_argument("--rounds", type=int, default=20, help="measurements of each layout")
    parser.add_argument("--best", type=int, default=4, help="layouts printed for each case")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("tune_distill_loss: needs a GPU")
    cases = [case for case in CASES if options.only in str(case)]
    start = time.monotonic()
    for line in compile_all(cases, min(os.cpu_count() or 1, 14)):
        print("not compiled:", line)
    bandwidth = copy_bandwidth()
    print(f"{device_name('cuda')}, copy {bandwidth / 1e12:.2f} TB/s, compiled in {time.monotonic() - start:.0f} s")
    results = []
    for case in cases:
        records = measure(case, options.rounds, bandwidth)
        show(case, records, options.best)
        results += records
        if options.json:
            header = {"device": device_name("cuda"), "copy_bytes_per_s": bandwidth, "commit": commit()}
            options.json.write_text(json.dumps(header | {"versions": versions(), "records": results}, indent=1) + "\n")
    print(f"{time.monotonic() - start:.0f} s in all")


if __name__ == "__main__":
    main()
