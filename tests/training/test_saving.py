"""The checkpoint of a stage: when it is written, and how it is taken up; tests/run/test_kill.py kills runs at it."""

import pytest
import torch
from helpers.tiny import CPU, Quiet
from helpers.trainers import edit, logged, stopped_after, supervised, trainer_in

from fastkd.support.errors import UserError
from fastkd.training.identity import Identity
from fastkd.training.meter import Meter


class TestCheckpointsThatDoNotFit:
    def test_of_another_stage(self, tmp_path):
        checkpoint = stopped_after(1, tmp_path)
        checkpoint.rename(tmp_path / "teacher.pt")
        with pytest.raises(UserError, match=r"teacher\.pt is of the stage 'student', expected 'teacher'"):
            trainer_in(tmp_path, name="teacher").fit()

    def test_of_another_format(self, tmp_path):
        edit(stopped_after(1, tmp_path), format=99)
        with pytest.raises(UserError, match=r"student\.pt has format 99, this fastkd reads 1"):
            trainer_in(tmp_path).fit()

    def test_of_another_recipe(self, tmp_path):
        stopped_after(1, tmp_path, identity=Identity({"seed": 0}))
        with pytest.raises(UserError, match=r"student\.pt was made with seed = 0, the recipe now says 1"):
            trainer_in(tmp_path, identity=Identity({"seed": 1})).fit()

    def test_of_another_network(self, tmp_path):
        stopped_after(1, tmp_path)
        with pytest.raises(UserError, match=r"student\.pt does not fit this stage: size mismatch") as raised:
            trainer_in(tmp_path, supervised("resnet8x4")).fit()
        assert "\n" not in str(raised.value)


def test_what_the_ranks_tell_each_other_for_a_checkpoint_is_on_the_host(tmp_path, monkeypatch):
    """A meta tensor stands for one of a GPU."""
    trainer, told = trainer_in(tmp_path), []
    monkeypatch.setattr(torch.Tensor, "cpu", lambda value: torch.zeros_like(value, device="cpu"))
    trainer.step.meter = Meter(torch.device("meta"))
    trainer.step.meter.names, trainer.step.meter.values = ("loss",), torch.zeros(1, device="meta")
    monkeypatch.setattr("fastkd.training.saving.from_all", lambda value: [told.append(value) or value])
    trainer.save()
    tensors = [told[0]["hits"], *told[0]["sums"].values(), *told[1].values()]
    assert len(tensors) == 3 and all(tensor.device == CPU for tensor in tensors)


def test_another_number_of_threads_is_told(tmp_path):
    edit(stopped_after(1, tmp_path), threads=torch.get_num_threads() + 1)
    display = Quiet()
    trainer_in(tmp_path, display=display).fit()
    now = torch.get_num_threads()
    assert display.notes[0].startswith(f"student: begun with {now + 1} threads, goes on with {now}: results are the")


@pytest.mark.parametrize("ranks", (2, 3))
def test_what_several_ranks_counted_of_an_epoch_is_counted_on_by_one(ranks, tmp_path):
    folders = [tmp_path / name for name in ("one", "several")]
    for folder in folders:
        folder.mkdir()
        checkpoint = stopped_after(2, folder)
    state = torch.load(checkpoint, weights_only=True)
    (meter,), (rng,) = state["meters"], state["rngs"]
    first = {"sums": {name: ranks * value for name, value in meter["sums"].items()}, "hits": meter["hits"]}
    others = {"sums": {name: 0 * value for name, value in meter["sums"].items()}, "hits": 0 * meter["hits"]}
    edit(checkpoint, meters=[meter | first, *[meter | others] * (ranks - 1)], rngs=[rng] * ranks)
    display = Quiet()
    trainer_in(folders[0]).fit()
    trainer_in(folders[1], display=display).fit()
    assert display.notes[0].startswith(f"student: begun with {ranks} processes, goes on with 1: the batches are the")
    for mine, theirs in zip(*map(logged, folders), strict=True):
        assert mine["train"] == pytest.approx(theirs["train"], rel=1e-12)
