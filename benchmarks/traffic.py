# pyright: reportMissingImports=false
"""What a GPU has to move, known without a GPU: python -m benchmarks.traffic --json FILE

The compiled kernels run in the executor of tests/ptx, which counts what every instruction asks of memory. Each
operation at the shapes of the goals stands beside its floor: every logit read and every gradient written once, every
row of the memory bank read once a draw (gather) or once (dense), every pixel read and written once. Where a shape would
take hours some of its samples are run, and the case says how many: what one of them moves does not depend on the rest.

Records in results/ become the table of benchmarks/README.md at once. The gather needs nvcc and is left out without it.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks import crd, distill_loss, tables
from benchmarks.timing import RESULTS, commit, record_file, versions
from fastkd.losses import SFTNLoss
from fastkd.ops import augment
from fastkd.ops.crd import Inputs, prepare, reference, update_
from fastkd.ops.crd import loss as crd_loss

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers.executed import executing
from helpers.gather_executed import Gather
from ptx import Result, nvcc

ARCHITECTURES = ("sm_80", "sm_90")
COUNTING = {"checked": False, "orders": 1}
"""The tests look for mistakes; here nothing is but counted."""
FP32, BF16 = torch.float32, torch.bfloat16
LOSSES = [
    (distill_loss.Case(64, 100, 3, FP32), 64),
    (distill_loss.Case(1024, 1000, 3, BF16), 1024),
    (distill_loss.Case(4096, 1000, 3, FP32), 1024),
    (distill_loss.Case(4096, 21841, 4, BF16), 32),
]
"""Shapes, and how many of their samples are run."""
CRD = [(crd.CIFAR, 64, ("dense", "gather")), (crd.IMAGENET, 4, ("gather",))]
AUGMENTED = (64, 32)
"""Images of a batch, and pixels on a side."""


class Task(NamedTuple):
    contender: str
    case: str
    floor_bytes: int
    launches: list[Result]
    checked: bool


def loss_task(case: distill_loss.Case, samples: int, architecture: str) -> Task:
    generator = torch.Generator().manual_seed(0)
    logits = [3 * torch.randn(samples, case.classes, generator=generator) for _ in range(case.branches + 1)]
    leaves = [tensor.to(case.dtype).requires_grad_() for tensor in logits]
    labels = torch.randint(case.classes, (samples,), generator=generator)
    loss = SFTNLoss(temperature=distill_loss.TEMPERATURE)
    with executing(architecture, **COUNTING) as gpu:
        total = loss(leaves[0], leaves[1:], labels).total
        total.backward()
    expected = SFTNLoss(temperature=distill_loss.TEMPERATURE)(leaves[0], leaves[1:], labels).total
    checked = bool((total - expected).abs() <= 1e-3 * expected.abs())
    floor = case._replace(samples=samples).least_bytes(backward=True)
    return Task("triton", _partly(str(case), samples, case.samples), floor, gpu.launches, checked)


def crd_task(case: crd.Case, samples: int, path: str, dtype: torch.dtype, architecture: str) -> Task:
    run = case._replace(samples=samples)
    given = crd.inputs(run, "cpu", 1)
    batch, bank = given.batches[0], given.bank.to(dtype)
    z, numbers = torch.full((2,), 2.2 * case.rows), torch.tensor((crd.TEMPERATURE, crd.MOMENTUM))
    moved = (batch.rows_B, batch.student_BD.detach(), batch.teacher_BD.detach(), z, numbers)
    inputs, step = Inputs(batch, bank, z, numbers), torch.tensor(0)
    exact = reference.loss(*batch[:2], bank, given.chosen[0], z, numbers[0])[0]
    if path == "gather":
        gather = Gather(architecture, **COUNTING)
        total, launches = gather.loss(inputs)[0], gather.launches
        gather.update(bank, z.clone(), step, *moved)
    else:
        marking = Gather(architecture, **COUNTING)
        drawn = None if nvcc.obstacle() else marking.mark(batch, case.rows)
        with executing(architecture, **COUNTING) as gpu:
            known, scaled = prepare(inputs, path)
            total = crd_loss(inputs._replace(z=known), path, drawn=drawn, scaled=scaled).total
            update_(bank, z.clone(), step, *moved, path)
        launches = [*marking.launches, *gpu.launches]
    checked = bool((total - exact).abs() <= 1e-3 * exact.abs())
    name = f"{path} {'bf16' if dtype == BF16 else 'fp32'}"
    floor = run.least_bytes(dtype, dense=path == "dense")
    return Task(name, _partly(str(case), samples, case.samples), floor, launches, checked)


def augment_task(architecture: str) -> Task:
    images, side = AUGMENTED
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (images, side, side, 3), dtype=torch.uint8, generator=generator)
    rows = torch.arange(images).unsqueeze(0)
    how = augment.How(1, 2, padding=4, flip=True, quarter_turns=False, dtype=BF16)
    inputs = augment.Inputs(pixels, rows, rows[0], torch.tensor(0), None, torch.ones(3), torch.zeros(3), how)
    with executing(architecture, **COUNTING) as gpu:
        found = augment.augment(inputs, channels_last=True)
    checked = torch.equal(found, augment.reference.augment(inputs))
    return Task("augment", f"B={images} {side}x{side}", pixels.numel() * (1 + BF16.itemsize), gpu.launches, checked)


def _partly(case: str, run: int, samples: int) -> str:
    return case if run == samples else f"{case}, {run} samples run"


def tasks(architecture: str) -> Iterator[Callable[[], Task]]:
    for case, samples in LOSSES:
        yield partial(loss_task, case, samples, architecture)
    for case, samples, paths in CRD:
        for path in paths:
            if path == "gather" and nvcc.obstacle():
                print(f"{case}: gather left out, {nvcc.obstacle()}", file=sys.stderr)
                continue
            for dtype in (FP32, BF16):
                yield partial(crd_task, case, samples, path, dtype, architecture)
    yield partial(augment_task, architecture)


def described(architecture: str, task: Task) -> dict[str, Any]:
    """A record."""
    kernels = [_kernel(result) for result in task.launches]
    return {
        "benchmark": "traffic",
        "contender": task.contender,
        "case": task.case,
        "device": f"{architecture}, executed on a CPU",
        "floor_bytes": task.floor_bytes,
        "kernels": kernels,
        "checked": task.checked,
        "versions": versions(),
        "commit": commit(),
    }


def _kernel(result: Result) -> dict[str, Any]:
    counts = result.counts
    return {
        "kernel": result.kernel,
        "blocks": counts.blocks,
        "read": _traffic(counts.read),
        "written": _traffic(counts.written),
        "warp_instructions": dict(sorted(counts.instructions.items())),
        "barriers": counts.barriers,
        "atomics": counts.atomics,
        "matrix_operations": counts.matrix_operations,
        "shared_passes": counts.shared_passes,
        "shared_least_passes": counts.shared_least_passes,
        "conflicts": [vars(conflict) for conflict in counts.conflicts],
    }


def _traffic(traffic: Any) -> dict[str, Any]:
    return {**vars(traffic), "coalescing": round(traffic.coalescing, 4)}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the smallest shape of each operation on one architecture")
    parser.add_argument("--json", type=record_file, help="write the records there")
    options = parser.parse_args(arguments)
    records = []
    for architecture in ARCHITECTURES[-1:] if options.quick else ARCHITECTURES:
        counted = list(tasks(architecture))
        for count in (counted[0], counted[-1]) if options.quick else counted:
            records.append(described(architecture, count()))
            print("  ".join(tables.traffic_cells(records[-1])), flush=True)
    if options.json:
        options.json.write_text(json.dumps(records, indent=1) + "\n")
        if options.json.resolve().is_relative_to(RESULTS):
            return tables.main([])
    return 0


if __name__ == "__main__":
    sys.exit(main())
