"""Launches of fastkd's kernels that are small and yet go round every loop at least twice, recorded."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from fastkd.losses import LinearTeacher, linear_kd_loss
from fastkd.ops import crd
from fastkd.ops.augment import augment
from fastkd.ops.augment.kernel import augment_kernel
from fastkd.ops.crd import dense_kernels, draw_kernels
from fastkd.ops.distill_loss.kernel_finish import finish_kernel, scale_kernel
from fastkd.ops.distill_loss.kernel_pair import pair_kernel
from fastkd.ops.distill_loss.kernel_rows import rows_kernel
from fastkd.ops.distill_loss.kernel_wide import wide_kernel
from fastkd.ops.row_loss.kernel_dense import dense_kernel
from fastkd.ops.row_loss.kernel_kept import kept_kernel
from fastkd.ops.row_loss.kernel_scale import scale_rows_kernel
from helpers.augment_cases import SETTINGS, make_inputs
from helpers.crd_cases import problem
from helpers.distill_cases import evaluate, random_logits
from helpers.executed import executing
from helpers.mutated import Recorded, recording
from helpers.row_cases import DEFAULT, gradient_of, make

UNKNOWN_Z = (-1.0, -1.0)


def _loss(architecture: str, form: str, classes: int, dtype: torch.dtype, samples: int) -> dict[str, Recorded]:
    with executing(architecture, multiprocessors=1) as gpu, recording(gpu) as kept:
        logits, labels = random_logits(3, samples, classes, dtype, seed=classes)
        labels[1] = -100
        evaluate(form, "triton", logits, labels)
    return kept


def _of_rows(
    architecture: str, teacher: str, divergence: str, labels: str, classes: int, dtype: torch.dtype, samples: int
) -> dict[str, Recorded]:
    case = make(teacher, samples, classes, labels, dtype, seed=classes)
    case = case._replace(weights=torch.linspace(0, 2, samples))
    with executing(architecture, multiprocessors=1) as gpu, recording(gpu) as kept:
        gradient_of(case, divergence, DEFAULT, torch.linspace(1, 2, samples))
    return kept


def _in_place(teacher: str, classes: int, samples: int) -> dict[str, Recorded]:
    """The gradient takes the place of the student's logits."""
    generator = torch.Generator().manual_seed(classes)
    hidden, of_teacher = (torch.randn(samples, 4, generator=generator) for _ in range(2))
    weight, teachers_weight = (torch.randn(classes, 4, generator=generator) for _ in range(2))
    case = make(teacher, samples, classes)
    given = LinearTeacher(of_teacher, teachers_weight) if teacher == "logits" else case.teacher
    with executing("sm_90", multiprocessors=1) as gpu, recording(gpu) as kept:
        linear_kd_loss(hidden.requires_grad_(), weight, given, case.labels, chunk_rows=samples)
    return kept


def _augmented() -> dict[str, Recorded]:
    with executing("sm_80") as gpu, recording(gpu) as kept:
        augment(make_inputs(SETTINGS[-1]))
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
    "rld": lambda: _loss("sm_80", "standardised rld", 100, torch.float32, 21),
    "dkd, standardised": lambda: _loss("sm_90", "standardised dkd", 100, torch.float32, 21),
    "nkd": lambda: _loss("sm_90", "nkd", 100, torch.float32, 21),
    "wttm": lambda: _loss("sm_90", "wttm", 100, torch.bfloat16, 21),
    "ab": lambda: _loss("sm_80", "standardised ab", 100, torch.float32, 21),
    "jsd": lambda: _loss("sm_90", "jsd", 1200, torch.bfloat16, 18),
    "rld wide": lambda: _loss("sm_90", "standardised rld", 2100, torch.bfloat16, 18),
    "rows of logits": lambda: _of_rows("sm_90", "logits", "forward", "classes", 100, torch.float32, 40),
    "rows of probabilities": lambda: _of_rows(
        "sm_80", "probabilities", "jsd", "probabilities", 2100, torch.bfloat16, 5
    ),
    "rows, lumped": lambda: _of_rows("sm_90", "lumped", "forward", "classes", 1000, torch.bfloat16, 7),
    "rows, lumped, wide": lambda: _of_rows("sm_80", "lumped", "jsd", "probabilities", 2100, torch.bfloat16, 7),
    "rows, renormalised": lambda: _of_rows("sm_80", "renormalised", "reverse", "none", 2100, torch.bfloat16, 7),
    "rows, sampled": lambda: _of_rows("sm_90", "sampled", "forward", "classes", 100, torch.float32, 26),
    "rows in place": lambda: _in_place("logits", 300, 9),
    "rows in place, lumped": lambda: _in_place("lumped", 300, 9),
    "augmentation": _augmented,
    "crd": lambda: _contrast("sm_80", 2, **_FEW, rows=700, negatives=31),
    "crd, replaced": lambda: _contrast("sm_80", 1, **_FEW, rows=700, negatives=1100, replacement=True),
    "crd whole, sm_80": lambda: _contrast("sm_80", 1, **_WHOLE),
    "crd whole, sm_90": lambda: _contrast("sm_90", 1, **_WHOLE),
    "crd update": _update,
}
_LAUNCHES: dict[str, tuple[str, Any]] = {
    "rows": ("sftn", rows_kernel),
    "rows ahead": ("kd", rows_kernel),
    "wide": ("kd wide", wide_kernel),
    "finish": ("sftn", finish_kernel),
    "scale": ("sftn", scale_kernel),
    "pair": ("rld", pair_kernel),
    "pair dkd": ("dkd, standardised", pair_kernel),
    "pair nkd": ("nkd", pair_kernel),
    "pair wttm": ("wttm", pair_kernel),
    "pair ab": ("ab", pair_kernel),
    "pair jsd": ("jsd", pair_kernel),
    "pair wide": ("rld wide", pair_kernel),
    "dense": ("rows of logits", dense_kernel),
    "dense wide": ("rows of probabilities", dense_kernel),
    "dense in place": ("rows in place", dense_kernel),
    "kept": ("rows, lumped", kept_kernel),
    "kept wide": ("rows, lumped, wide", kept_kernel),
    "kept alone": ("rows, renormalised", kept_kernel),
    "kept one warp": ("rows, sampled", kept_kernel),
    "kept in place": ("rows in place, lumped", kept_kernel),
    "scale rows": ("rows of logits", scale_rows_kernel),
    "augment": ("augmentation", augment_kernel),
    "prepare": ("crd", dense_kernels.prepare_kernel),
    "mark": ("crd", draw_kernels.mark_kernel),
    "draw": ("crd, replaced", draw_kernels.draw_kernel),
    "scores": ("crd", dense_kernels.scores_kernel),
    "scores mma": ("crd whole, sm_80", dense_kernels.scores_kernel),
    "scores wgmma": ("crd whole, sm_90", dense_kernels.scores_kernel),
    "add": ("crd", dense_kernels.finish_kernel),
    "update": ("crd update", dense_kernels.update_kernel),
}
LAUNCHES = {name: kernel for name, (_, kernel) in _LAUNCHES.items()}
"""Each with the kernel that it launches: every kernel of fastkd is among them."""


@cache
def _made(case: str) -> dict[str, Recorded]:
    return _MADE[case]()


@cache
def recorded(launch: str) -> Recorded:
    case, kernel = _LAUNCHES[launch]
    return _made(case)[kernel.__name__]
