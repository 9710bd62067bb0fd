"""Networks that learn together, and teachers taken along their own training: whole runs."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.courses import taught_recipe
from helpers.interrupts import stopped_and_resumed
from helpers.recorders import record_everything
from helpers.tiny import Quiet, assert_same, built_stages, job_of, outcome, tiny_recipe, train
from safetensors.torch import load_file

from fastkd.methods import find_method
from fastkd.recipes.course import course, kept_epochs
from fastkd.run import Run, check, load_network
from fastkd.run.builder import Builder
from fastkd.run.earlier import Earlier
from fastkd.support import files
from fastkd.support.errors import UserError
from fastkd.support.interrupt import Interrupt
from fastkd.training.execution import EVERYTHING_OFF
from fastkd.training.stages import Mutual


class TestPeers:
    @pytest.mark.parametrize("method, peers", [("dml", 1), ("kdcl", 2)])
    def test_a_run_trains_all_of_them_at_once(self, method, peers, tmp_path):
        given = taught_recipe(method, peers)
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

    def test_every_network_has_its_own_learning_rate_and_view(self):
        given = taught_recipe("kdcl", 2)
        teacher = given.stages[0]
        slow = replace(teacher, training=replace(teacher.training, lr=0.01))
        given = replace(given, stages=(slow, *given.stages[1:]))
        (planned,) = course(given)
        assert [peer.lr_factor for peer in planned.peers] == [pytest.approx(0.2), 1.0]
        stage = Builder(job_of(given), 0).stage(planned, Earlier(()))
        assert isinstance(stage, Mutual) and stage.views.count == 3
        groups = stage.parameter_groups()
        assert [group["lr_factor"] for group in groups] == [1.0, pytest.approx(0.2), 1.0]
        assert [len(group["params"]) for group in groups] == [len(list(net.parameters())) for net in stage.networks]
        assert stage.networks[0] is not stage.networks[1]
        seen = []
        for network in stage.networks:
            network.stem.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        builder = Builder(job_of(given), 0)
        source = builder.train_source(planned, stage.views)
        zero = torch.tensor(0)
        stage(source.prepare(next(iter(source.loader.epoch(0))), zero, zero)).total.backward()
        assert len({x.sum().item() for x in seen}) == 3
        assert all(parameter.grad is not None for parameter in stage.parameters())
        alike = {"kdcl": replace(planned.settings["kdcl"], own_augmentation=False)}
        assert builder.stage(replace(planned, settings=alike), Earlier(())).views.count == 1

    def test_a_loaded_teacher_does_not_learn(self, tmp_path):
        given = taught_recipe("dml")
        loaded = replace(given.stages[0], training=None, file="teacher.pt")
        with pytest.raises(UserError, match="dml trains all its networks together: the teacher cannot be loaded"):
            check(job_of(replace(given, stages=(loaded, given.stages[1]))))

    def test_what_the_teachers_own_training_would_have_been_is_told(self):
        base = tiny_recipe()
        student = replace(base.stages[1], method="dml", settings={"dml": find_method("dml").Settings()})
        given = replace(base, stages=(base.stages[0], student))
        stage = Builder(job_of(given), 0).stage(course(given)[0], Earlier(()))
        assert stage.notes == ["dml: the teacher learns together with the student: 2 epochs and no branches"]


class TestWaypoints:
    def test_one_training_divided_among_them(self, tmp_path):
        given = taught_recipe("rco", epochs=4, anchors=4)
        planned = course(given)
        assert planned[-1].teachers == ("teacher@1", "teacher@2", "teacher@3", "teacher")
        assert kept_epochs(planned, "teacher") == {1, 2, 3} and kept_epochs(planned, "student") == set()
        seen = []
        original = Run._trainer

        def watched(run, planned, stage, log):
            if planned.name == "student":
                begin = stage.begin_epoch

                def begin_epoch(epoch):
                    begin(epoch)
                    seen.append(stage.teachers[0].stem[0].weight.clone())

                stage.begin_epoch = begin_epoch
            return original(run, planned, stage, log)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Run, "_trainer", watched)
            train(given, tmp_path / "whole")
        anchors = [load_file(tmp_path / "whole" / "checkpoints" / f"teacher@{e}.safetensors") for e in (1, 3)]
        pairs = zip(seen, anchors, strict=True)
        assert all(torch.equal(weight, anchor["conv1.weight"]) for weight, anchor in pairs)
        assert_same(stopped_and_resumed(given, tmp_path / "in epoch 2", 22), outcome(tmp_path / "whole"))

    def test_a_training_for_each(self, tmp_path):
        given = taught_recipe("rco", epochs=4, anchors=2, restart=True)
        assert [(stage.name, stage.teachers, stage.after) for stage in course(given)[1:]] == [
            ("student-1", ("teacher@2",), ()),
            ("student", ("teacher",), ("student-1",)),
        ]
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

    @pytest.mark.parametrize(
        "change, words",
        [
            ({"anchors": 3}, "the teacher's 2 epochs do not divide into 3 anchors"),
            ({"anchors": 0}, "rco: anchors is at least 1, got 0"),
        ],
    )
    def test_too_many(self, change, words):
        with pytest.raises(UserError, match=words):
            course(taught_recipe("rco", **change))

    def test_of_several_networks(self):
        given = taught_recipe("rco", 2)
        other = replace(given.stages[1], network="resnet14")
        with pytest.raises(UserError, match="rco: the anchors are one network at several times, not several"):
            check(job_of(replace(given, stages=(given.stages[0], other, given.stages[2]))))

    def test_one_that_is_loaded_has_no_past(self):
        given = taught_recipe("rco")
        loaded = replace(given.stages[0], training=None, file="teacher.pt")
        with pytest.raises(UserError, match="rco follows the teacher's training: give each point"):
            course(replace(given, stages=(loaded, given.stages[1])))


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


def test_the_number_of_teachers_is_checked():
    with pytest.raises(UserError, match="kd has 1 teacher, got 2"):
        check(job_of(taught_recipe("kd", 2)))


def test_whole_batches_are_asked_for():
    given = taught_recipe("semckd")
    training = replace(given.stages[1].training, drop_last=False, batch_size=48)
    with pytest.raises(UserError, match="semckd: every batch has the same size: it needs --drop-last on"):
        check(job_of(replace(given, stages=(given.stages[0], replace(given.stages[1], training=training)))))
    check(job_of(given))


@pytest.mark.parametrize("norm, folded", [("running", True), ("batch", False)])
def test_a_teacher_on_batch_statistics_is_not_folded(norm, folded):
    given = taught_recipe("oh", teacher_norm=norm)
    _, stages = built_stages(given, EVERYTHING_OFF._replace(fold=True))
    (teacher,) = stages["student"].teachers
    assert any(isinstance(module, torch.nn.Identity) for module in teacher.stem.modules()) == folded


def test_dry_run_takes_every_stage_of_the_course():
    given = taught_recipe("rco", epochs=4, restart=True)
    rows = Run(job_of(given), 0, Path(), display=Quiet(), interrupt=Interrupt()).dry_run()
    assert [row["stage"] for row in rows] == ["teacher", "student-1", "student-2", "student-3", "student"]
