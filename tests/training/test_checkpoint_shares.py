"""Checkpoints that several processes share out: read by any number of them, and whole whenever one is killed."""

import multiprocessing
import random
import shutil
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from helpers.gloo_pair import run_in_two
from helpers.shares_two_processes import LEAST_BYTES, Contrasted, train, trainer_of, write_until_killed
from torch import nn

from fastkd.support import states
from fastkd.support.errors import UserError
from fastkd.training import checkpoint_shares, saving
from fastkd.training.checkpoint import read_checkpoint
from fastkd.training.writer import CheckpointWriter


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(checkpoint_shares, "LEAST_BYTES", LEAST_BYTES)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """What two processes left, see `helpers.shares_two_processes.train`."""
    folder = tmp_path_factory.mktemp("shares")
    (folder / "run").mkdir()
    run_in_two(train, str(folder))
    return folder


@pytest.fixture
def run(folders, tmp_path):
    return shutil.copytree(folders / "after", tmp_path / "run")


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".jsonl")


def numbers(folder):
    state, _ = states.read_state(folder / "student.pt")
    return [share["number"] for share in state.get("shares", ())]


def tensors(tree, at=()):
    if isinstance(tree, dict):
        return {place: value for name, item in tree.items() for place, value in tensors(item, (*at, name)).items()}
    return {at: tree} if isinstance(tree, torch.Tensor) else {}


def test_all_processes_hold_alike_what_is_trained_and_what_a_loss_computes_alike():
    stage = Contrasted()
    alike = checkpoint_shares.replicated(stage)
    assert {"loss.bank", "loss.position", "loss.student_head.weight"} <= alike
    assert not any("running" in name for name in alike), "each process has statistics of its own images"
    assert alike <= stage.state_dict().keys()


@pytest.mark.parametrize("among", (1, 2, 3, 7))
def test_rows_put_together_are_the_tensors(among):
    """Rows that the processes do not divide, too."""
    layer = nn.Linear(40, 10)
    state = {
        "model": layer.state_dict() | {"own": torch.randn(40, 40), "few": torch.randn(3)},
        "optimizer": {0: {"momentum_buffer": torch.randn(10, 40), "step": torch.tensor(3.0)}, 1: {}},
        "progress": {"epoch": 3},
    }
    rest, large = checkpoint_shares.shared_out(state, checkpoint_shares.replicated(layer), among)
    assert list(tensors(large)) == [("model", "weight"), ("optimizer", 0, "momentum_buffer")]
    assert list(rest) == list(state) and tensors(rest).keys() == tensors(state).keys() - tensors(large).keys()
    parts = [checkpoint_shares.rows_of(large, mine, among) for mine in range(among)]
    for entry in large:
        rest[entry] = checkpoint_shares._with_rows(rest[entry], [part[entry] for part in parts])
    found = tensors(rest)
    assert found.keys() == tensors(state).keys()
    assert all(torch.equal(value, found[place]) for place, value in tensors(state).items())


def test_one_process_writes_one_file(tmp_path):
    trainer = trainer_of(tmp_path)
    trainer.epoch()
    trainer.save()
    trainer.saving.settle()
    assert names(tmp_path) == ["student.pt"] and numbers(tmp_path) == []


class TestOfTwoProcesses:
    def test_they_hold_the_same_bank(self, folders):
        one, other = (torch.load(folders / f"found-{number}.pt", weights_only=True) for number in (0, 1))
        assert all(
            torch.equal(one["trained"][f"loss.{name}"], other["trained"][f"loss.{name}"]) for name in ("bank", "z")
        )

    def test_shares_hold_what_one_file_does(self, folders):
        whole, once, aside = (
            read_checkpoint(folders / name / "student.pt", "student") for name in ("whole", "once", "aside")
        )
        assert numbers(folders / "whole") == [] and numbers(folders / "once") == [0, 1]
        for found in (once, aside):
            assert found.keys() - {"shares"} == whole.keys()
            mine, theirs = tensors(found), tensors(whole)
            assert mine.keys() == theirs.keys()
            assert all(torch.equal(value, mine[place]) for place, value in theirs.items())

    def test_at_once_and_aside_the_bytes_are_the_same(self, folders):
        for number in (0, 1):
            states_of = [
                states.read_state(folders / name / f"student.pt.{first + number}")[0]
                for name, first in (("once", 0), ("aside", 2))
            ]
            once, aside = (tensors(state) for state in states_of)
            assert (
                all(torch.equal(value, aside[place]) for place, value in once.items()) and once.keys() == aside.keys()
            )

    def test_no_process_writes_all_rows(self, folders):
        whole = read_checkpoint(folders / "whole" / "student.pt", "student")["model"]["loss.bank"]
        for number in (0, 1):
            share, _ = states.read_state(folders / "once" / f"student.pt.{number}")
            assert torch.equal(share["model"]["loss.bank"], whole.tensor_split(2)[number])
        assert "loss.bank" not in states.read_state(folders / "once" / "student.pt")[0]["model"]

    def test_the_shares_of_the_one_before_go_when_the_next_is_there(self, folders):
        assert names(folders / "once") == ["student.pt", "student.pt.0", "student.pt.1"]
        assert names(folders / "aside") == ["student.pt", "student.pt.2", "student.pt.3"]
        both = [f"student.pt.{number}" for number in (2, 3, 4, 5)]
        assert names(folders / "between") == ["student.pt", *both] and numbers(folders / "between") == [2, 3]
        assert names(folders / "after") == ["student.pt", "student.pt.4", "student.pt.5"]

    def test_killed_between_shares_and_checkpoint_the_one_before_is_whole(self, folders):
        found = [read_checkpoint(folders / name / "student.pt", "student") for name in ("aside", "between")]
        assert tensors(found[0]).keys() == tensors(found[1]).keys()
        assert all(torch.equal(value, tensors(found[1])[place]) for place, value in tensors(found[0]).items())

    def test_they_go_on_bit_for_bit(self, folders):
        for number in (0, 1):
            found = torch.load(folders / f"found-{number}.pt", weights_only=True)
            for name, value in found["trained"].items():
                assert torch.equal(found["again"][name], value), name

    def test_a_disk_that_is_full_for_one_of_them_is_one_line_for_both(self, folders):
        for number in (0, 1):
            words = torch.load(folders / f"found-{number}.pt", weights_only=True)["words"]
            assert words == f"cannot write {folders / 'run' / 'student.pt.7'}: the disk is full"
        assert numbers(folders / "failed") == [4, 5]
        read_checkpoint(folders / "failed" / "student.pt", "student")

    @pytest.mark.parametrize("processes", (1, 2, 3))
    def test_any_number_of_processes_reads_them(self, processes, run, folders, monkeypatch):
        monkeypatch.setattr(saving, "world_size", lambda: processes)
        monkeypatch.setattr(saving, "rank", lambda: processes - 1)
        trainer = trainer_of(run)
        trainer.load()
        expected = read_checkpoint(folders / "whole" / "student.pt", "student")
        assert trainer.progress.epoch == 1 and trainer.saving.writer.first == 6
        assert torch.equal(trainer.stage.loss.bank, expected["model"]["loss.bank"])

    def test_one_process_goes_on_and_leaves_no_share(self, run):
        trainer_of(run).fit()
        assert names(run) == ["student.pt"]


def test_shares_in_a_folder_that_is_another_one_for_the_first_process_are_named(tmp_path):
    """As on two machines that share no folder: the checkpoint that would count them is not written."""
    writer = CheckpointWriter(tmp_path / "student.pt", "student", lambda: None)
    (tmp_path / "student.pt.0").touch()
    writer._state = {"format": 2}
    writer._start_checkpoint([{"number": number, "bytes": 0, "sha256": ""} for number in (0, 1)])
    writer._underway = "checkpoint"
    with pytest.raises(UserError, match=r"process 1 has written .*student\.pt\.1, which process 0 does not see"):
        writer.settle()
    assert names(tmp_path) == ["student.pt.0"]


class TestDamage:
    @pytest.mark.parametrize("share", (4, 5))
    def test_a_share_that_is_gone(self, share, run):
        (run / f"student.pt.{share}").unlink()
        with pytest.raises(UserError, match=rf"cannot read the checkpoint .*student\.pt\.{share}: No such file"):
            read_checkpoint(run / "student.pt", "student")

    def test_a_share_that_is_cut_off(self, run):
        file = run / "student.pt.5"
        file.write_bytes(file.read_bytes()[:-7])
        with pytest.raises(UserError, match=r"student\.pt\.5 has [\d,]+ bytes, the checkpoint counts [\d,]+$"):
            read_checkpoint(run / "student.pt", "student")

    @pytest.mark.parametrize("part", (0.1, 0.5, 0.99))
    def test_a_share_with_a_bit_that_flipped(self, part, run):
        file = run / "student.pt.4"
        content = bytearray(file.read_bytes())
        content[int(part * len(content))] ^= 1
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"student\.pt\.4 (is damaged|is not the file|is not a checkpoint)"):
            read_checkpoint(run / "student.pt", "student")

    def test_the_share_of_another_process(self, run):
        shutil.copy(run / "student.pt.4", run / "student.pt.5")
        with pytest.raises(UserError, match=r"student\.pt\.5 (has [\d,]+ bytes|is not the file)"):
            read_checkpoint(run / "student.pt", "student")

    def changed(self, run, **changes):
        """The second share is another one, which the checkpoint counts."""
        share, _ = states.read_state(run / "student.pt.5")
        written = states.write_state(run / "student.pt.5", share | changes)
        state, _ = states.read_state(run / "student.pt")
        state["shares"][1] |= {"bytes": written.size, "sha256": written.sha256}
        states.write_state(run / "student.pt", state)
        return share

    def test_a_share_that_says_it_is_another(self, run):
        self.changed(run, number=3)
        with pytest.raises(UserError, match=r"student\.pt\.5 is the share 3 of another checkpoint, of the stage 'st"):
            read_checkpoint(run / "student.pt", "student")

    @pytest.mark.parametrize("model", ({}, {"loss.bank": torch.zeros(5)}, {"loss.bank": torch.zeros(5, 3, 8)}))
    def test_rows_that_do_not_fit(self, model, run):
        self.changed(run, model=model)
        with pytest.raises(UserError, match=r"student\.pt does not fit its shares: their rows of the model differ"):
            read_checkpoint(run / "student.pt", "student")

    def test_no_name_in_a_checkpoint_is_a_path(self, run):
        state, _ = states.read_state(run / "student.pt")
        state["shares"][0]["number"] = "../../precious"
        states.write_state(run / "student.pt", state)
        with pytest.raises(UserError, match=r"student\.pt\.shares\[0\]\.number is '\.\./\.\./precious', expected int"):
            read_checkpoint(run / "student.pt", "student")


class TestClearing:
    def test_shares_that_are_not_counted_go(self, tmp_path):
        kept = ("student.pt", "student.pt.3", "student.pt.bak", "teacher.pt.1", "student.pt.4.txt")
        for name in (*kept, "student.pt.1", "student.pt.12"):
            (tmp_path / name).write_text("")
        checkpoint_shares.remove_shares(tmp_path / "student.pt", but=[3])
        assert names(tmp_path) == sorted(kept)

    def test_shares_of_a_checkpoint_that_is_gone_go(self, tmp_path):
        kept = ("student.pt", "student.pt.3", "notes.1", "teacher.pt.one")
        for name in (*kept, "teacher.pt.1"):
            (tmp_path / name).write_text("")
        checkpoint_shares.remove_orphans(tmp_path)
        checkpoint_shares.remove_orphans(tmp_path / "none")
        assert names(tmp_path) == sorted(kept)


@pytest.mark.slow
def test_killed_at_random_instants_there_is_always_a_whole_one(tmp_path):
    """Two processes write one after the other; kill -9 of both at once, again and again."""
    context, chance, seen = multiprocessing.get_context("spawn"), random.Random(0), []
    (tmp_path / "run").mkdir()
    for kill in range(8):
        meet = tmp_path / f"meet {kill}"
        meet.mkdir()
        pair = [context.Process(target=_in_group, args=(number, str(meet), str(tmp_path / "run"))) for number in (0, 1)]
        for process in pair:
            process.start()
        until = time.monotonic() + 60
        while not (tmp_path / "run" / "student.pt").exists() or not (meet / "begun").exists():
            assert time.monotonic() < until and all(process.is_alive() for process in pair)
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.5))
        for process in pair:
            process.kill()
            process.join()
        state = read_checkpoint(tmp_path / "run" / "student.pt", "student")
        held = {
            value.unique().tolist()[0]
            for value in (state["model"]["loss.bank"], state["model"]["loss.student_head.weight"])
        }
        assert held == {state["progress"]["seconds"]} and len(state["model"]["loss.bank"].unique()) == 1
        seen.append(state["progress"]["seconds"])
    assert seen == sorted(seen) and seen[-1] > seen[0] > 0


def _in_group(number, meet, folder):
    dist.init_process_group("gloo", init_method=f"file://{meet}/meet", rank=number, world_size=2)
    torch.set_num_threads(1)
    (Path(meet) / "begun").touch()
    write_until_killed(number, folder)
