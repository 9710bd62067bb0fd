"""One stage from its first step to its last: what is logged, kept, gone on with and refused."""

import gc
import weakref
from pathlib import Path

import pytest
import torch
from helpers.tiny import Quiet, job_of, tiny_recipe
from helpers.trainers import SAMPLES, STEPS, logged, stopped_after, trainer_in

from fastkd import networks
from fastkd.run import Run
from fastkd.support.display import Display
from fastkd.support.errors import UserError
from fastkd.support.log import read_metrics
from fastkd.support.session import Session
from fastkd.training.stages import Stage, StageLoss
from fastkd.training.step import Step


def test_every_epoch_is_trained_evaluated_logged_and_told(tmp_path):
    told, trainer = [], trainer_in(tmp_path, training={"epochs": 3, "milestones": (2,), "factor": 0.5})
    progress = trainer.fit(told.append)
    records = logged(tmp_path)
    assert told == [record["epoch"] for record in records] == [1, 2, 3]
    assert [record["step"] for record in records] == [STEPS, 2 * STEPS, 3 * STEPS]
    assert [record["lr"] for record in records] == pytest.approx([0.01, 0.01, 0.005])
    assert {record["test"]["student"]["samples"] for record in records} == {SAMPLES}
    assert progress.test == records[-1]["test"] and (progress.epoch, progress.step) == (3, 0)
    best = max(record["test"]["student"]["top1"] for record in records)
    first = next(record["epoch"] for record in records if record["test"]["student"]["top1"] == best)
    assert progress.best == {"epoch": first, "top1": best / SAMPLES}
    assert trainer.step.done == 3 * STEPS and trainer.checkpoint.exists()


def test_the_last_epoch_is_evaluated_whatever_eval_every_says(tmp_path):
    trainer_in(tmp_path, training={"epochs": 3}, eval_every=2).fit()
    assert [bool(record["test"]) for record in logged(tmp_path)] == [False, True, True]


# In the middle of an epoch, at the end of one, before the last step of all.
@pytest.mark.parametrize("count", (1, 2, 3, 5))
def test_stopped_and_gone_on_with_is_the_same_bit_for_bit(count, tmp_path):
    folders = [tmp_path / name for name in ("whole", "parts")]
    for folder in folders:
        folder.mkdir()
    whole = trainer_in(folders[0], training={"ema": 0.5})
    whole.fit()
    stopped_after(count, folders[1], training={"ema": 0.5})
    display = Quiet()
    parts = trainer_in(folders[1], training={"ema": 0.5}, display=display)
    parts.fit()
    where = f"resumed after epoch {count // STEPS}" + (f", step {count % STEPS}" if count % STEPS else "")
    assert display.notes[0].endswith(where)
    for one, other in ((whole.stage, parts.stage), (whole.step.average.network, parts.step.average.network)):
        found = other.state_dict()
        assert all(torch.equal(value, found[name]) for name, value in one.state_dict().items())
    assert logged(folders[1]) == logged(folders[0])


def test_stopped_in_front_of_a_long_evaluation_is_the_same_bit_for_bit(tmp_path):
    folders = [tmp_path / name for name in ("whole", "parts")]
    for folder in folders:
        folder.mkdir()
    whole = trainer_in(folders[0])
    whole.fit()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastkd.training.saving_times.LONG_EVALUATION", -1.0)
        stopped_after(STEPS, folders[1])
    assert logged(folders[1]) == []
    display = Quiet()
    parts = trainer_in(folders[1], display=display)
    parts.fit()
    assert display.notes[0].endswith(f"resumed after epoch 0, step {STEPS}")
    found = parts.stage.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in whole.stage.state_dict().items())
    assert logged(folders[1]) == logged(folders[0])


def test_a_stage_that_is_done_takes_no_step(tmp_path, monkeypatch):
    first = trainer_in(tmp_path).fit()
    monkeypatch.setattr(Step, "__call__", lambda *_: pytest.fail("trained on"))
    display = Quiet()
    assert trainer_in(tmp_path, display=display).fit() == first
    assert len(logged(tmp_path)) == 2 and len(display.notes) == 1


def test_what_was_logged_after_the_checkpoint_is_forgotten(tmp_path):
    checkpoint = stopped_after(STEPS, tmp_path)
    before = checkpoint.read_bytes()
    trainer_in(tmp_path).fit()
    checkpoint.write_bytes(before)  # as if the process had been killed before its next checkpoint
    trainer_in(tmp_path).fit()
    assert [record["epoch"] for record in logged(tmp_path)] == [1, 2]


def test_records_inside_an_epoch_have_the_means_of_their_own_steps(tmp_path, monkeypatch):
    monkeypatch.setattr("fastkd.training.records.LOG_STEPS", 1)
    trainer, losses = trainer_in(tmp_path, training={"epochs": 1}), []
    trainer.stage.register_forward_hook(lambda stage, given, loss: losses.append(loss.total.item()))
    trainer.fit()
    *steps, epoch = logged(tmp_path)
    assert [record["step"] for record in steps] == [1, 2] and "epoch" not in steps[0]
    assert [record["train"]["loss"] for record in steps] == pytest.approx(losses[:2])
    assert epoch["train"]["loss"] == pytest.approx(sum(losses) / STEPS) and len(losses) == STEPS


def test_records_say_how_large_gradients_were_and_what_the_steps_cost(tmp_path, monkeypatch):
    """The norms are those that torch finds of the same gradients, before they are clipped."""
    monkeypatch.setattr("fastkd.training.records.LOG_STEPS", 2)
    trainer, norms = trainer_in(tmp_path, training={"epochs": 1, "clip_norm": 0.5}), []
    plain = trainer.step.averaging.finish

    def finish():
        plain()
        gradients = [parameter.grad for parameter in trainer.stage.parameters() if parameter.grad is not None]
        norms.append(torch.nn.utils.get_total_norm(gradients).item())

    monkeypatch.setattr(trainer.step.averaging, "finish", finish)
    trainer.fit()
    inside, epoch = read_metrics(tmp_path / "metrics.jsonl")
    for record, own in ((inside, norms[:2]), (epoch, norms)):
        assert record["grad_norm"] == pytest.approx(sum(own) / len(own), rel=1e-5)
        assert record["grad_norm_max"] == pytest.approx(max(own), rel=1e-6)
        assert record["data_time"] > 0 and 0 < record["data_share"] < 1
        assert record["memory"].keys() == {"rss"} and record["memory"]["rss"] > 1 << 24
        assert "ranks" not in record and "grad_norm" not in record["train"]


def test_a_person_sees_how_far_it_is(tmp_path):
    class Watched(Display):
        def __init__(self):
            super().__init__(terminal=False)
            self.seen = []

        def due(self):
            return True

        def note(self, text):
            pass

        def live(self, look):
            self.seen.append((look.title, look.epoch, look.epochs, look.done, look.total))
            assert set(look.values) == {"loss", "ce", "top1", "top5"} and look.rate > 0
            assert 0 < look.seconds_left == look.run_seconds_left - 1000

    display = Watched()
    trainer_in(tmp_path, display=display, title="seed 1 student", seconds_after=lambda per_epoch: 1000).fit()
    # The last step of an epoch is told by the epoch's line.
    assert display.seen == [("seed 1 student", 1 + step // STEPS, 2, step, 2 * STEPS) for step in (1, 2, 4, 5)]


def test_a_dry_run_trains_its_first_steps_and_leaves_no_file(tmp_path):
    trainer = trainer_in(tmp_path)
    trainer.warm_up()
    loss, steps = trainer.some_steps()
    assert steps == 1 and 0 < loss < 10
    assert not list(tmp_path.iterdir())


class Squares(Stage):
    """Has something to learn and nothing to test."""

    evaluates = False

    def __init__(self):
        super().__init__()
        self.network = networks.build("resnet8", num_classes=3)

    def forward(self, batch):
        total = self.network(batch.images[0]).logits.square().mean()
        return StageLoss(total, {"square": total.detach()}, torch.zeros(2, dtype=torch.int64))


def test_a_stage_with_nothing_to_test_is_logged_without_hits(tmp_path):
    display = Quiet()
    progress = trainer_in(tmp_path, Squares(), display=display).fit()
    assert progress.test == {} == progress.best
    for record in logged(tmp_path):
        assert record["test"] == {} and set(record["train"]) == {"loss", "square"}
    assert not [note for note in display.notes if "test" in note or "train" in note]


def test_a_loss_that_is_not_finite_is_named_with_what_can_be_gone_on_from(tmp_path):
    class Overflowing(Squares):
        epoch = 0

        def begin_epoch(self, epoch):
            self.epoch = epoch

        def forward(self, batch):
            loss = super().forward(batch)
            return loss._replace(total=loss.total / (0.0 if self.epoch == 1 else 1.0))

    trainer = trainer_in(tmp_path, Overflowing())
    with pytest.raises(UserError) as raised:
        trainer.fit()
    line = str(raised.value)
    assert line.startswith("student: the loss or its gradient was not finite in step 3 (epoch 2): loss inf, square ")
    assert f"the last good checkpoint is {trainer.checkpoint}" in line and "\n" not in line
    assert torch.load(trainer.checkpoint, weights_only=True)["progress"]["epoch"] == 1


def test_a_finished_stage_is_let_go_of():
    """Its memory and, with several processes, its group: without waiting for a garbage collection."""
    job = job_of(tiny_recipe())
    run = Run(job, 0, Path("none"), Session(Quiet()))
    stage = run.builder.stage(job.course[0], run.earlier)
    trainer = run.trainer(job.course[0], stage)
    trainer.warm_up()
    trainer.some_steps()
    held = weakref.ref(trainer), weakref.ref(trainer.step)
    gc.disable()
    try:
        del trainer
        assert [reference() for reference in held] == [None, None]
    finally:
        gc.enable()
