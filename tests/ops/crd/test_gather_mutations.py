"""Every barrier of csrc's kernels is needed, or listed: left out, it is reported as the race that it prevents."""

from functools import cache

import pytest
import torch
from helpers.crd_cases import problem
from helpers.gather_executed import ENTRIES, Gather, edited
from helpers.mutated import SYNCHRONISES, replaced, without
from ptx import Program, nvcc
from ptx.findings import RACE, TRAP

pytestmark = [
    pytest.mark.ptx,
    pytest.mark.skipif(bool(nvcc.obstacle()), reason=nvcc.obstacle() or "nvcc is there"),
]
ARCHITECTURE = "sm_80"
BARRIERS = {
    "gatherIfLi4ELi1ELi8E": 4,
    "fastkd4draw": 2,
    "updateIfE": 2,
    "17finish_normaliser": 18,
    "6finishE": 18,
    "fastkd4mark": 2,
}
"""How many there are in each kernel."""
REDUNDANT = {"17finish_normaliser": (17,), "6finishE": (17,)}
"""The last ones: behind them the first thread alone goes on, with the sum that it has written itself."""


def outcome(programs: dict[str, Program] | None = None) -> tuple[frozenset[str], list[torch.Tensor]]:
    """Kinds of what is found in all operations, and their results. programs: in place of the compiled ones."""
    case = problem(samples=5, rows=1500, negatives=1100, dim=20)
    gather = Gather(ARCHITECTURE, keep_findings=True, blocks=10)
    gather.programs = programs or {}
    z = gather.normaliser(case.inputs(torch.full((2,), -1.0)))
    results = [z, *gather.loss(case.inputs(z)), gather.draw(case.contrast, len(case.bank))]
    results += gather.mark(case.contrast, len(case.bank))
    bank, student, teacher = case.bank.clone(), *(tensor.detach() for tensor in case.contrast[:2])
    rows, old_z, new_z = torch.tensor([4, 9, 4, 200, 9]), torch.tensor([-1.0, 5.0]), torch.tensor([3.0, 2.0])
    gather.update(bank, old_z, torch.tensor(7), rows, student, teacher, new_z, case.numbers)
    kinds = {finding.kind for result in gather.launches for finding in result.findings}
    return frozenset(kinds), [*results, bank, old_z]


def test_every_kernel_is_mutated():
    assert all(any(pattern in BARRIERS for pattern in patterns) for patterns in ENTRIES.values())


@cache
def unchanged() -> tuple[frozenset[str], list[torch.Tensor]]:
    return outcome()


def changed(kernel: str, edit) -> tuple[frozenset[str], list[torch.Tensor]]:
    return outcome({kernel: edited(ARCHITECTURE, kernel, edit)})


@pytest.mark.parametrize(
    "kernel",
    [pytest.param(name, marks=[pytest.mark.slow] if count > 4 else []) for name, count in BARRIERS.items()],
)
def test_every_barrier_is_needed_or_listed(kernel):
    assert not unchanged()[0]
    for number in range(BARRIERS[kernel]):
        kinds, results = changed(kernel, without(SYNCHRONISES, number))
        if number in REDUNDANT.get(kernel, ()):
            assert TRAP in changed(kernel, replaced(SYNCHRONISES, number, "trap;"))[0], "it is reached"
            assert not kinds and all(map(torch.equal, results, unchanged()[1]))
        else:
            assert kinds == {RACE}, number
    with pytest.raises(IndexError):
        changed(kernel, without(SYNCHRONISES, BARRIERS[kernel]))


def test_rows_are_marked_by_atomics():
    """Words are shared by rows that several threads draw: stored plainly, they race and lose some."""
    assert not unchanged()[0]
    atomic = r"atom\.shared\.or\.b32\s+%r\d+, (\[[^\]]*\]), (%r\d+);"
    kinds, results = changed("fastkd4mark", replaced(atomic, 0, r"st.shared.b32 \1, \2;"))
    assert kinds == {RACE} and not all(map(torch.equal, results, unchanged()[1]))
