"""A ratio between two trees stands only where both gave a result that was found right."""

import json
import subprocess
import sys

import pytest
from helpers.places import ROOT

from benchmarks import verify
from fastkd.support.errors import UserError


def record(median, contender="dense fp32", case="case", **others):
    described = {"device": "a device", "versions": {"torch": "2"}, "checked": True}
    return {"benchmark": "crd", "case": case, "contender": contender, "median_s": median, **described, **others}


def only(base, now):
    (found,) = verify.compare([[one] if one else [] for one in base], [[one] if one else [] for one in now])
    return found


def test_the_ratio_is_the_median_over_the_rounds():
    found = only([record(2.0), record(3.0), record(4.0)], [record(1.0), record(1.0), record(1.0)])
    assert found.ratio == pytest.approx((3.0, 2.4, 3.6))
    assert (found.base_s, found.now_s, found.lost) == (3.0, 1.0, False)


def test_each_round_is_compared_with_itself():
    """A machine that gets slower in the middle of it changes no ratio."""
    assert only([record(1.0), record(10.0)], [record(0.5), record(5.0)]).ratio == (2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    "base, now, why, lost",
    [
        ((record(1.0, checked=False), record(1.0)), (record(1.0), record(1.0)), "right in the base", False),
        ((record(1.0), record(1.0)), (record(1.0), record(1.0, checked=False)), "right in the working tree", True),
        ((None, None), (record(1.0), record(1.0)), "the base lacks it", False),
        ((record(1.0), record(1.0)), (record(1.0), None), "the working tree lacks it", True),
        ((record(1.0), None), (record(1.0), None), "the base lacks it", False),
        ((record(1.0), record(1.0, device="another")), (record(1.0), record(1.0)), "different devices", False),
        ((record(1.0), record(1.0)), (record(1.0), record(1.0, versions={"torch": "3"})), "versions", False),
    ],
)
def test_no_number_without_a_right_result_on_both_sides(base, now, why, lost, capsys):
    found = only(base, now)
    assert found.ratio is None and found.base_s is None and found.now_s is None
    assert why in found.why and found.lost == lost
    verify.show([found])
    line = capsys.readouterr().out
    assert "no number: " in line and "1.0" not in line


def test_only_contenders_of_ours_have_a_line_of_their_own(capsys):
    names = ("reference", "reference, captured", "compile", "numpy choice", "dense fp32, captured", "fastkd")
    ours = [name for name in names if verify.Key("crd", "case", name).ours]
    assert ours == ["dense fp32, captured", "fastkd"]
    both = [[record(3.0, name) for name in ("reference", "fastkd")]] * 2
    verify.show(verify.compare(both, both))
    first, second = capsys.readouterr().out.splitlines()
    assert "fastkd" in first and "1.000x (1.000-1.000)" in first
    assert second == "the same code in both trees:  1.000x (1.000-1.000)"


def git(root, *arguments):
    who = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
    return subprocess.run(["git", "-C", root, *who, *arguments], check=True, capture_output=True, text=True).stdout


BENCHMARK = """
import json, sys
import fastkd
extra = []
try:
    import fastkd.added
    extra = ["added"]
except ModuleNotFoundError:
    pass
told = {"device": "d", "versions": {}, "checked": True, "benchmark": "tiny", "median_s": fastkd.SECONDS}
records = [told | {"case": case, "contender": "ours"} for case in ("case", *extra)]
open(sys.argv[sys.argv.index("--json") + 1], "w").write(json.dumps(records))
print("--quick" in sys.argv, sys.argv[-1])
"""


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A checkout of a fastkd of one line, whose working tree is twice as fast as its commit."""
    root = tmp_path / "small"
    for folder in ("fastkd", "benchmarks", "csrc"):
        (root / folder).mkdir(parents=True)
    (root / "fastkd" / "__init__.py").write_text("SECONDS = 2.0\n")
    (root / "benchmarks" / "__init__.py").write_text("")
    (root / "benchmarks" / "tiny.py").write_text(BENCHMARK)
    (root / "csrc" / "one.cpp").write_text("// one\n")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "base")
    (root / "fastkd" / "__init__.py").write_text("SECONDS = 1.0\n")
    (root / "fastkd" / "added.py").write_text("")
    (root / "fastkd" / "_fastkd_cpu.abi3.so").write_text("a library")
    monkeypatch.setattr(verify, "ROOT", root)
    return root


def test_two_trees_do_not_mix(small, tmp_path, capsys):
    file = tmp_path / "found.json"
    code = verify.main(["--base", "HEAD", "tiny", "--rounds", "2", "--json", str(file), "--", "an option"])
    shown = capsys.readouterr().out
    found = {one["case"]: one for one in json.loads(file.read_text())["comparisons"]}
    assert found["case"]["ratio"]["median"] == 2.0, shown
    assert found["added"]["ratio"] is None and found["added"]["why"] == "the base lacks it", shown
    assert code == 0
    assert len(git(small, "worktree", "list").splitlines()) == 1, "the base is gone"


def test_a_base_without_the_benchmark(small, capsys):
    (small / "benchmarks" / "other.py").write_text(BENCHMARK)
    assert verify.main(["--base", "HEAD", "other", "--rounds", "2"]) == 1
    shown = capsys.readouterr().out
    assert "No module named benchmarks.other" in shown and "no number: the base lacks it" in shown
    assert "round 2" not in shown


def test_libraries_come_from_the_same_sources(small, monkeypatch):
    with verify.checked_out("HEAD") as tree:
        assert (tree / "fastkd" / "_fastkd_cpu.abi3.so").read_text() == "a library"
    (small / "csrc" / "two.cpp").write_text("// two\n")
    with pytest.raises(UserError, match="_fastkd_cpu.abi3.so is older than csrc/two.cpp"), verify.checked_out("HEAD"):
        pass
    assert len(git(small, "worktree", "list").splitlines()) == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--base", "nowhere", "tiny"], "--base is a commit of this checkout, got 'nowhere'"),
        (["--base", "HEAD", "tinny"], "no benchmark 'tinny'"),
        (["--base", "HEAD", "tiny", "--rounds", "1"], "--rounds is at least 2, got 1"),
    ],
)
def test_mistakes_are_one_line(small, arguments, message):
    with pytest.raises(UserError, match=message):
        verify.main(arguments)


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no checkout to compare with")
def test_this_tree_against_its_commit(tmp_path):
    file = tmp_path / "found.json"
    line = ["--base", "HEAD", "methods", "--rounds", "2", "--json", str(file), "--", "--only", "kd"]
    done = subprocess.run([sys.executable, "-m", "benchmarks.verify", *line], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(file.read_text())
    (ours,) = (one for one in found["comparisons"] if one["ours"])
    assert ours["contender"] == "ours" and ours["ratio"]["median"] > 0
    assert found["now"].removesuffix("+") == found["base"]
