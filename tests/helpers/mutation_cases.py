"""Launches of fastkd's kernels that are small and yet go round every loop at least twice, recorded."""

from collections.abc import Callable
from functools import cache

import torch

from fastkd.ops import crd
from helpers.crd_cases import problem
from helpers.distill_cases import evaluate, random_logits
from helpers.executed import executing
from helpers.mutated import Recorded, recording

UNKNOWN_Z = (-1.0, -1.0)


def _loss(architecture: str, form: str, classes: int, dtype: torch.dtype, samples: int) -> dict[str, Recorded]:
    with executing(architecture, multiprocessors=1) as gpu, recording(gpu) as kept:
        logits, labels = random_logits(3, samples, classes, dtype, seed=classes)
        labels[1] = -100
        evaluate(form, "triton", logits, labels)
    return kept


def _contrast(architecture: str, multiprocessors: int, **sizes) -> dict[str, Recorded]:
    case = problem(**sizes)
    with executing(architecture, multiprocessors=multiprocessors) as gpu, recording(gpu) as kept:
        z, scaled = crd.prepare(case.inputs(torch.tensor(UNKNOWN_Z)), "dense")
        crd.loss(case.inputs(z), "dense", scaled=scaled)
    return kept


def _update() -> dict[str, Recorded]:
    case = problem(samples=1030, rows=3000)  # more than 1024: four warps
    student, teacher = (tensor.detach() for tensor in case.contrast[:2])
    known_z, step = torch.tensor([3.0, 2.0]), torch.tensor(7)
    with executing("sm_90") as gpu, recording(gpu) as kept:
        rows, z = case.contrast.rows_B, torch.tensor(UNKNOWN_Z)
        crd.update_(case.bank.clone(), z, step, rows, student, teacher, known_z, case.numbers, "dense")
    return kept


_FEW = {"dim": 20, "samples": 5}
_WHOLE = {"dim": 64, "samples": 33, "rows": 700, "negatives": 40, "dtype": torch.bfloat16}

_MADE: dict[str, Callable[[], dict[str, Recorded]]] = {
    "sftn": lambda: _loss("sm_90", "sftn", 100, torch.float32, 37),
    "kd": lambda: _loss("sm_80", "kd", 1000, torch.bfloat16, 40),
    "kd wide": lambda: _loss("sm_90", "kd", 5000, torch.bfloat16, 18),
    "crd": lambda: _contrast("sm_80", 2, **_FEW, rows=700, negatives=31),
    "crd, replaced": lambda: _contrast("sm_80", 1, **_FEW, rows=700, negatives=1100, replacement=True),
    "crd whole, sm_80": lambda: _contrast("sm_80", 1, **_WHOLE),
    "crd whole, sm_90": lambda: _contrast("sm_90", 1, **_WHOLE),
    "crd update": _update,
}
_LAUNCHES = {
    "rows": ("sftn", "rows_kernel"),
    "rows ahead": ("kd", "rows_kernel"),
    "wide": ("kd wide", "wide_kernel"),
    "finish": ("sftn", "finish_kernel"),
    "scale": ("sftn", "scale_kernel"),
    "prepare": ("crd", "prepare_kernel"),
    "mark": ("crd", "mark_kernel"),
    "draw": ("crd, replaced", "draw_kernel"),
    "scores": ("crd", "scores_kernel"),
    "scores mma": ("crd whole, sm_80", "scores_kernel"),
    "scores wgmma": ("crd whole, sm_90", "scores_kernel"),
    "add": ("crd", "finish_kernel"),
    "update": ("crd update", "update_kernel"),
}
LAUNCHES = tuple(_LAUNCHES)


@cache
def _made(case: str) -> dict[str, Recorded]:
    return _MADE[case]()


@cache
def recorded(launch: str) -> Recorded:
    case, kernel = _LAUNCHES[launch]
    return _made(case)[kernel]
