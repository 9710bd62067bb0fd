"""A record that stands in results/ names the commit that it was measured at."""

import importlib
import json
import shutil
import subprocess

import pytest

from benchmarks import timing

HEAD = "0123456789abcdef"
WITH_RECORDS = ("crd", "data", "distill_loss", "methods", "training_step", "tune_crd", "tune_distill_loss")
OF_A_DIRTY_TREE = {"crd-h200.json", "distill_loss-h200.json"}
"""Older than the rule; the next measurement on that machine replaces them."""


@pytest.fixture
def dirty(monkeypatch):
    monkeypatch.setattr(timing, "commit", lambda: HEAD + "+")


def test_a_dirty_tree_writes_no_record_into_results(dirty, capsys):
    with pytest.raises(SystemExit) as ended:
        timing.record_file(timing.RESULTS / "crd.json")
    line = capsys.readouterr().err
    assert ended.value.code == 2
    assert line.count("\n") == 1 and "commit them" in line


def test_elsewhere_it_may(dirty, tmp_path):
    assert timing.record_file(str(tmp_path / "crd.json")) == tmp_path / "crd.json"


def test_a_clean_tree_may(monkeypatch):
    monkeypatch.setattr(timing, "commit", lambda: HEAD)
    assert timing.record_file(timing.RESULTS / "crd.json") == timing.RESULTS / "crd.json"


@pytest.mark.parametrize("name", WITH_RECORDS)
def test_every_benchmark_refuses_before_it_measures(name, dirty, monkeypatch, capsys):
    pytest.importorskip("triton" if name.startswith("tune") else "torch")
    module = importlib.import_module(f"benchmarks.{name}")
    monkeypatch.setattr("sys.argv", [name, "--json", str(timing.RESULTS / f"{name}.json")])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 2
    assert "commit them" in capsys.readouterr().err


def test_the_commit_says_whether_files_differ_from_it(tmp_path, monkeypatch):
    package = tmp_path / "benchmarks"
    (package / "results").mkdir(parents=True)
    file = package / "timing.py"
    shutil.copy(timing.__file__, file)
    monkeypatch.setattr(timing, "__file__", str(file))

    def git(*arguments: str) -> None:
        who = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True)

    git("init", "-q")
    git("add", "benchmarks")
    git("commit", "-q", "-m", "one")
    head = timing.commit()
    assert len(head) == 40
    (package / "results" / "crd.json").write_text("[]")
    assert timing.commit() == head, "a benchmark that runs after another is as clean as that was"
    (tmp_path / "new.py").write_text("")
    assert timing.commit() == head + "+"


def test_outside_of_a_checkout_the_environment_says_it(tmp_path, monkeypatch):
    monkeypatch.setattr(timing, "__file__", str(tmp_path / "timing.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("FASTKD_COMMIT", HEAD)
    assert timing.commit() == HEAD
    monkeypatch.delenv("FASTKD_COMMIT")
    assert timing.commit() == "unknown"


def test_committed_records_are_of_clean_trees():
    of_dirty_trees = set()
    for path in timing.RESULTS.glob("*.json"):
        records = json.loads(path.read_text())
        if isinstance(records, list) and any(record["commit"].endswith("+") for record in records):
            of_dirty_trees.add(path.name)
    assert of_dirty_trees <= OF_A_DIRTY_TREE
