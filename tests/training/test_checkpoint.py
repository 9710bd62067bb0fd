"""What makes a checkpoint unfit; tests/run/test_run.py resumes trainings, tests/test_fuzz_files.py tries odd states."""

import pytest
import torch
from helpers.golden import GOLDEN

from fastkd.support import states
from fastkd.support.errors import UserError
from fastkd.training import checkpoint
from fastkd.training.checkpoint import load_module, load_optimizer, read_checkpoint

OLD = GOLDEN / "format_1" / "run" / "checkpoints" / "student.pt"


@pytest.fixture
def state():
    return torch.load(OLD, weights_only=True)


def test_one_that_fastkd_0_1_wrote_has_no_digest_and_is_read():
    assert read_checkpoint(OLD, "student")["stage"] == "student"


def test_one_of_today_needs_its_digest(state, tmp_path):
    file = tmp_path / "student.pt"
    states.write_state(file, state | {"format": checkpoint.FORMAT})
    assert read_checkpoint(file, "student")["format"] == checkpoint.FORMAT
    torch.save(state | {"format": checkpoint.FORMAT}, file)
    with pytest.raises(UserError, match=r"student\.pt is damaged: the digest at its end is gone"):
        read_checkpoint(file, "student")


def test_another_stage_and_another_format(state, tmp_path):
    states.write_state(tmp_path / "x.pt", state)
    with pytest.raises(UserError, match="is of the stage 'student', expected 'teacher'"):
        read_checkpoint(tmp_path / "x.pt", "teacher")
    states.write_state(tmp_path / "x.pt", state | {"format": 99})
    with pytest.raises(UserError, match="has format 99, this fastkd reads 1 and 2"):
        read_checkpoint(tmp_path / "x.pt", "student")


def test_tensors_of_another_type_are_not_cast():
    module = torch.nn.Linear(2, 3)
    for dtype in (torch.float64, torch.int64, torch.complex64):
        other = {name: value.to(dtype) for name, value in module.state_dict().items()}
        with pytest.raises(UserError, match=rf"weight is {dtype}, expected torch.float32"):
            load_module(module, other, "here")


class TestOptimiser:
    @pytest.fixture(params=("sgd", "adam"))
    def trained(self, request):
        """(an optimiser that is fresh, the state of one that took a step)"""
        made = []
        for _ in range(2):
            layer = torch.nn.Linear(2, 3)
            kind = torch.optim.SGD if request.param == "sgd" else torch.optim.Adam
            more = {"momentum": 0.9} if request.param == "sgd" else {}
            made.append(kind(layer.parameters(), lr=0.1, **more))
        layer(torch.ones(1, 2)).sum().backward()
        made[1].step()
        return made[0], made[1].state_dict()["state"]

    def test_its_own_state_is_taken(self, trained):
        fresh, state = trained
        load_optimizer(fresh, state, "here", 1)
        assert fresh.state_dict()["state"].keys() == state.keys()

    def test_none_is_refused_once_there_was_a_step(self, trained):
        with pytest.raises(UserError, match="nothing of the optimiser's is in it after 1 step"):
            load_optimizer(trained[0], {}, "here", 1)
        load_optimizer(trained[0], {}, "here", 0)

    @pytest.mark.parametrize("value", (torch.zeros(7), 3, None, torch.zeros(3, 2, dtype=torch.int64)))
    def test_another_shape_is_refused(self, value, trained):
        fresh, state = trained
        state[0] = dict.fromkeys(state[0], value)
        with pytest.raises(UserError, match="the optimiser's .* of parameter 0"):
            load_optimizer(fresh, state, "here", 1)

    def test_a_parameter_that_is_not_there_is_refused(self, trained):
        fresh, state = trained
        with pytest.raises(UserError, match="the optimiser has no parameter 5"):
            load_optimizer(fresh, state | {5: state[0]}, "here", 1)
