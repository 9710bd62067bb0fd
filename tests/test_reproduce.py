"""python -m fastkd.reproduce: what it refuses, lists and plans; a tiny table from end to end."""

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from helpers.fingerprints import write_data
from helpers.subprocesses import with_paths

from fastkd import networks, reproduce
from fastkd.networks.supernet import THIN_LAYERS, Supernet
from fastkd.recipes.findings import Said
from fastkd.recipes.tables import TABLES
from fastkd.support.errors import UserError

TINY = ["digits", "--only", "wrn_16_2/resnet8", "--limit-train", "16", "--batch-size", "16", "--epochs", "1"]


def run(*arguments: str) -> int:
    return reproduce.main([*arguments])


class TestMistakes:
    @pytest.mark.parametrize(
        "arguments, words",
        [
            (["sftm"], "no paper 'sftm'; did you mean 'sftn'?"),
            (["sftn", "--table", "99"], "has no table '99'"),
            (["sftn", "--table", "17", "--only", "wrn_40_2/wrn_16_3"], "did you mean 'wrn_40_2/wrn_16_2'"),
            (["sftn", "--table", "17", "--data", "cifar100"], "--data is NAME=PATH"),
            (["sftn", "--table", "17", "--data", "stl10=x"], "reads cifar100"),
            (["sftn", "--table", "17"], "SFTN, Table 17 reads cifar100: give --data cifar100=PATH"),
            (["digits", "--seeds", "2", "--teachers", "3"], "--teachers 3 are more than the 2 students"),
            (["digits", "--method", "kd"], "--method is not for a table"),
            (["digits", "--resume", "x"], "--resume is not for a table"),
            (["digits", "--epochz", "3"], "no option --epochz"),
            (["digits", "--epochs", "0"], "expected"),
            (["sftn", "--table", "17", "--data", "cifar100=/nowhere"], "no folder /nowhere"),
            (["digits", "--workers", "3"], "--workers changes nothing"),
            (["digits", "--probe-epochs", "3"], "--probe-epochs changes nothing: Digits has no linear classifier"),
            (
                ["sftn", "--table", "11", "--data", "cifar100=x"],
                "SFTN, Table 11 reads cifar100c: give --data cifar100c=",
            ),
        ],
    )
    def test_one_line(self, arguments, words, tmp_path):
        with pytest.raises(UserError, match="(?s)" + words.replace("?", "\\?").replace(".", "\\.")):
            run(*arguments, "--out", str(tmp_path / "out"))
        assert not (tmp_path / "out").exists(), "nothing is left behind"


def test_tables_are_listed(capsys):
    assert run("simkd") == 0
    shown = capsys.readouterr().out
    assert all(f"  {key:<10} " in shown for key in TABLES["simkd"])


@pytest.mark.parametrize(
    "paper, key, cells",
    [
        pytest.param("sftn", "7", 10, marks=pytest.mark.slow),
        ("sftn", "fig5", 2),
        pytest.param("simkd", "4", 7, marks=pytest.mark.slow),
        ("simkd", "5", 5),
        ("simkd", "S.7", 3),
        ("simkd", "S.10", 3),
    ],
)
def test_tables_of_findings_are_planned(paper, key, cells):
    """What is measured of a training is no reason to train anything else."""
    table = TABLES[paper][key]
    found = reproduce.cells_of(table, reproduce.Seeds(), {}, [])
    assert len(found) == cells
    assert len({cell.digest for cell in found.values()}) == cells


def test_a_plan_tells_and_trains_nothing(tmp_path, capsys):
    assert run(*TINY, "--plan", "--out", str(tmp_path / "out"), "--seeds", "3") == 0
    told = capsys.readouterr().err
    assert "14 cells, 3 students a cell from 1 teacher: 47 trainings, 47 left; hours unknown" in told
    assert not (tmp_path / "out").exists()


def test_a_tiny_figure_of_curves(tmp_path, capsys, monkeypatch):
    """GTN's Figure 1 in a tiny form, with a supernet of few channels: every accuracy of it, and its curves."""
    monkeypatch.setitem(networks.SUPERNETS, "gtn_supernet", partial(Supernet, rows=THIN_LAYERS))
    write_data(tmp_path)
    words = ["--limit-train", "16", "--batch-size", "16", "--epochs", "1", "--out", str(tmp_path / "out")]
    assert run("gtn", "--table", "fig1", "--data", f"cifar100={tmp_path / 'cifar100'}", *words) == 0
    assert "choice: the paper does not print how paths are drawn and tested" in capsys.readouterr().out
    tables = tmp_path / "out" / "tables"
    rows = list(csv.DictReader((tables / "gtn-2024-supplement-figure-1.csv").read_text().splitlines()))
    assert [row["row"] for row in rows] == ["teacher", "stu_branch_1", "stu_branch_2", "stu_branch_3"]
    assert all(row["ours"] for row in rows)
    drawn = (tables / "gtn-2024-supplement-figure-1-curves.html").read_text()
    assert all(f"teacher and branch {block}: test accuracy, %" in drawn for block in (0, 1, 2))


def test_ctrl_c_while_it_looks_at_the_table_ends_it(tmp_path, monkeypatch):
    monkeypatch.setattr(reproduce, "check", lambda job: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run(*TINY, "--out", str(tmp_path / "out"))


def test_a_tiny_table(tmp_path, capsys, monkeypatch):
    """Two methods of the digits' table: what is trained once, what goes on, and what is written."""
    kept = tuple(place for place in TABLES["digits"]["digits"].places if place.entry.method in ("kd", "kd+sp"))
    own = next(place for place in kept if place.row == "kd+sp" and place.entry.student == "resnet8")
    beside = replace(own, row="kd+sp, said", column="entropy", measure="entropy", finding=Said(split="train"))
    table = replace(TABLES["digits"]["digits"], places=(*kept, beside), pictures=("dots",))
    monkeypatch.setitem(TABLES["digits"], "digits", table)
    out = tmp_path / "out"
    assert run(*TINY, "--out", str(out)) == 0
    first = capsys.readouterr()
    assert first.err.count("  ->  ") == 1 + 7, "two teachers, a control and four students"
    assert "student epochs 1 instead of 10" in first.out
    rows = list(csv.DictReader((out / "tables" / "digits.csv").read_text().splitlines()))
    assert {row["row"] for row in rows} == {"teacher", "student without a teacher", "kd", "kd+sp", "kd+sp, said"}
    assert "<svg" in (out / "report.html").read_text() and "likelihood of the student" in first.err
    assert all(row["ours"] for row in rows)
    recipes = [json.loads((node / "recipe.json").read_text()) for node in (out / "nodes").iterdir()]
    assert {recipe["stages"][-1]["role"] for recipe in recipes} == {"teacher", "student", "control"}
    for cell in (out / "cells").iterdir():
        assert (cell / "results.json").exists() and (cell / "student.safetensors").exists()

    before = {file: file.stat().st_mtime_ns for file in (out / "nodes").rglob("*") if file.is_file()}
    assert run(*TINY, "--out", str(out)) == 0
    assert "7 trainings, 0 left; 0.0 hours" in capsys.readouterr().err
    assert before == {file: file.stat().st_mtime_ns for file in (out / "nodes").rglob("*") if file.is_file()}


@pytest.mark.slow
def test_a_tiny_table_without_data(tmp_path, capsys):
    """Table 7 of SimKD on noise: one teacher, four students that see no image, and a student that does."""
    for name, count in (("train", 64), ("test", 20)):
        images = np.random.default_rng(0).integers(0, 256, (count, 3074), dtype=np.uint8)
        images[:, 1] = np.arange(count) % 100
        images.tofile(tmp_path / f"{name}.bin")
    small = {"images": 16, "steps-per-epoch": 2, "generator-steps": 2, "channels": 8, "latent": 8, "every": 1}
    options = [word for name, value in small.items() for word in (f"--synthesis.{name}", str(value))]
    line = ["simkd", "--table", "7", "--data", f"cifar100={tmp_path}", "--only", "resnet38x2/resnet38", *options]
    line += ["--synthesis.bank", "16", "--epochs", "1", "--batch-size", "16", "--out", str(tmp_path / "out")]
    assert run(*line) == 0
    shown = capsys.readouterr()
    assert shown.err.count("  ->  ") == 1 + 6, "a teacher, a student with data and four without"
    assert "choice: the paper does not print the numbers of the synthesis" in shown.out
    rows = list(csv.DictReader((tmp_path / "out" / "tables" / "simkd-table-7.csv").read_text().splitlines()))
    named = {"teacher", "student without a teacher", "ZSKT", "DAFL", "CMI", "CMI+SimKD"}
    assert {row["row"] for row in rows} == named and len(rows) == len(named)
    assert all(row["ours"] for row in rows)


@pytest.mark.slow
def test_two_commands_on_one_folder_of_which_one_is_killed(tmp_path):
    """Killed wherever it happens to be, again and again: at the end both tables are that of one command alone."""
    small = [*TINY[:3], "--limit-train", "64", "--batch-size", "16", "--epochs", "2", "--methods", "kd,kd+sp,crd"]
    command = [sys.executable, "-m", "fastkd.reproduce", *small, "--out"]
    shared, alone = ([*command, str(tmp_path / name)] for name in ("shared", "alone"))
    with subprocess.Popen(shared, env=with_paths()) as other:
        for seconds in (6, 8, 10, 12):
            killed = subprocess.Popen(shared, env=with_paths())
            with contextlib.suppress(subprocess.TimeoutExpired):
                killed.wait(seconds)
            killed.kill()
            killed.wait()
        assert subprocess.run(shared, env=with_paths(), timeout=300, check=False).returncode == 0
        assert other.wait(300) == 0
    assert subprocess.run(alone, env=with_paths(), timeout=300, check=False).returncode == 0
    of_both, of_one = (tmp_path / name / "tables" / "digits.csv" for name in ("shared", "alone"))
    assert of_both.read_text() == of_one.read_text()
    nodes = [tmp_path / name / "nodes" for name in ("shared", "alone")]
    assert len({tuple(sorted(node.name for node in folder.iterdir())) for folder in nodes}) == 1
    for file in nodes[1].glob("*/*.safetensors"):
        assert file.read_bytes() == (nodes[0] / file.relative_to(nodes[1])).read_bytes()
    assert not [*nodes[0].glob("*/claim")], "nobody works on anything any more"
