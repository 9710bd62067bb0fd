"""What `make gpu` would do: everything that needs a GPU, what was never run first, in less than eight minutes."""

import argparse
import importlib
import os
import subprocess
import sys

import pytest
from helpers.places import ROOT, TESTS

from benchmarks import gpu, jobs

EIGHT_MINUTES = 8 * 60
LEFT_TO_DALI = {"tests/data/test_dali_gpu.py"}


def chosen(tmp_path, *, steps=True, cores=16, several=True):
    every = gpu.jobs(tmp_path, steps=steps, cores=cores, several=several)
    return [job for job in every if job.part in gpu.BY_DEFAULT]


def test_it_takes_less_than_eight_minutes(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu.compiled, "obstacle", lambda device: "not built")
    found = chosen(tmp_path)
    assert found[0].part == "build"
    assert sum(map(jobs.seconds_of, jobs.waves(found))) + 10 < EIGHT_MINUTES


def test_what_was_never_run_comes_first(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu.compiled, "obstacle", lambda device: "")
    first, *others = chosen(tmp_path)
    assert first.command[-2] == "tests/training/test_capture_gpu.py" and first.command[1:3] == ("-m", "pytest")
    assert [job.part for job in others] == [*["tests"] * 2, *["ops"] * 3, *["steps"] * 3]


def test_every_gpu_test_is_in_one_job(tmp_path):
    marked = [path for path in TESTS.rglob("test_*.py") if "pytest.mark.gpu" in path.read_text()]
    files = {str(path.relative_to(ROOT)) for path in marked if path.parent != TESTS / "benchmarks"}
    named = [word for job in chosen(tmp_path) for word in job.command if word.startswith("tests/")]
    assert sorted(named) == sorted(files - LEFT_TO_DALI)
    assert any(set(job.command) >= LEFT_TO_DALI for job in gpu.jobs(tmp_path, steps=True, cores=16, several=True))


@pytest.mark.parametrize(
    ("cores", "several", "workers"), ((16, True, (5, 9, 2)), (2, True, (1, 1, 1)), (16, False, (1, 1, 1)))
)
def test_the_tests_have_as_many_workers_as_there_are_cores(cores, several, workers, tmp_path):
    tests = [job.command for job in chosen(tmp_path, cores=cores, several=several) if job.part == "tests"]
    found = [int(command[command.index("-n") + 1]) if "-n" in command else 1 for command in tests]
    assert tuple(found) == workers


def test_without_the_packages_of_whole_steps_the_operations_are_left(tmp_path):
    found = chosen(tmp_path, steps=False)
    assert [job.name for job in found if job.part != "build"] == ["operations tests", "distill_loss", "crd", "row_loss"]


def test_the_benchmarks_understand_their_command_lines(tmp_path, monkeypatch):
    """Each reads its arguments before it looks for a device."""

    class Read(Exception):
        pass

    plain = argparse.ArgumentParser.parse_args

    def read(parser, *arguments):
        options = plain(parser, *arguments)
        assert options.quick and str(options.json).startswith(str(tmp_path))
        raise Read

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", read)
    for job in chosen(tmp_path):
        if job.part in ("ops", "steps"):
            monkeypatch.setattr(sys, "argv", list(job.command[2:]))
            with pytest.raises(Read):
                importlib.import_module(job.command[2]).main()


@pytest.mark.slow
def test_the_tests_of_captured_steps_pass_with_a_stand_in_for_the_gpu():
    """So that what fails on a GPU is not the tests: they are written where there is none."""
    chosen = "equal_eager or every_method or streamed or not_finite or evaluation or waits or random_numbers"
    line = (sys.executable, "-m", "pytest", "-p", "helpers.rehearsal", "-q", "-m", "gpu", "-k", chosen)
    environment = os.environ | {"PYTHONPATH": str(TESTS)}
    done = subprocess.run(
        [*line, "tests/training/test_capture_gpu.py"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.slow
def test_every_test_is_found_where_there_is_no_gpu(tmp_path):
    """Also with torch, triton, numpy and pytest alone, those of the operations."""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    for job in chosen(tmp_path, several=False):
        if job.part == "tests":
            done = subprocess.run(
                [*job.command, "--collect-only"], cwd=ROOT, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0 and " tests collected" in done.stdout, done.stdout[-2000:]
