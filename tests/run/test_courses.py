"""Networks that learn together, and teachers taken along their own training: whole runs."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.courses import taught_recipe
from helpers.interrupts import stopped_and_resumed
from helpers.recorders import record_everything
from helpers.tiny import Quiet, assert_same, job_of, outcome, train
from safetensors.torch import load_file

from fastkd.run import Run, load_network
from fastkd.support import files
from fastkd.support.session import Session


class TestPeers:
    @pytest.mark.parametrize("method, peers, settings", [("dml", 1, {}), ("kdcl", 2, {"target": "general"})])
    def test_a_run_trains_all_of_them_at_once(self, method, peers, settings, tmp_path):
        given = taught_recipe(method, peers, **settings)
        train(given, tmp_path / "whole")
        names = ["student", "teacher", "teacher-2"][: 1 + peers]
        results = json.loads((tmp_path / "whole" / "results.json").read_text())["stages"]
        assert set(results) == set(names)
        assert all(set(results[name]["test"]) == {name} for name in names)
        log = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
        assert [record["stage"] for record in log] == ["student", "student"]
        assert {f"{name}.kl" for name in names} <= log[0]["train"].keys()
        assert set(log[0]["test"]) == set(names)
        weights = [load_file(tmp_path / "whole" / f"{name}.safetensors") for name in names]
        assert not torch.equal(weights[0]["conv1.weight"], weights[1]["conv1.weight"])
        assert_same(stopped_and_resumed(given, tmp_path / "parts", 6), outcome(tmp_path / "whole"))
        display = Quiet()
        train(given, tmp_path / "whole", display=display)
        assert display.notes == ["student  finished before"]
        assert load_network(tmp_path / "whole", "teacher").head.classifier.out_features == 10


class TestWaypoints:
    def test_one_training_divided_among_them(self, tmp_path):
        given = taught_recipe("rco", epochs=4, anchors=4)
        seen = []
        original = Run.trainer

        def watched(run, planned, stage, *more):
            if planned.name == "student":
                begin = stage.begin_epoch

                def begin_epoch(epoch):
                    begin(epoch)
                    seen.append(stage.teachers[0].stem[0].weight.clone())

                stage.begin_epoch = begin_epoch
            return original(run, planned, stage, *more)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Run, "trainer", watched)
            train(given, tmp_path / "whole")
        anchors = [load_file(tmp_path / "whole" / "checkpoints" / f"teacher@{e}.safetensors") for e in (1, 3)]
        pairs = zip(seen, anchors, strict=True)
        assert all(torch.equal(weight, anchor["conv1.weight"]) for weight, anchor in pairs)
        assert_same(stopped_and_resumed(given, tmp_path / "in epoch 2", 22), outcome(tmp_path / "whole"))

    def test_a_training_for_each(self, tmp_path):
        given = taught_recipe("rco", epochs=4, anchors=2, restart=True)
        train(given, tmp_path / "whole")
        log = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
        losses = {(record["stage"], record["epoch"]): record["train"]["ce"] for record in log[4:]}
        assert losses["student", 1] < losses["student-1", 1]  # it goes on with the weights of the first
        for count in (18, 24, 27):
            assert_same(stopped_and_resumed(given, tmp_path / f"{count}", count), outcome(tmp_path / "whole"))

    def test_anchors_that_are_given(self, tmp_path):
        """Three points of another run's teacher, in the order in which they are named."""
        train(replace(taught_recipe("kd", epochs=3), keep_epochs=(1, 2)), tmp_path / "first")
        given = taught_recipe("rco", 3)
        found = [tmp_path / "first" / name for name in ("checkpoints/teacher@1", "checkpoints/teacher@2", "teacher")]
        paths = [path.with_name(f"{path.name}.safetensors") for path in found]
        teachers = [
            replace(stage, training=None, file=str(path), sha256=files.sha256(path))
            for stage, path in zip(given.stages[:3], paths, strict=True)
        ]
        results = train(replace(given, stages=(*teachers, given.stages[3])), tmp_path / "second")
        assert "student" in results[0]["stages"]


@pytest.mark.parametrize("method", ("aveg", "aekd+aekd_f", "simkd"))
def test_several_teachers(method, tmp_path):
    given = taught_recipe(method, 2)
    train(given, tmp_path / "whole")
    weights = [load_file(tmp_path / "whole" / f"{name}.safetensors") for name in ("teacher", "teacher-2")]
    assert not torch.equal(weights[0]["conv1.weight"], weights[1]["conv1.weight"])
    assert_same(stopped_and_resumed(given, tmp_path / "parts", 19), outcome(tmp_path / "whole"))
    images = torch.randn(3, 3, 8, 8)
    assert load_network(tmp_path / "parts", "student")(images).logits.shape == (3, 10)


@pytest.mark.parametrize("method, settings", [("kdcl", {"target": "linear"}), ("rco", {"anchors": 2}), ("simkd", {})])
def test_a_captured_run_is_the_run(method, settings, tmp_path, monkeypatch):
    given = taught_recipe(method, **settings)
    stages = tuple(replace(s, training=replace(s.training, batch_size=8, ema=0.5)) for s in given.stages)
    given = replace(given, stages=stages)
    train(given, tmp_path / "plain")
    record_everything(monkeypatch)
    train(given, tmp_path / "captured")
    assert_same(outcome(tmp_path / "captured"), outcome(tmp_path / "plain"))


def test_a_dry_run_takes_every_stage_of_the_course():
    given = taught_recipe("rco", epochs=4, restart=True)
    rows = Run(job_of(given), 0, Path(), Session(Quiet())).dry_run()
    assert [row["stage"] for row in rows] == ["teacher", "student-1", "student-2", "student-3", "student"]
