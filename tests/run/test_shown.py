"""Runs as a report shows them: what their files hold, what they are called, their colours."""

import json
from dataclasses import replace

import pytest
from helpers.made_runs import write_run

from fastkd import recipes
from fastkd.run.charts import colour
from fastkd.run.shown import read_runs
from fastkd.support.errors import UserError

HITS = {"teacher": [90, 92], "student": [85, 89], "control": [70, 74]}


def made(tmp_path, method, seeds=2):
    recipe = replace(recipes.digits(teacher_net="resnet8", student="resnet8", method=method), seeds=seeds)
    return write_run(tmp_path / method, recipe, {stage: hits[:seeds] for stage, hits in HITS.items()})


def test_results_and_logs_are_those_of_every_seed(tmp_path):
    (run,) = read_runs([made(tmp_path, "kd")])
    assert [result["seed"] for result in run.results] == [0, 1]
    assert [len(records) for records in run.logs] == [9, 9] and run.environment["host"] == "machine"
    assert run.label == run.name == "digits" and run.curves.of("teacher") == colour(0) != run.curves.of("student")


def test_several_are_called_by_what_differs_and_have_a_colour_each(tmp_path):
    runs = read_runs([made(tmp_path, method) for method in ("kd", "kd+at")])
    assert [run.label for run in runs] == ["kd", "kd+at"]
    assert (
        [run.curves.of("student") for run in runs]
        == [run.curves.of("control") for run in runs]
        == [colour(0), colour(1)]
    )
    assert all(colour(place) in run.name for place, run in enumerate(runs))


def test_a_method_alone_owns_the_terms_that_have_no_name_before_them(tmp_path):
    alone, joined = read_runs([made(tmp_path, method) for method in ("kd", "kd+at")])
    assert set(alone.curves.terms("student")) == {"loss", "kd.ce", "kd.kl"}
    assert set(joined.curves.terms("student")) == {"loss", "ce", "kl"} and "ce" in alone.curves.terms("teacher")


def test_what_is_not_there_yet_is_empty(tmp_path):
    folder = made(tmp_path, "kd", seeds=1)
    for name in ("results.json", "metrics.jsonl", "env.json"):
        (folder / name).unlink()
    (run,) = read_runs([folder])
    assert (run.results, run.logs, run.environment) == ([], [[]], {})


def test_an_environment_that_is_none_is_one_line(tmp_path):
    folder = made(tmp_path, "kd", seeds=1)
    (folder / "env.json").write_text(json.dumps([1, 2]))
    with pytest.raises(UserError, match=r"env\.json is \[1, 2\], expected a dictionary"):
        read_runs([folder])


def test_a_folder_that_is_no_run_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no run folder"):
        read_runs([tmp_path / "gone"])
