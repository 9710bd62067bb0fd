"""On GPUs: a step is captured with its NCCL messages, by DDP's reducer and by one message of all gradients."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from helpers.processes import TINY, finish, parameters, start
from helpers.steps import close, steps_of, weights
from helpers.tiny import tiny_recipe

from fastkd.run import Job, open_data
from fastkd.run.builder import Builder
from fastkd.run.earlier import Earlier
from fastkd.training import averaging
from fastkd.training import step as steps
from fastkd.training.capture import CudaRecorder
from fastkd.training.execution import EVERYTHING_OFF
from fastkd.training.optimisation import build_optimizer
from fastkd.training.step import Step

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")


@pytest.fixture
def group(tmp_path, monkeypatch):
    """A group of one process, whose steps believe that there are two: their messages come back as they were sent."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    meet = {"init_method": f"file://{tmp_path}/meet", "rank": 0, "world_size": 1}
    dist.init_process_group("cpu:gloo,cuda:nccl", device_id=torch.device("cuda", 0), **meet)
    yield
    dist.destroy_process_group()


def make_step(execution=EVERYTHING_OFF, **training):
    """The student-friendly teacher of the tiny digits, 16 steps an epoch."""
    recipe = tiny_recipe()
    job = replace(Job.of(recipe, open_data(recipe), CUDA), execution=execution)
    builder, planned = Builder(job, 0), job.course[0]
    settings = replace(planned.training, **({"epochs": 20, "batch_size": 8, "lr": 0.01} | training))
    planned = replace(planned, training=settings)
    stage = builder.stage(planned, Earlier(job.course)).train()
    source = builder.train_source(planned, stage.views)
    source.prepare.to(CUDA)
    optimizer = build_optimizer(stage, settings, CUDA)
    step = Step(stage, source.prepare, optimizer, settings, source.loader.steps, CUDA, execution)
    step.loader = source.loader
    return step


class NoReducer(CudaRecorder):
    """Its first recording fails as if a reducer could not be captured."""

    failed = False

    def record(self, work, times=1, *, beside=()):
        if not self.failed:
            self.failed = True
            raise averaging_refused()
        return super().record(work, times, beside=beside)


def averaging_refused():
    from fastkd.training.agreement import NotTogether

    return NotTogether("process 0: the reducer cannot be captured")


@pytest.mark.parametrize("recorder, words", ((CudaRecorder, "a replay"), (NoReducer, "all gradients in one message")))
@pytest.mark.parametrize("execution", ({}, {"bfloat16": True}), ids=("float32", "bfloat16"))
def test_a_captured_step_with_messages_is_the_step(recorder, words, execution, group, monkeypatch):
    """Over NCCL with one process, whose mean is its own gradient; the loss of an epoch, as algorithms may differ."""
    how = EVERYTHING_OFF._replace(**execution)
    plain, ours = make_step(how), make_step(how)
    monkeypatch.setattr(averaging, "world_size", lambda: 2)
    monkeypatch.setattr(steps, "world_size", lambda: 2)
    (told,) = ours.warm_up(ours.loader, recorder(CUDA))
    assert told.startswith("captured in") and words in told, told
    assert steps_of(ours)[0] == 10
    monkeypatch.setattr(averaging, "world_size", lambda: 1)
    steps_of(plain)
    torch.cuda.synchronize()
    found, expected = ours.meter.read(), plain.meter.read()
    assert found.steps == expected.steps == 16 and ours.first_bad.step == -1
    for name, value in expected.means().items():
        assert found.means()[name] == pytest.approx(value, rel=5e-2, abs=5e-2), name


def test_one_captured_step_leaves_what_an_eager_one_leaves(group, monkeypatch):
    """From equal states, by DDP's reducer: to rounding."""
    plain, ours = make_step(), make_step()
    monkeypatch.setattr(averaging, "world_size", lambda: 2)
    monkeypatch.setattr(steps, "world_size", lambda: 2)
    ours.warm_up(ours.loader, CudaRecorder(CUDA))
    next(ours.replays.epoch(ours.loader, 0, 15))  # the last step of the epoch is one of its own
    monkeypatch.setattr(averaging, "world_size", lambda: 1)
    plain(list(plain.loader.epoch(0))[15])
    torch.cuda.synchronize()
    close(weights(ours), weights(plain), rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("how", ([], ["--accumulate", "2"], ["--method", "kd+crd", "--crd.negatives", "64"]), ids=str)
def test_two_gpus_capture_together_and_train_as_two_that_do_not(how, tmp_path):
    for capture in ("on", "off"):
        line = [*TINY, *how, "--compile", "off", "--precision", "float32", "--deterministic", "on"]
        _, err = finish(start(*line, "--capture", capture, "--run", tmp_path / capture))
        assert ("captured in" in err) == (capture == "on") and "not captured" not in err, err
    one, other = (parameters(tmp_path / capture) for capture in ("on", "off"))
    for name, value in other.items():
        torch.testing.assert_close(one[name], value, rtol=5e-2, atol=1e-2, msg=lambda m, name=name: f"{name}: {m}")
