"""Block sizes of the dense CRD path, measured on this GPU: python -m benchmarks.tune_crd [--json FILE]

Each kernel alone, captured, over three banks that no cache holds together, interleaved, at CIFAR's shape; then where
the time of whole steps goes, kernel by kernel. The best ones belong into `tiles_for` and the constants of `dense.py`.
"""

import argparse
import itertools
import json
from collections.abc import Callable, Sequence
from unittest import mock

import torch
from torch import Tensor

from benchmarks.crd import CIFAR, MOMENTUM, TEMPERATURE, Problems, inputs, our_step
from benchmarks.timing import captured, commit, device_name, interleaved, record_file, versions
from fastkd.ops import compiled
from fastkd.ops.crd import Contrast, Drawn, Inputs, dense

SHAPES = {  # rows, warps, stages, registers
    torch.bfloat16: [
        *itertools.product((64,), (4,), (2, 3), (None, 168)),
        *itertools.product((32,), (4,), (3, 4), (None, 128, 168)),
        *itertools.product((64, 128), (8,), (2, 3), (None, 128)),
    ],
    torch.float32: [
        *itertools.product((32,), (4,), (2, 3), (None, 168)),
        *itertools.product((64,), (4,), (2,), (None,)),
        *itertools.product((32, 64), (8,), (2,), (None, 128)),
    ],
}
PROGRAMS = (1, 2, 3, 4)
MARKED = tuple(itertools.product((256, 512, 1024, 2048), (4, 6, 8, 12)))
"""Rows, programs on a multiprocessor."""
ADDED = tuple(itertools.product((32, 64, 128), (16, 32, 64)))
"""Lanes, parts at once."""
Contenders = dict[str, Sequence[Callable[[], object]]]


def scored(given: Problems, banks: Sequence[Tensor], z: Tensor, numbers: Tensor) -> Contenders:
    """The large kernel in every shape that runs and agrees with the first."""
    dtype = banks[0].dtype
    drawn, scaled = counted_and_scaled(given, banks[0], z, numbers)
    expected, found = None, {}
    for (rows, warps, stages, registers), programs in itertools.product(SHAPES[dtype], PROGRAMS):
        tiles = dense.Tiles(rows, warps, stages, programs, registers)
        name = f"scores {str(dtype)[6:]} rows={rows} warps={warps} stages={stages} registers={registers}"

        def run(bank: Tensor, tiles: dense.Tiles = tiles) -> tuple[Tensor, Tensor]:
            return dense.score(drawn, scaled, bank, z, CIFAR.negatives, tiles)

        try:
            gradient = run(banks[0])[0].sum(0)
            torch.cuda.synchronize()
        except Exception as error:  # more shared memory or registers than there are
            print(f"{name}: {type(error).__name__}")
            continue
        expected = gradient if expected is None else expected
        if not bool((gradient - expected).norm() <= 1e-4 * expected.norm()):
            print(f"{name} programs={programs}: wrong")
            continue
        found[f"{name} programs={programs}"] = [captured(lambda b=bank, r=run: r(b)) for bank in banks]
    return found


def counted_and_scaled(given: Problems, bank: Tensor, z: Tensor, numbers: Tensor) -> tuple[Drawn, Tensor]:
    batch = given.batches[0]
    scaled = dense.prepare(Inputs(batch, bank, z, numbers)).scaled
    assert scaled is not None
    return dense.count(batch.rows_B, None, batch.plan, CIFAR.rows), scaled


def marked(given: Problems) -> Contenders:
    """Forwards by CUDA, where the library is built; backwards by Triton in every shape."""

    def call(mark: Callable[..., None], batch: Contrast) -> object:
        return mark(batch.rows_B, batch.plan, CIFAR.rows, *Drawn.empty(batch.rows_B, CIFAR.rows, distinct=True))

    def calls(mark: Callable[..., None]) -> list[Callable[[], object]]:
        return [captured(lambda b=batch: call(mark, b)) for batch in given.batches]

    found: Contenders = {}
    if not compiled.obstacle("cuda"):
        found["marks forwards"] = calls(dense.MARKED_BY["cuda"])
    for rows, programs in MARKED:
        with mock.patch.multiple(dense, MARKED_ROWS=rows, MARKING_PROGRAMS=programs):
            found[f"marks backwards rows={rows} programs={programs}"] = calls(dense.MARKED_BY["triton"])
    return found


def added(given: Problems, bank: Tensor, z: Tensor, numbers: Tensor) -> Contenders:
    batch, found = given.batches[0], {}
    drawn, scaled = counted_and_scaled(given, bank, z, numbers)
    parts = dense.score(drawn, scaled, bank, z, CIFAR.negatives)
    outputs = (z.new_empty(()), z.new_empty(2), torch.empty_like(batch[0]), torch.empty_like(batch[1]))
    for lanes, at_once in ADDED:
        with mock.patch.multiple(dense, ADDED_LANES=lanes, ADDED_AT_ONCE=at_once):
            found[f"add lanes={lanes} at_once={at_once}"] = [captured(lambda: dense.add(*parts, numbers, outputs))]
    return found


def kernels(given: Problems, bank: Tensor, z: Tensor, numbers: Tensor, path: str) -> dict[str, float]:
    """Microseconds a launch of each kernel of whole steps."""
    step = torch.zeros((), dtype=torch.int64, device="cuda")
    calls = [captured(lambda b=batch: our_step(bank, z, step, b, numbers, path)) for batch in given.batches]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(10):
            for call in calls:
                call()
        torch.cuda.synchronize()
    launches = 10 * len(calls)
    return {item.key[:70]: item.self_device_time_total / launches for item in profile.key_averages()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=record_file, help="write all times there")
    options = parser.parse_args()
    given = inputs(CIFAR, "cuda", 3)
    numbers = torch.tensor((TEMPERATURE, MOMENTUM), device="cuda")
    z = torch.full((2,), 2.2 * CIFAR.rows, device="cuda")
    contenders, steps = marked(given), {}
    for dtype in (torch.bfloat16, torch.float32):
        banks = [given.bank.to(dtype, copy=True) for _ in range(3)]
        contenders |= scored(given, banks, z, numbers)
        if dtype == torch.bfloat16:
            contenders |= added(given, banks[0], z, numbers)
        for path in ("dense", "gather"):
            if path == "dense" or not compiled.obstacle("cuda"):
                steps[f"{path} {str(dtype)[6:]}"] = kernels(given, banks[0], z.clone(), numbers, path)
    timings = interleaved(contenders, 15, "cuda")
    ordered = sorted(timings.items(), key=lambda item: (item[0].split(" rows")[0].split(" lanes")[0], item[1].median_s))
    print(f"\n{CIFAR}, {device_name('cuda')}: median, p20, p80 in microseconds")
    for name, timing in ordered:
        print(f"{name:70}" + "".join(f"{1e6 * t:8.1f}" for t in (timing.median_s, timing.p20_s, timing.p80_s)))
    for name, times in steps.items():
        print(f"\n{name}, microseconds a step: {sum(times.values()):.1f}")
        for kernel, time in sorted(times.items(), key=lambda item: -item[1]):
            print(f"  {kernel:70}{time:8.1f}")
    if options.json:
        found = {"device": device_name("cuda"), "versions": versions(), "commit": commit(), "case": str(CIFAR)}
        found |= {"alone": {name: timing._asdict() for name, timing in ordered}, "steps": steps}
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
