"""What the logs of runs become: a mean and a band over seeds, in one colour a run."""

import math
import re

import pytest
from helpers.made_runs import record

from fastkd.run.charts import colour
from fastkd.run.curves import (
    Curves,
    coloured,
    error_of,
    groups,
    learning_rate,
    made_images,
    number,
    over_seeds,
    term,
    watched,
)

ROLES = {"teacher": "teacher", "student": "student", "control": "control"}


def log(hits, stages=tuple(ROLES), epochs=3):
    return [record(stage, epoch, hits, epochs) for stage in stages for epoch in range(epochs)]


def several(runs):
    return coloured([Curves(*run) for run in runs])


def titles(charts):
    return [re.search('class="title">(.*?)<', chart)[1] for chart in charts if chart]


class TestOverSeeds:
    def test_mean_and_deviation_where_several_seeds_have_the_epoch(self):
        logs = [log(80, ("student",)), log(90, ("student",), 4)]
        points, band = over_seeds(logs, error_of("student"))
        # Of the last epoch 20 and 10 are wrong, and ten more an epoch earlier; the second seed has one epoch more.
        assert points == [(1, 40.0), (2, 30.0), (3, 20.0), (4, 10.0)]
        deviation = math.sqrt(2 * 0.0**2)
        assert [epoch for epoch, *_ in band] == [1, 2, 3]
        assert all(low == high - 2 * deviation for _, low, high in band)

    def test_the_band_is_a_sample_deviation_wide(self):
        _, band = over_seeds([log(80), log(90)], error_of("teacher"))
        assert band[-1] == pytest.approx((3, 15 - math.sqrt(50), 15 + math.sqrt(50)))

    def test_one_seed_has_no_band(self):
        points, band = over_seeds([log(80)], term("student", "kl"))
        assert points == [(1, 2.0), (2, 1.0), (3, 0.0)] and band == []

    def test_a_term_is_of_its_stage(self):
        records = [{"stage": "a", "epoch": 1, "train": {"kl": 1.0}}, {"stage": "b", "epoch": 1, "train": {"kl": 2.0}}]
        assert over_seeds([records], term("b", "kl"))[0] == [(1, 2.0)]
        assert over_seeds([log(80)], learning_rate("student"))[0][0] == (1, 0.1)

    @pytest.mark.parametrize("bad", (None, "x", True, math.nan, math.inf, 1e308, 10**400, [], {}))
    def test_what_is_no_finite_number_is_left_out(self, bad):
        assert number(bad) is None
        broken = [
            {"stage": "student", "epoch": bad, "train": {"kl": 1.0}},
            {"stage": "student", "epoch": 5, "train": {"kl": bad}, "test": {"student": {"top1": bad, "samples": 10}}},
            {"stage": "student", "epoch": 6, "train": bad, "test": {"student": {"top1": 1, "samples": 0}}},
            {"stage": bad, "epoch": 7, "test": {"student": bad}},
        ]
        for value in (term("student", "kl"), error_of("student"), learning_rate("student")):
            assert over_seeds([broken], value) == ([], [])


class TestGroups:
    def test_student_and_control_are_in_one_chart_and_every_term_has_its_own(self):
        found = groups(several([("one", [log(80)], ROLES), ("two", [log(70)], ROLES)]))
        assert list(found) == ["student and control", "control", "teacher"]
        terms = ["loss, all terms", "ce", "kl", "learning rate"]
        errors = [f"student and control: {kind} error, %" for kind in ("test", "training")]
        assert titles(found["student and control"]) == [*errors, *(f"student: {term}" for term in terms)]
        assert titles(found["control"]) == [f"control: {term}" for term in terms]

    def test_every_student_of_a_run_stands_beside_the_control(self):
        roles = {"kd": "student", "at": "student", "alone": "control"}
        found = groups(several([("one", [log(80, tuple(roles))], roles)]))
        assert list(found) == ["kd and alone", "at and alone", "alone"]

    def test_what_is_trained_before_a_student_is_drawn_too(self):
        found = groups(several([("one", [log(80, ("teacher", "student-ft", "student"))], ROLES)]))
        assert "student-ft: kl" in titles(found["student-ft"])

    def test_a_loss_of_one_term_is_drawn_once(self):
        alone = [{"stage": "control", "epoch": 1, "train": {"loss": 2.0, "ce": 2.0, "top1": 0.5}}]
        found = groups(several([("one", [alone], {"control": "control"})]))
        assert titles(found["control"]) == ["control: training error, %", "control: loss"]

    def test_peers_that_learn_with_the_student_are_in_its_records(self):
        """`dml`: one training, the tests of both in its records."""
        both = [
            record("student", 0, 80, 1)
            | {"test": {"student": {"top1": 8, "samples": 10}, "teacher": {"top1": 9, "samples": 10}}}
        ]
        found = groups(several([("one", [both], {"teacher": "teacher", "student": "student"})]))
        assert titles(found["teacher"]) == ["teacher: test error, %"] and "<b>10</b>" in found["teacher"][0]

    def test_each_branch_has_its_accuracy_beside_the_teachers(self):
        """GTN's Figure 1; a base that was trained before has no branches."""
        hits = {"teacher": 9, "branch 0": 2, "branch 1": 5}
        tests = {name: {"top1": top1, "samples": 10} for name, top1 in hits.items()}
        logs = [*log(80, ("base",)), *({**one, "test": tests} for one in log(80, ("teacher",)))]
        found = groups(several([("one", [logs], {"base": "base", "teacher": "teacher"})]))
        drawn = titles(found["teacher"])
        assert [title for title in drawn if "accuracy" in title] == [
            "teacher and branch 0: test accuracy, %",
            "teacher and branch 1: test accuracy, %",
        ]
        chart = next(one for one in found["teacher"] if "teacher and branch 1: test accuracy, %" in one)
        assert "<b>90</b>" in chart and "<b>50</b>" in chart
        assert not [title for title in titles(found["base"]) if "accuracy" in title]

    def test_the_same_term_is_in_one_chart_whether_or_not_its_method_is_joined(self):
        """A log names the terms of a method that is alone by their short names."""
        train = {"loss": 1.0, "kd.kl": 0.5, "at.at": 0.5}
        joined = [{"stage": "student", "epoch": epoch, "train": train} for epoch in (1, 2)]
        runs = [
            Curves("one", [log(80, ("student",))], ROLES, methods={"student": "kd"}),
            Curves("two", [joined], ROLES),
        ]
        found = groups(coloured(runs))["student and control"]
        assert titles(found)[2:6] == [f"student: {name}" for name in ("loss, all terms", "kd.ce", "kd.kl", "at.at")]
        assert [chart.count("<polyline") for chart in found if "student: " in chart][:4] == [2, 1, 2, 1]

    def test_what_became_of_images_that_are_made_is_drawn(self):
        records = log(90, ("student",))
        for place, one in enumerate(records, 1):
            one["synthesis"] = {"rounds": place, "loss": 0.5 / place, "images": 8 * place}
        (run,) = several([("run", [records], {"student": "student"})])
        assert {"student: images of the pool", "student: loss of the synthesis"} <= set(
            titles(groups([run])["student"])
        )
        pool, _ = over_seeds(run.logs, made_images("student", "images"))
        assert pool == [(1, 8.0), (2, 16.0), (3, 24.0)]

    @pytest.mark.parametrize(("share", "drawn"), ((0.25, True), (0.001, False)))
    def test_norms_are_drawn_and_waiting_where_there_was_some(self, share, drawn):
        records = [one | {"grad_norm": 0.5, "data_share": share} for one in log(90, ("student",))]
        found = titles(groups(several([("run", [records], {"student": "student"})]))["student"])
        assert "student: norm of the gradients" in found
        assert ("student: time spent on waiting for data, %" in found) == drawn

    def test_the_second_half_of_a_long_training_stands_by_itself(self):
        found = groups(several([("one", [log(90, epochs=8)], ROLES)]))["teacher"]
        assert titles(found)[:2] == ["teacher: test error, %", "teacher: test error in the second half, %"]
        assert [len(re.search('points="(.*?)"', chart)[1].split()) for chart in found[:2]] == [8, 4]

    def test_what_the_training_was_watched_by_is_called_by_its_name(self):
        validated = [one | {"watched": "validation"} for one in log(80, ("student",), 8)]
        found = groups(several([("one", [validated], {"student": "student"})]))["student"]
        error = "student: validation error"
        assert titles(found)[:3] == [f"{error}, %", f"{error} in the second half, %", "student: training error, %"]
        both = several([("one", [validated], ROLES), ("two", [log(80, ("student",))], ROLES)])
        assert watched(both) == "test or validation" and watched(both[1:]) == "test"

    def test_the_controls_of_many_runs_stand_in_a_legend_once(self):
        chart = groups(several([(f"run {place}", [log(80)], ROLES) for place in range(5)]))["student and control"][0]
        keys = re.findall("</svg>([^<]*) <b>", chart)
        assert keys == [*(f"run {place}" for place in range(5)), "control, in the colour of its run"]
        assert chart.count("<polyline") == 10

    def test_without_records_there_is_nothing(self):
        assert groups(several([("one", [[]], ROLES)])) == {}


class TestColours:
    def test_several_runs_have_one_each(self):
        runs = several([(f"{place}", [log(80)], ROLES) for place in range(12)])
        assert len({run.of("student") for run in runs}) == 12
        assert all(run.of("teacher") == run.of("student") == run.of("anything") for run in runs)

    def test_the_networks_of_a_single_run_have_one_each(self):
        (run,) = several([("one", [log(80)], ROLES)])
        assert [run.of(name) for name in ROLES] == [colour(0), colour(1), colour(2)]
