"""Contrastive representation distillation: a memory bank, draws, the NCE loss and its gradients, the bank's update.

reference.py   plain PyTorch: what runs where nothing is compiled, the oracle, the definition of the loss
draws.py       the definition of the draws
operation.py   registration with torch.library; csrc/ has the compiled paths
dense.py       Triton: every row of a small bank once, on the matrix units
inputs.py      what they read

This file is the choice between them. `fastkd.losses.crd` has the module that owns bank, Z and step counter.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from fastkd.ops import select
from fastkd.ops.crd import reference
from fastkd.ops.crd.draws import DrawPlan
from fastkd.ops.crd.inputs import Contrast, Drawn, Inputs, Prepared
from fastkd.ops.crd.operation import (
    crd_count,
    crd_draw,
    crd_loss,
    crd_normaliser,
    crd_prepare,
    crd_score,
    crd_update_,
)
from fastkd.ops.numbers import CRDRole
from fastkd.ops.schema import flat

__all__ = [
    "CRDTerms",
    "Contrast",
    "DrawPlan",
    "Drawn",
    "Inputs",
    "Prepared",
    "count",
    "draw",
    "implementation",
    "loss",
    "normaliser",
    "prepare",
    "update_",
]

DENSE_ROWS_PER_NEGATIVE = 40  # half of where the costs are equal by arithmetic, not yet by measurement: docs/LOG.md
DENSE_MOST_NEGATIVES = 65_535  # its counts have 16 bits
DENSE_WIDEST = 128  # dimensions: more would spill registers
GATHER_WIDEST = 256
TILES_ROWS_PER_NEGATIVE = {torch.float32: 16, torch.bfloat16: 4}  # measured: docs/LOG.md
TILES_DRAWS_PER_ROW = {torch.float32: 3, torch.bfloat16: 8}
REFERENCE_ROWS_PER_NEGATIVE = 4  # up to here the reference takes matrix products over the whole bank


class CRDTerms(NamedTuple):
    """What the loss of a batch returns."""

    total: Tensor
    """The one differentiable value."""
    student: Tensor
    """The part of the student's embeddings, scored against the teacher's bank."""
    teacher: Tensor
    """The part of the teacher's embeddings, scored against the student's bank."""


def implementation(bank_n2D: Tensor, samples: int, negatives: int) -> tuple[str, str]:
    """(path, reason): which path computes, "dense", "gather", "cpu_tiles", "cpu" or "reference", and why."""
    (rows, _, dim), dtype = bank_n2D.shape, bank_n2D.dtype
    impossible, unsuitable = {}, {}
    large = "the bank is large against the draws, a gather reads less"
    if rows >= samples * negatives or rows >= DENSE_ROWS_PER_NEGATIVE * negatives:
        unsuitable["dense"] = large
    if dtype in TILES_DRAWS_PER_ROW and (
        rows * TILES_DRAWS_PER_ROW[dtype] > samples * negatives or rows > TILES_ROWS_PER_NEGATIVE[dtype] * negatives
    ):
        unsuitable["cpu_tiles"] = large
    if negatives > DENSE_MOST_NEGATIVES or dim > DENSE_WIDEST:
        most = f"{DENSE_MOST_NEGATIVES} negatives and {DENSE_WIDEST} dimensions"
        impossible["dense"] = f"the dense path takes {most} at most"
    if dim > GATHER_WIDEST:
        impossible["gather"] = f"the compiled gather takes {GATHER_WIDEST} dimensions at most"
    if dtype not in (torch.float32, torch.bfloat16):
        impossible |= dict.fromkeys(
            ("dense", "gather", "cpu_tiles", "cpu"), "kernels take banks of float32 and bfloat16"
        )
    return select.choose("crd", bank_n2D.device.type, tuple(impossible.items()), tuple(unsuitable.items()))


def count(rows_B: Tensor, n: int, plan: DrawPlan, chosen_BK: Tensor | None = None) -> Drawn:
    """What the samples of a batch drew, for the dense path. It may be known before their embeddings are."""
    return Drawn(*crd_count(rows_B, chosen_BK, *plan, n))


@torch.no_grad()
def prepare(inputs: Inputs, path: str) -> Prepared:
    """Z, and what else of a batch is known before the bank is scored."""
    if path == "dense" and len(inputs.contrast.rows_B):
        return Prepared(*crd_prepare(*flat(inputs)))
    return Prepared(normaliser(inputs, path))


def loss(inputs: Inputs, path: str, *, drawn: Drawn | None = None, scaled: Tensor | None = None) -> CRDTerms:
    """The loss of a batch, with gradients to both embeddings; that of an empty batch is 0.

    drawn, scaled: what `count` and `prepare` gave for these samples, if they were asked: the dense path takes it.
    """
    if not len(inputs.contrast.rows_B):
        zero = 0.0 * (inputs.contrast.student_BD.sum() + inputs.contrast.teacher_BD.sum())
        return CRDTerms(zero, *zero.detach().expand(2).unbind())
    if path != "reference":
        total, sides, _, _ = _by_score(inputs, drawn, scaled) if path == "dense" else crd_loss(*flat(inputs), path)
        sides = sides.detach()
        return CRDTerms(total, sides[0], sides[1])
    contrast, bank_n2D = inputs.contrast, inputs.bank_n2D
    few_rows = len(bank_n2D) <= REFERENCE_ROWS_PER_NEGATIVE * contrast.plan.negatives
    formula = reference.loss_by_counts if few_rows else reference.loss
    temperature = inputs.numbers[CRDRole.TEMPERATURE]
    total, sides = formula(contrast.student_BD, contrast.teacher_BD, bank_n2D, _chosen(inputs), inputs.z, temperature)
    return CRDTerms(total, sides[0], sides[1])


@torch.no_grad()
def normaliser(inputs: Inputs, path: str) -> Tensor:
    """[2]: Z of both sides, `inputs.z` if it is known (above 0), else what this batch makes it.

    An empty batch makes it nothing: Z stays unknown.
    """
    if not len(inputs.contrast.rows_B):
        return inputs.z.clone()
    if path == "dense":
        return crd_prepare(*flat(inputs))[0]
    if path != "reference":
        return crd_normaliser(*flat(inputs), path)
    contrast, z = inputs.contrast, inputs.z
    if z.device.type == "cpu" and not torch.compiler.is_compiling() and bool(z[0] > 0):
        return z.clone()
    # Elsewhere the device decides, so that the host need not wait for it.
    temperature = inputs.numbers[CRDRole.TEMPERATURE]
    fresh = reference.normaliser(
        contrast.student_BD, contrast.teacher_BD, inputs.bank_n2D, _chosen(inputs), temperature
    )
    return torch.where(z > 0, z, fresh.to(z.dtype))


@torch.no_grad()
def update_(
    bank_n2D: Tensor,
    z: Tensor,
    step: Tensor,
    rows_B: Tensor,
    student_BD: Tensor,
    teacher_BD: Tensor,
    new_z: Tensor,
    numbers: Tensor,
    path: str,
) -> None:
    """Moves the batch's rows towards its embeddings, stores Z, counts the step.

    Of samples that share a row, the last one counts. An embedding or a Z that is not finite changes nothing. An empty
    batch is no step.
    """
    if not len(rows_B):
        return
    if path != "reference":
        crd_update_(bank_n2D, z, step, rows_B, student_BD, teacher_BD, new_z, numbers, path)
        return
    fresh = reference.updated_rows(bank_n2D, rows_B, student_BD, teacher_BD, numbers[CRDRole.MOMENTUM])
    bank_n2D.index_copy_(0, rows_B, fresh)
    z.copy_(torch.where(new_z.isfinite(), new_z, z))
    step.add_(1)


def draw(rows_B: Tensor, n: int, plan: DrawPlan, path: str) -> Tensor:
    """[B,K+1] int64: the positive and the K negatives that the losses draw for themselves."""
    return crd_draw(rows_B, *plan, n, path)


def _by_score(inputs: Inputs, drawn: Drawn | None, scaled: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    (student_BD, teacher_BD, rows_B, chosen_BK, plan), bank_n2D, z, numbers = inputs
    if drawn is None:
        drawn = count(rows_B, len(bank_n2D), plan, chosen_BK)
    if scaled is None:
        with torch.no_grad():
            scaled = crd_prepare(*flat(inputs))[1]
    return crd_score(student_BD, teacher_BD, *drawn, scaled, bank_n2D, z, numbers, plan.negatives)


def _chosen(inputs: Inputs) -> Tensor:
    contrast, bank_n2D = inputs.contrast, inputs.bank_n2D
    if contrast.chosen_BK is not None:
        return contrast.chosen_BK
    # Drawn in PyTorch, the permutation's walk would wait for the GPU; the kernel that draws runs wherever Triton does.
    path = "dense" if select.able("augment", "triton", bank_n2D.device.type) else "reference"
    return draw(contrast.rows_B, len(bank_n2D), contrast.plan, path)
