"""A step that is replayed trains as one that is not. Without a GPU a replay runs the recorded function again."""

import gc
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.recorders import Refuses, RunAgain, record_everything
from helpers.steps import Streamed, close, make_step, weights
from helpers.tiny import CPU, Quiet, assert_same, job_of, outcome, tiny_recipe, train

from fastkd.data import RawBatch
from fastkd.run import Run, open_data
from fastkd.run.builder import Builder
from fastkd.support.interrupt import Interrupt, Stopped
from fastkd.support.log import MetricsLog
from fastkd.training.compilation import compile_stage
from fastkd.training.evaluation import Evaluation, accuracies
from fastkd.training.replays import STEPS
from fastkd.training.step import Step


def steps_of(step, epoch=0, start=0):
    return list(step.epoch_of(step.loader, epoch, start))


class TestResidentSteps:
    def test_a_replayed_epoch_equals_an_eager_one(self):
        eager, _ = make_step(batch_size=4)
        replayed, _ = make_step(batch_size=4)
        recorder = RunAgain()
        (done,) = replayed.warm_up(replayed.loader, recorder)
        assert "captured in" in done and f"{STEPS} steps a replay" in done
        assert steps_of(eager) == [1] * 32
        assert steps_of(replayed) == [STEPS] * 3 + [1] * 2
        assert recorder.replays == 5
        close(weights(replayed), weights(eager), rtol=0, atol=0)
        assert replayed.meter.read() == eager.meter.read()
        assert replayed.done == eager.done == 32

    def test_an_epoch_goes_on_in_its_middle(self):
        eager, _ = make_step(batch_size=4)
        replayed, _ = make_step(batch_size=4)
        for step in (eager, replayed):
            step.done.fill_(40)  # step 8 of the second epoch
        replayed.warm_up(replayed.loader, RunAgain())
        assert steps_of(replayed, 1, 8) == [1, 1, STEPS, STEPS, 1, 1]
        steps_of(eager, 1, 8)
        close(weights(replayed), weights(eager), rtol=0, atol=0)

    def test_a_shorter_last_batch_is_not_replayed(self):
        eager, _ = make_step(batch_size=12, drop_last=False)
        replayed, _ = make_step(batch_size=12, drop_last=False)
        replayed.warm_up(replayed.loader, RunAgain())
        assert steps_of(replayed) == [STEPS, 1]
        steps_of(eager)
        close(weights(replayed), weights(eager), rtol=0, atol=0)
        assert replayed.meter.read() == eager.meter.read()

    def test_schedules_take_effect_without_recording_again(self):
        eager, _ = make_step(batch_size=4, milestones=(1, 2), factor=0.5, warmup_epochs=0)
        replayed, _ = make_step(batch_size=4, milestones=(1, 2), factor=0.5, warmup_epochs=0)
        recorder = RunAgain()
        replayed.warm_up(replayed.loader, recorder)
        for epoch in range(3):
            steps_of(eager, epoch)
            steps_of(replayed, epoch)
        assert recorder.recorded == 2
        close(weights(replayed), weights(eager), rtol=0, atol=0)


@pytest.mark.parametrize("recorder", (RunAgain, Refuses))
def test_warming_up_is_no_training(recorder):
    step, raws = make_step(batch_size=4, ema=0.9)
    step(raws[0])
    torch.manual_seed(5)
    before, rng, read = weights(step), torch.get_rng_state(), step.meter.read()
    momentum = [state["momentum_buffer"].clone() for state in step.optimizer.state.values()]
    step.warm_up(step.loader, recorder())
    close(weights(step), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), rng)
    assert step.done == 1 and step.meter.read() == read
    after = [state["momentum_buffer"] for state in step.optimizer.state.values()]
    assert all(map(torch.equal, momentum, after))


def test_what_cannot_be_captured_says_why_and_goes_on():
    eager, _ = make_step()
    step, _ = make_step()
    (why,) = step.warm_up(step.loader, Refuses())
    assert why == "not captured: RuntimeError: operation not permitted when stream is capturing and more"
    steps_of(eager)
    steps_of(step)
    close(weights(step), weights(eager), rtol=0, atol=0)


def test_a_batch_that_is_never_whole_is_not_captured():
    step, _ = make_step(batch_size=64)
    step.batch_size = 200  # as if of one process of several
    (why,) = step.warm_up(step.loader, RunAgain())
    assert "not captured: the only batch has" in why


def test_streamed_batches_are_copied_to_where_the_replay_reads():
    recipe = tiny_recipe()
    data = open_data(recipe)
    eager, _ = make_step(batch_size=12, drop_last=False)
    replayed, _ = make_step(batch_size=12, drop_last=False)
    from fastkd.data.augment import Augmentation, Normalise, StreamedImages

    for step in (eager, replayed):
        step.loader = Streamed(step.loader, data.train.images)
        step.prepare = StreamedImages(data.train.labels, Normalise(data.mean, data.std), Augmentation(), 0)
    recorder = RunAgain()
    replayed.warm_up(replayed.loader, recorder)
    assert steps_of(replayed) == [1] * 11 == steps_of(eager)
    assert recorder.replays == 10, "the last batch is shorter"
    close(weights(replayed), weights(eager), rtol=0, atol=0)


@pytest.mark.parametrize("recorder", (None, RunAgain, Refuses))
def test_an_evaluation_counts_every_image_once(recorder):
    job = job_of(tiny_recipe())
    source, network = job.test_source(), Builder(job, 0).network("resnet8").eval()

    def predictions(images):
        assert recorder is None or len(images) == source.batch_size
        return {"student": network(images).logits}

    expected = accuracies(lambda images: {"student": network(images).logits}, source, CPU)
    evaluation = Evaluation(predictions, source, CPU, recorder=recorder and recorder())
    assert evaluation() == expected
    assert bool(evaluation.why_not_captured) == (recorder is Refuses)
    with torch.no_grad():  # other weights, same recording
        network.head.classifier.weight.normal_()
    assert evaluation() == accuracies(lambda images: {"student": network(images).logits}, source, CPU)
    assert evaluation()["student"]["samples"] == source.samples


def test_a_batch_that_lost_images_is_filled_up_too():
    """Also the first one; what fills it up is not counted."""
    job = job_of(tiny_recipe())
    source, network = job.test_source(), Builder(job, 0).network("resnet8").eval()
    batches = list(source.loader.epoch(0))
    batches[0] = RawBatch(batches[0].index[:-3])

    class Lossy:
        def epoch(self, epoch, start=0):
            return iter(batches)

    lossy, sizes = source._replace(loader=Lossy()), set()

    def predictions(images):
        sizes.add(len(images))
        return {"student": network(images).logits}

    found = Evaluation(predictions, lossy, CPU, fixed_shape=True)()
    assert sizes == {source.batch_size} and found["student"]["samples"] == source.samples - 3
    assert found == accuracies(predictions, lossy, CPU)


def test_what_cannot_be_compiled_for_evaluation_says_why_and_goes_on(tmp_path, monkeypatch):
    def only_training(graph, inputs):
        if not torch.is_grad_enabled():
            raise RuntimeError("no graph without gradients")
        return graph

    torch._dynamo.reset()
    recipe = tiny_recipe()
    plain = replace(recipe, stages=recipe.stages[:1])
    train(plain, tmp_path / "plain")
    compiled = replace(plain, execution=replace(plain.execution, compile="blocks"))
    monkeypatch.setattr(
        "fastkd.training.step.compile_stage", lambda stage, mode: compile_stage(stage, mode, only_training)
    )
    display = Quiet()
    train(compiled, tmp_path / "compiled", display=display)
    assert any("not compiled: BackendCompilerFailed: backend=" in note for note in display.notes), display.notes
    assert_same(outcome(tmp_path / "compiled"), outcome(tmp_path / "plain"))
    torch._dynamo.reset()


@pytest.mark.parametrize("mode", ("blocks", "whole"))
def test_a_compiled_run_is_the_run(mode, tmp_path, monkeypatch):
    """By the eager backend: bit for bit; nothing is left compiled when a stage is done."""
    torch._dynamo.reset()
    recipe = tiny_recipe()
    train(recipe, tmp_path / "plain")
    stages = []

    def compiling(stage, how):
        stages.append(stage)
        compile_stage(stage, how, "eager")

    monkeypatch.setattr("fastkd.training.step.compile_stage", compiling)
    train(replace(recipe, execution=replace(recipe.execution, compile=mode)), tmp_path / "compiled")
    assert_same(outcome(tmp_path / "compiled"), outcome(tmp_path / "plain"))
    assert len(stages) == 3 and torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 3
    assert all(module._compiled_call_impl is None for stage in stages for module in stage.modules())
    torch._dynamo.reset()


def test_a_finished_stage_is_let_go_of():
    """Its memory and, with several processes, its group: without waiting for a garbage collection."""
    job = job_of(tiny_recipe())
    run = Run(job, 0, Path("none"), display=Quiet(), interrupt=Interrupt())
    stage = run.builder.stage(job.course[0], run.earlier)
    trainer = run._trainer(job.course[0], stage, MetricsLog(Path("none")))
    trainer.warm_up()
    trainer.some_steps()
    held = weakref.ref(trainer), weakref.ref(trainer.step)
    gc.disable()
    try:
        del trainer
        assert [reference() for reference in held] == [None, None]
    finally:
        gc.enable()


class AfterReplays(Interrupt):
    """A Ctrl-C that comes while step `count` of the run is taken."""

    def __init__(self, count):
        super().__init__()
        self.left = count

    def saw(self, steps):
        self.left -= steps
        if self.left <= 0 and self.requested is None:
            self.requested = "SIGINT"


@pytest.mark.parametrize("count", (None, 14, 31))
def test_a_captured_run_is_the_run(count, tmp_path, monkeypatch):
    """Both stages and evaluation, also stopped in the middle of an epoch and resumed; bit for bit.

    16 steps an epoch, two epochs a stage; 31 is the last step but one of the first stage: its warm-up looks beyond.
    """
    recipe = tiny_recipe()
    stages = tuple(replace(s, training=replace(s.training, batch_size=8)) for s in recipe.stages)
    recipe = replace(recipe, stages=stages)
    train(recipe, tmp_path / "plain")
    record_everything(monkeypatch)
    if count is not None:
        interrupt, plain_steps = AfterReplays(count), Step.epoch_of

        def counted(step, *arguments):
            for steps in plain_steps(step, *arguments):
                interrupt.saw(steps)
                yield steps

        with monkeypatch.context() as patch, pytest.raises(Stopped):
            patch.setattr(Step, "epoch_of", counted)
            train(recipe, tmp_path / "captured", interrupt)
    train(recipe, tmp_path / "captured")
    assert_same(outcome(tmp_path / "captured"), outcome(tmp_path / "plain"))
