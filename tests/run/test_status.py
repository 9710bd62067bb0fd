"""How a run stands, by its files alone: with signs of life, without, and with damaged ones."""

import json
import os
import time
from dataclasses import replace

import pytest
from helpers.hostile import line_of
from helpers.interrupts import AfterSteps
from helpers.made_runs import write_run
from helpers.tiny import Quiet, job_of, tiny_recipe

from fastkd.run import carry_out, create_folder
from fastkd.run.run import Run
from fastkd.run.status import run_folders, status_of
from fastkd.support.errors import UserError
from fastkd.support.heartbeat import FILE, Heartbeat
from fastkd.support.interrupt import Interrupt, Stopped
from fastkd.support.processes import own_process
from fastkd.support.session import Session
from fastkd.training.step import Step

HITS = {"teacher": [80], "student": [70], "control": [60]}


@pytest.fixture
def folder(tmp_path):
    """A run that an older fastkd has finished."""
    return write_run(tmp_path / "run", tiny_recipe(), HITS)


def beat(folder, *, ago=0.0, **facts):
    """Leaves a sign of life as some process did some seconds ago."""
    Heartbeat(folder / FILE).beat(stage="student", epoch=2, epochs=20, step=30, steps=400)
    content = json.loads((folder / FILE).read_text())
    (folder / FILE).write_text(json.dumps(content | facts))
    os.utime(folder / FILE, (time.time() - ago,) * 2)


def listing(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


class TestWithSignsOfLife:
    @pytest.mark.parametrize(
        ("facts", "ago", "state"),
        (
            ({"patience": 120.0}, 60, "running"),
            ({"patience": 120.0}, 600, "stalled"),
            ({"patience": 1800.0, "doing": "compiling"}, 600, "running"),
            ({"host": "elsewhere", "pid": 1, "patience": 120.0}, 60, "running"),
            ({"host": "elsewhere", "pid": 1, "patience": 120.0}, 600, "stalled"),
            ({"begun": "1"}, 1, "killed"),
            ({"state": "finished", "begun": "1"}, 1e6, "finished"),
            ({"state": "stopped", "why": "stopped by SIGTERM in student, epoch 2"}, 1e6, "stopped"),
            ({"state": "failed", "why": "out of memory"}, 1e6, "failed"),
        ),
    )
    def test_states(self, facts, ago, state, folder):
        beat(folder, ago=ago, **facts)
        before, found = listing(folder), status_of(folder)
        assert (found.state, found.stage, found.epoch, found.epochs) == (state, "student", 2, 20)
        assert found.doing == facts.get("why", facts.get("doing", ""))
        assert found.silent_for == pytest.approx(ago, abs=30)
        assert listing(folder) == before, "something was written"

    def test_a_person_may_be_less_patient(self, folder):
        beat(folder, ago=60)
        assert status_of(folder).state == "running" and status_of(folder, patience=30).state == "stalled"

    def test_a_clock_that_is_ahead_is_no_silence(self, folder):
        beat(folder, ago=-1e6)
        assert status_of(folder).silent_for == 0.0

    @pytest.mark.parametrize("content", ("", "{", "[]", '{"state": "dead"}', "\0"))
    def test_damage_is_a_line(self, content, folder):
        (folder / FILE).write_text(content)
        found = status_of(folder)
        assert found.state == "damaged" and "heartbeat.json" in found.doing and "\n" not in found.doing


class TestWithout:
    """Runs of an older fastkd, and with --heartbeat 0."""

    def test_what_has_all_its_results_is_finished(self, folder):
        found = status_of(folder)
        assert (found.state, found.stage, found.epoch, found.epochs) == ("finished", "control", 3, 2)
        assert (found.loss, found.accuracy, found.host) == (1.0, 0.6, None)

    @pytest.mark.parametrize(("ago", "state"), ((60, "running"), (1e5, "stalled")))
    def test_else_it_counts_when_something_was_written(self, ago, state, folder):
        (folder / "results.json").unlink()
        for path in folder.iterdir():
            os.utime(path, (time.time() - ago,) * 2)
        found = status_of(folder)
        assert (found.state, found.doing) == (state, "without a heartbeat")
        assert found.silent_for == pytest.approx(ago, abs=30)

    def test_seeds_are_one_run(self, tmp_path):
        folder = write_run(tmp_path / "run", tiny_recipe(seeds=2), {"teacher": [80, 81], "student": [70, 71]})
        found = status_of(folder)
        assert (found.state, found.seed, found.accuracy) == ("running", 1, 0.71), "there is no control yet"
        assert run_folders(folder) == [folder]

    def test_one_that_has_just_begun(self, tmp_path):
        create_folder(tmp_path / "run", tiny_recipe())
        found = status_of(tmp_path / "run")
        assert (found.state, found.stage, found.step) == ("running", None, None)

    def test_damage_is_a_line(self, folder):
        (folder / "results.json").write_text("{")
        assert status_of(folder).state == "damaged" and "results.json" in status_of(folder).doing


class TestFolders:
    def test_runs_are_found_below(self, folder, tmp_path):
        other = write_run(tmp_path / "more" / "other", tiny_recipe(), HITS)
        (tmp_path / "notes.txt").write_text("")
        assert run_folders(tmp_path) == [other, folder]

    def test_those_of_a_table_are_its_trainings(self, tmp_path):
        node = write_run(tmp_path / "nodes" / "0a1b", tiny_recipe(), HITS)
        write_run(tmp_path / "cells" / "kd", tiny_recipe(), HITS)
        assert run_folders(tmp_path) == [node] and status_of(node).what == "resnet8"

    @pytest.mark.parametrize(("name", "words"), (("nowhere", "no run folder"), ("empty", "is no run folder")))
    def test_where_none_is_it_is_one_line(self, name, words, tmp_path):
        (tmp_path / "empty").mkdir()
        assert words in line_of(lambda: run_folders(tmp_path / name), name)


class TestOfATraining:
    """What a training itself leaves."""

    def train(self, folder, interrupt=None):
        recipe = replace(tiny_recipe(), stages=tiny_recipe().stages[:2])
        if not folder.exists():
            create_folder(folder, recipe)
        carry_out(job_of(recipe), folder, Session(Quiet(), interrupt or Interrupt(), heartbeat_seconds=1e-9))

    def test_it_lives_is_stopped_goes_on_and_ends(self, tmp_path, monkeypatch):
        folder, seen, plain = tmp_path / "run", [], Step.__call__

        def watched(step, raw):
            plain(step, raw)
            seen.append(status_of(folder))

        monkeypatch.setattr(Step, "__call__", watched)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
            self.train(folder, AfterSteps(patch, 11))
        assert status_of(folder).state == "stopped" and "stopped by SIGINT in student" in status_of(folder).doing
        self.train(folder)
        assert {one.state for one in seen} == {"running"} and {one.seed for one in seen} == {0}
        assert list(dict.fromkeys(one.stage for one in seen)) == ["teacher", "student"]
        third = seen[2]  # as it is known while the third step is taken
        assert (third.doing, third.epoch, third.epochs, third.step, third.steps) == ("training", 1, 2, 2, 8)
        assert third.images_per_second > 0 and third.run_seconds_left > third.seconds_left > 0
        last = status_of(folder)
        assert (last.state, last.doing, last.epoch, last.step) == ("finished", "", 2, 8)
        assert 0 <= last.accuracy <= 1 and last.host == own_process()["host"]

    def test_one_without_signs_removes_those_of_the_call_before(self, tmp_path, monkeypatch):
        """They would say that it has stopped, or that its process is gone."""
        create_folder(tmp_path / "run", tiny_recipe())
        beat(tmp_path / "run", state="stopped")
        monkeypatch.setattr(Run, "carry_out", lambda run: {})
        carry_out(job_of(tiny_recipe()), tmp_path / "run", Session(Quiet(), heartbeat_seconds=0))
        assert status_of(tmp_path / "run").doing == "without a heartbeat"

    def test_a_mistake_is_why_it_failed(self, tmp_path, monkeypatch):
        def fails(step, raw):
            raise UserError("the dog ate it")

        monkeypatch.setattr(Step, "__call__", fails)
        with pytest.raises(UserError):
            self.train(tmp_path / "run")
        assert (status_of(tmp_path / "run").state, status_of(tmp_path / "run").doing) == ("failed", "the dog ate it")
