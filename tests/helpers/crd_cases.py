"""Problems for every path of the CRD memory bank, and their answers in float64."""

import math
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from fastkd.ops import compiled, crd
from fastkd.ops.crd import Contrast, Drawn, DrawPlan, Inputs, reference
from helpers.golden import Case

TEMPERATURE, MOMENTUM = 0.07, 0.5
needs_library = pytest.mark.skipif(bool(compiled.obstacle("cpu")), reason=compiled.obstacle("cpu") or "built")


class Problem(NamedTuple):
    contrast: Contrast
    bank: Tensor
    numbers: Tensor

    def inputs(self, z: Tensor) -> Inputs:
        return Inputs(self.contrast, self.bank, z, self.numbers)

    def to(self, device: str) -> "Problem":
        batch = self.contrast
        plan = batch.plan._replace(starts=batch.plan.starts.to(device), step=batch.plan.step.to(device))
        tensors = (batch.student_BD, batch.teacher_BD, batch.rows_B)
        student, teacher, rows = (tensor.detach().to(device) for tensor in tensors)
        chosen = None if batch.chosen_BK is None else batch.chosen_BK.to(device)
        batch = Contrast(student.requires_grad_(), teacher.requires_grad_(), rows, chosen, plan)
        return Problem(batch, self.bank.to(device), self.numbers.to(device))


def problem(
    *,
    rows: int = 300,
    samples: int = 5,
    negatives: int = 70,
    dim: int = 16,
    classes: int = 7,
    dtype: torch.dtype = torch.float32,
    replacement: bool = False,
    relaxed: bool = False,
    explicit: bool = False,
    seed: int = (3 << 40) + 5,
    step: int = 2,
    first_place: int = 4,
) -> Problem:
    generator = torch.Generator().manual_seed(rows + dim)
    bank = (torch.rand(rows, 2, dim, generator=generator) * 2 - 1) * (3 / dim) ** 0.5
    student, teacher = torch.nn.functional.normalize(torch.randn(2, samples, dim, generator=generator), dim=2)
    bounds = [place * rows // classes for place in range(classes + 1)]
    own = torch.randint(rows, (samples,), generator=generator)
    scarce = rows - max(end - start for start, end in pairwise(bounds)) < negatives
    plan = DrawPlan(
        torch.tensor(bounds), torch.tensor(step), negatives, seed, first_place, replacement, relaxed, scarce
    )
    batch = Contrast(student.clone().requires_grad_(), teacher.clone().requires_grad_(), own, None, plan)
    if explicit:
        chosen = torch.randint(rows, (samples, negatives + 1), generator=generator)
        batch = batch._replace(chosen_BK=chosen)
    return Problem(batch, bank.to(dtype), torch.tensor((TEMPERATURE, MOMENTUM)))


PROBLEMS = {
    "plain": {},
    "128 dimensions": {"dim": 128, "negatives": 1100, "rows": 2000},
    "odd dimensions": {"dim": 13},
    "48 dimensions, bfloat16": {"dim": 48, "dtype": torch.bfloat16},
    "with replacement": {"replacement": True, "relaxed": True},
    "more negatives than rows": {"rows": 50, "negatives": 200},
    "just enough negatives": {"rows": 70, "classes": 7, "negatives": 60},
    "one sample, one negative": {"samples": 1, "negatives": 1},
    "explicit, drawn twice": {"rows": 9, "explicit": True, "negatives": 30, "classes": 2},
    "every row a class": {"rows": 90, "classes": 90, "relaxed": True},
    "bfloat16": {"dim": 128, "dtype": torch.bfloat16, "negatives": 130, "rows": 700},
    "odd dimensions, bfloat16": {"dim": 21, "dtype": torch.bfloat16},
}


class Answer(NamedTuple):
    z: Tensor
    total: Tensor
    sides: Tensor
    gradients: tuple[Tensor, ...]


def in_float64(case: Problem, z: Tensor | None = None) -> Answer:
    """The reference in float64 on the CPU, from the same draws and the bank's own (rounded) values."""
    case = case.to("cpu")
    chosen = case.contrast.chosen_BK
    if chosen is None:
        chosen = crd.draw(case.contrast.rows_B, len(case.bank), case.contrast.plan, "reference")
    embeddings = [t.detach().double().requires_grad_() for t in case.contrast[:2]]
    temperature = case.numbers[0].double()
    own_z = reference.normaliser(*embeddings, case.bank, chosen, temperature)
    total, sides = reference.loss(*embeddings, case.bank, chosen, own_z if z is None else z.cpu().double(), temperature)
    return Answer(own_z, total.detach(), sides, torch.autograd.grad(total, embeddings))


def check_path(case: Problem, path: str, tolerance: float = 2e-6) -> None:
    """Z, loss, sides and gradients of a path against float64; errors relative to the norm."""
    unknown = torch.full((2,), -1.0, device=case.bank.device)
    z = crd.normaliser(case.inputs(unknown), path)
    assert torch.equal(crd.normaliser(case.inputs(z), path), z), "a Z that is known stays"
    expected = in_float64(case, z)
    terms = crd.loss(case.inputs(z), path)
    gradients = torch.autograd.grad(terms.total, case.contrast[:2])
    near(z, expected.z, tolerance)
    near(terms.total, expected.total, tolerance)
    near(torch.stack((terms.student, terms.teacher)), expected.sides, tolerance)
    for gradient, right in zip(gradients, expected.gradients, strict=True):
        near(gradient, right, tolerance)


def near(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    error = (actual.detach().cpu().double() - expected).norm() / expected.norm()
    assert error < tolerance, f"relative error {error:.2e}"


def golden(name: str, dtype: torch.dtype = torch.float64) -> tuple[Case, Problem, Tensor]:
    """A golden case as a problem, and its Z before the call (-1: unset)."""
    case = Case("crd", name)
    negatives, temperature, z1, z2, momentum = case["hp/params"].tolist()
    bank = torch.stack((case["in/memory_v1"], case["in/memory_v2"]), 1).to(dtype)
    rows = case["in/idx"]
    plan = DrawPlan(torch.arange(len(bank) + 1), torch.tensor(0), int(negatives), 0, 0, replacement=True, relaxed=False)
    batch = Contrast(case.input("v1", dtype), case.input("v2", dtype), rows, case["in/contrast_idx"], plan)
    numbers = torch.tensor((temperature, momentum), dtype=dtype)
    return case, Problem(batch, bank, numbers), torch.tensor((z1, z2), dtype=dtype)


def check_golden(name: str, path: str, dtype: torch.dtype = torch.float32, tolerance: float = 2e-6) -> None:
    """Loss, gradients, Z and the banks after the update of one golden call."""
    case, given, z = golden(name, dtype)
    batch, bank, numbers = given
    new_z = crd.normaliser(given.inputs(z), path)
    terms = crd.loss(given.inputs(new_z), path)
    gradients = torch.autograd.grad(terms.total, batch[:2])
    near(new_z, torch.stack((case["out/Z1"], case["out/Z2"])), tolerance)
    near(terms.total, case["loss/crd"], tolerance)
    near(terms.student, case["loss/nce_s"], tolerance)
    near(terms.teacher, case["loss/nce_t"], tolerance)
    near(gradients[0], case["grad/crd/v1"], tolerance)
    near(gradients[1], case["grad/crd/v2"], tolerance)
    step = torch.tensor(0)
    crd.update_(bank, z, step, batch.rows_B, batch.student_BD.detach(), batch.teacher_BD.detach(), new_z, numbers, path)
    near(bank[:, 0], case["out/memory_v1_new"], tolerance)
    near(bank[:, 1], case["out/memory_v2_new"], tolerance)
    assert torch.equal(z, new_z) and step.item() == 1


def check_update(path: str, dtype: torch.dtype, device: str = "cpu") -> None:
    """Of samples that share a row the last one counts; what is not finite changes nothing; the rest stays as it is."""
    case = problem(samples=6, dtype=dtype).to(device)
    rows = torch.tensor([4, 9, 4, 200, 9, 4], device=device)
    student, teacher = (tensor.detach().clone() for tensor in case.contrast[:2])
    student[3, 2] = torch.nan
    bank = case.bank.clone()
    z, new_z = torch.tensor([-1.0, 5.0], device=device), torch.tensor([3.0, torch.inf], device=device)
    step = torch.tensor(7, device=device)
    crd.update_(bank, z, step, rows, student, teacher, new_z, case.numbers, path)
    assert z.tolist() == [3.0, 5.0] and step.item() == 8
    expected = case.bank.clone()
    for row, sample in ((4, 5), (9, 4), (200, 3)):
        for side, embeddings in enumerate((student, teacher)):
            mixed = MOMENTUM * case.bank[row, side].double() + (1 - MOMENTUM) * embeddings[sample].double()
            if mixed.isfinite().all():
                expected[row, side] = (mixed / mixed.norm()).to(dtype)
    # One unit in the last place: the mean may be rounded from another side.
    torch.testing.assert_close(bank, expected, rtol=2e-7 if dtype == torch.float32 else 2**-7, atol=1e-8)
    untouched = torch.ones(len(bank), dtype=torch.bool)
    untouched[[4, 9, 200]] = False
    assert torch.equal(bank[untouched], case.bank[untouched])
    assert torch.equal(bank[200, 0], case.bank[200, 0]) and not torch.equal(bank[200, 1], case.bank[200, 1])


def check_counts(case: Problem) -> None:
    """What the dense path counts is what the reference draws."""
    batch, n = case.contrast, len(case.bank)
    table = batch.chosen_BK if batch.chosen_BK is not None else crd.draw(batch.rows_B, n, batch.plan, "reference")
    check_drawn(crd.count(batch.rows_B, n, batch.plan, batch.chosen_BK), table)


def check_drawn(drawn: Drawn, table: Tensor) -> None:
    """table: [B,K+1] rows, the positive first."""
    counts = drawn.counts.int()
    if drawn.counts.dtype == torch.int32:
        counts = (counts[:, :, None] >> torch.arange(32, device=counts.device) & 1).flatten(1)
    ones = torch.ones_like(table[:, 1:], dtype=torch.int32)
    expected = torch.zeros(counts.shape, dtype=torch.int32, device=table.device)
    assert torch.equal(counts & 65535, expected.scatter_add_(1, table[:, 1:], ones))
    assert torch.equal(drawn.positives, table[:, 0])


def check_scaled(case: Problem) -> None:
    """What the bank is multiplied by is the embeddings, to 16 bits."""
    scaled = crd.prepare(case.inputs(torch.ones(2, device=case.bank.device)), "dense").scaled
    scaled = scaled.double().sum(0) * case.numbers[0].double() * math.log(2)
    for scaled_BD, given_BD in zip(scaled, case.contrast[:2], strict=True):
        near(scaled_BD, given_BD.detach().cpu().double(), 2**-16)
