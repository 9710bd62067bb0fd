"""The working tree against another commit: python -m benchmarks.verify --base REF [NAME …] [-- OPTION …]

Runs benchmarks (`--quick`) of both trees in turn, several rounds, and prints how many times as fast as the base the
working tree is: for every case and every contender of ours the median over the rounds, the 20th and the 80th
percentile. The other contenders (plain PyTorch, torch.compile, a peer) are the same code in both trees: their ratio
shows what the machine's moods alone make.

There is no number where a result was not found right in every round of both trees, or where one of them lacks the
case. Options after `--` go to the benchmarks: `verify --base HEAD~1 methods -- --only sp`.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.timing import commit, device_name, record_file
from fastkd.support.command_line import command
from fastkd.support.errors import UserError

ROOT = Path(__file__).parents[1]
NAMES = ("distill_loss", "crd", "methods", "data")
"""The benchmarks that compare their results, and so can give numbers."""
NOT_OURS = {"reference", "compile", "amp", "liger", "numpy", "torchvision-v1", "torchvision-v2"}
"""First words of contenders."""

# An editable installation finds what the tree on the path lacks in the tree that it was made from.
RUN = """
import runpy, sys
root, name, *options = sys.argv[1:]
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "")]
sys.path[:] = [root, *(entry for entry in sys.path if entry)]
import fastkd
assert fastkd.__file__.startswith(root + "/"), f"{fastkd.__file__} is not of {root}"
sys.argv = [name, *options]
runpy.run_module(f"benchmarks.{name}", run_name="__main__", alter_sys=True)
"""

Records = list[dict[str, Any]]


class Key(NamedTuple):
    benchmark: str
    case: str
    contender: str

    @property
    def ours(self) -> bool:
        return self.contender.replace(",", " ").split()[0] not in NOT_OURS


class Ratio(NamedTuple):
    """The base's time over the working tree's: above 1 is faster."""

    median: float
    p20: float
    p80: float


class Comparison(NamedTuple):
    key: Key
    ratio: Ratio | None
    """None: there is no number."""
    base_s: float | None = None
    """Median over the rounds, of the medians."""
    now_s: float | None = None
    why: str = ""
    """Why there is none."""
    lost: bool = False
    """The base gives a result that was found right, the working tree does not."""


def compare(base: Sequence[Records], now: Sequence[Records]) -> list[Comparison]:
    """base, now: the records of each round, as many on both sides."""
    rounds = [tuple(_by_key(records) for records in both) for both in zip(base, now, strict=True)]
    keys = dict.fromkeys(key for both in rounds for side in both for key in side)
    return [_comparison(key, [(before.get(key), after.get(key)) for before, after in rounds]) for key in keys]


def _by_key(records: Records) -> dict[Key, dict[str, Any]]:
    return {Key(record["benchmark"], record["case"], record["contender"]): record for record in records}


def _comparison(key: Key, rounds: list[tuple[dict[str, Any] | None, dict[str, Any] | None]]) -> Comparison:
    before, after = ([record for record in side if record is not None] for side in zip(*rounds, strict=True))
    of_base, of_now = _flaw(before, "base", len(rounds)), _flaw(after, "working tree", len(rounds))
    if of_base or of_now:
        return Comparison(key, None, why=of_base or of_now, lost=not of_base)
    if len({(record["device"], *sorted(record["versions"].items())) for record in before + after}) > 1:
        return Comparison(key, None, why="the rounds ran on different devices or versions")
    ratios = [one["median_s"] / other["median_s"] for one, other in zip(before, after, strict=True)]
    base_s, now_s = (statistics.median(record["median_s"] for record in side) for side in (before, after))
    return Comparison(key, _ratio(ratios), base_s, now_s)


def _flaw(records: Records, tree: str, rounds: int) -> str:
    if len(records) < rounds:
        return f"the {tree} lacks it"
    return "" if all(record["checked"] for record in records) else f"nothing says that it is right in the {tree}"


def _ratio(values: list[float]) -> Ratio:
    fifths = statistics.quantiles(values * 2 if len(values) == 1 else values, n=5, method="inclusive")
    return Ratio(statistics.median(values), fifths[0], fifths[3])


def show(comparisons: Sequence[Comparison]) -> None:
    for key, ratio, base_s, now_s, why, _ in comparisons:
        if not key.ours:
            continue
        label = f"{key.benchmark:14}{key.case:62}{key.contender:26}"
        if ratio is None or base_s is None or now_s is None:
            print(f"{label}no number: {why}")
        else:
            print(f"{label}{_words(ratio):24}{base_s * 1e6:12,.1f} us before{now_s * 1e6:12,.1f} us now")
    others = [one.ratio.median for one in comparisons if not one.key.ours and one.ratio is not None]
    if others:
        print(f"the same code in both trees: {_words(_ratio(others))}")


def _words(ratio: Ratio) -> str:
    return f"{ratio.median:6.3f}x ({ratio.p20:.3f}-{ratio.p80:.3f})"


def in_turn(trees: tuple[Path, Path], name: str, options: list[str], rounds: int) -> tuple[list[Records], ...]:
    """The records of one benchmark, round by round, of the base and of the working tree. Who begins changes."""
    by_side: tuple[list[Records], ...] = ([], [])
    for number in range(rounds):
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            started = time.monotonic()
            records, mistake = run(trees[side], name, options)
            by_side[side].append(records)
            took = (
                f"{('base', 'now')[side]:5}{name}, round {number + 1} of {rounds}, {time.monotonic() - started:.0f} s"
            )
            print(took + (f": {mistake}" if mistake else ""), flush=True)
        if not (by_side[0][-1] and by_side[1][-1]):
            break  # another round would end in the same way
    return by_side


def run(tree: Path, name: str, options: list[str]) -> tuple[Records, str]:
    """The records of one run, and the last line of a run that failed."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "records.json"
        arguments = [str(tree), name, "--quick", "--json", str(file), *options]
        done = subprocess.run([sys.executable, "-c", RUN, *arguments], cwd=tree, capture_output=True, text=True)
        records = json.loads(file.read_text()) if file.exists() else []
    lines = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()
    return records, lines[-1] if done.returncode else ""


@contextlib.contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """A working tree of that commit, in a folder that is gone afterwards, with compiled libraries as here."""
    with tempfile.TemporaryDirectory(prefix="fastkd-verify-") as folder:
        tree = Path(folder) / "base"
        _git("worktree", "add", "--detach", str(tree), revision)
        try:
            beside = ROOT.parent / "shared"
            if beside.is_dir():  # the real images, which `pictures.py` looks for beside the checkout
                (Path(folder) / "shared").symlink_to(beside)
            provide_libraries(tree, revision)
            yield tree
        finally:
            _git("worktree", "remove", "--force", str(tree))


def provide_libraries(tree: Path, revision: str) -> None:
    """Those of the working tree, where they would be compiled from the same sources; else they are compiled."""
    libraries = sorted((ROOT / "fastkd").glob("_fastkd_*.so"))
    if not libraries:
        return
    if same_sources(revision):
        for library in libraries:
            shutil.copy2(library, tree / "fastkd")
        return
    newest = max((ROOT / "csrc").iterdir(), key=lambda path: path.stat().st_mtime)
    for library in libraries:
        if library.stat().st_mtime < newest.stat().st_mtime:
            raise UserError(f"{library.name} is older than csrc/{newest.name}: build it again (pip install -e .)")
    on_gpu = torch.cuda.is_available() and any("cuda" in library.name for library in libraries)
    print("compiling the libraries of the base, whose sources differ", flush=True)
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=tree,
        env=os.environ | {"FASTKD_BUILD": "cuda" if on_gpu else "cpu"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise UserError(f"the libraries of {revision} do not compile: {done.stderr.strip().splitlines()[-1]}")


def same_sources(revision: str) -> bool:
    changed = subprocess.run(["git", "-C", str(ROOT), "diff", "--quiet", revision, "--", "csrc", "setup.py"]).returncode
    return not changed and not _git("ls-files", "--others", "--exclude-standard", "csrc")


def commit_of(name: str) -> str:
    try:
        return _git("rev-parse", "--verify", "-q", f"{name}^{{commit}}")
    except UserError:
        raise UserError(f"--base is a commit of this checkout, got {name!r}") from None


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"git {arguments[0]}: {(done.stderr.strip() or 'it failed').splitlines()[-1]}")
    return done.stdout.strip()


def main(arguments: list[str]) -> int:
    place = arguments.index("--") if "--" in arguments else len(arguments)
    own, passed_on = arguments[:place], arguments[place + 1 :]
    parser = argparse.ArgumentParser(
        prog="benchmarks.verify", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"benchmarks (default: {' '.join(NAMES)})")
    parser.add_argument("--base", required=True, metavar="REF", help="the commit to compare with")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each tree (default: 5)")
    parser.add_argument("--json", type=record_file, metavar="FILE", help="write the comparisons there")
    options = parser.parse_args(own)
    if options.rounds < 2:
        raise UserError(f"--rounds is at least 2, got {options.rounds}")
    for name in options.names:
        if not (ROOT / "benchmarks" / f"{name}.py").is_file():
            raise UserError(f"no benchmark {name!r}; those that give numbers are {', '.join(NAMES)}")
    base, now, comparisons = commit_of(options.base), commit(), []
    with checked_out(base) as tree:
        for name in options.names or NAMES:
            comparisons += compare(*in_turn((tree, ROOT), name, passed_on, options.rounds))
    show(comparisons)
    if options.json:
        where = {"base": base, "now": now, "rounds": options.rounds, "device": device_name(_device())}
        options.json.write_text(json.dumps(where | {"comparisons": [*map(_plain, comparisons)]}, indent=1) + "\n")
    return int(any(one.lost for one in comparisons) or all(one.ratio is None for one in comparisons))


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _plain(one: Comparison) -> dict[str, Any]:
    ratio = one.ratio._asdict() if one.ratio is not None else None
    own = {"ours": one.key.ours, "ratio": ratio, "base_s": one.base_s, "now_s": one.now_s, "why": one.why}
    return one.key._asdict() | own


if __name__ == "__main__":
    sys.exit(command(main))
