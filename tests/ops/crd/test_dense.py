"""The shapes that the dense path is launched with, and empty batches, for which nothing is launched.

What it computes is in test_interpreted.py.
"""

import pytest
import torch
from helpers.crd_cases import problem

pytest.importorskip("triton", reason="Triton is not installed")

from fastkd.ops.crd import dense
from fastkd.ops.crd.draw_kernels import PROBES
from fastkd.ops.crd.inputs import MOST_ROWS


@pytest.mark.parametrize("samples", (1, 15, 16, 17, 63, 64, 65, 1000))
def test_samples_come_in_tiles_of_the_matrix_units(samples):
    """Of 16 at least, of no more than hold all of them, of 64 at most."""
    tile = dense.tile_of_samples(samples)
    assert tile in (16, 32, 64) and (tile >= samples or tile == 64) and (tile == 16 or tile < 2 * samples)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize("generation", (8, 9, 10, 12))
def test_tiles_divide_what_the_counts_are_padded_to(dtype, generation):
    """So that they are read without a mask."""
    for bits in (False, True):
        tiles = dense.tiles_for(dtype, generation, bits=bits)
        assert MOST_ROWS % tiles.rows == 0 and tiles.programs >= 1
        assert not bits or tiles.rows % 32 == 0, "whole words"


@pytest.mark.parametrize("classes", (1, 2, 128, 129, 1000, 128**2, 128**2 + 1))
def test_a_class_is_found_in_as_few_steps_as_can_be(classes):
    plan = problem().contrast.plan._replace(starts=torch.arange(classes + 1))
    steps = dense._search_steps(plan)
    assert PROBES.value**steps >= classes and (steps == 1 or PROBES.value ** (steps - 1) < classes)


class TestEmptyBatch:
    """Nothing is launched, which without a GPU would fail."""

    @pytest.fixture
    def case(self):
        whole = problem()
        batch = whole.contrast
        none = batch._replace(
            student_BD=batch.student_BD[:0].detach(), teacher_BD=batch.teacher_BD[:0].detach(), rows_B=batch.rows_B[:0]
        )
        return whole._replace(contrast=none)

    def test_its_loss_is_zero(self, case):
        outputs = (torch.ones(()), torch.ones(2), torch.empty(0, 16), torch.empty(0, 16))
        drawn = dense.count(case.contrast.rows_B, None, case.contrast.plan, len(case.bank))
        scaled = torch.empty(2, 2, 0, 16)
        dense.compute_losses_and_gradients(drawn, scaled, case.bank, torch.ones(2), case.numbers, 70, outputs)
        assert outputs[0] == 0 and outputs[1].tolist() == [0, 0]

    @pytest.mark.parametrize("z", ((-1.0, -1.0), (30.0, 40.0)))
    def test_it_measures_nothing(self, case, z):
        assert dense.prepare(case.inputs(torch.tensor(z))).z.tolist() == list(z)

    def test_it_moves_no_row(self, case):
        bank, z, step = case.bank.clone(), torch.tensor([3.0, 4.0]), torch.tensor(7)
        batch = case.contrast
        dense.update(bank, z, step, batch.rows_B, batch.student_BD, batch.teacher_BD, torch.ones(2), case.numbers)
        assert torch.equal(bank, case.bank) and z.tolist() == [3.0, 4.0]

    def test_it_draws_nothing(self, case):
        out = torch.empty(0, 71, dtype=torch.int64)
        dense.draw(case.contrast.rows_B, len(case.bank), case.contrast.plan, out)
        assert not len(out)
