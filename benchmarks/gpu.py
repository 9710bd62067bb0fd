"""Everything that needs a GPU, in one command: python -m benchmarks.gpu [--part PART] [--out DIR]

The gpu tests, then the benchmarks, each within its own time; their records go to DIR (default benchmarks/results) as
one JSON file a benchmark. Needs torch, triton, numpy and pytest; what needs more of fastkd's dependencies, the whole
steps and their tests, is left out with a word where they are not installed. Two parts have to be asked for: `data`,
which needs DALI, and `sanitize`.
"""

import argparse
import importlib.util
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.timing import RESULTS, record_file

ROOT = Path(__file__).parents[1]
BY_DEFAULT = ("tests", "ops", "steps")
WITHOUT_RECORDS = ("tests", "sanitize")


class Job(NamedTuple):
    part: str
    name: str
    command: tuple[str, ...]
    seconds: int
    """At most; one that takes longer is stopped, and the next one begins."""


def missing() -> list[str]:
    """What the whole steps need beyond torch, triton, numpy and pytest, and is not installed."""
    needed = ("torchvision", "PIL", "safetensors", "rich")
    return [name for name in needed if importlib.util.find_spec(name) is None]


def jobs(out: Path, *, steps: bool) -> list[Job]:
    """steps: whether whole steps can be run."""
    python = sys.executable
    of_operations = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests" / "ops").rglob("test_gpu.py"))
    tests = (
        python,
        "-m",
        "pytest",
        "-p",
        "no:benchmark",
        "-m",
        "gpu",
        "-q",
        "--maxfail=20",
        f"--junitxml={out / 'gpu-tests.xml'}",
        *(["tests"] if steps else of_operations),
    )

    def benchmark(part: str, name: str, seconds: int) -> Job:
        command = (python, "-m", f"benchmarks.{name}", "--quick", "--json", str(out / f"{name}.json"))
        return Job(part, name, command, seconds)

    found = [Job("tests", "gpu tests", tests, 150), benchmark("ops", "distill_loss", 60), benchmark("ops", "crd", 60)]
    found.append(benchmark("ops", "row_loss", 60))
    found += [benchmark("steps", "methods", 60), benchmark("steps", "training_step", 150)] if steps else []
    return [*found, benchmark("data", "data", 180), benchmark("data", "feeding", 120)]


def sanitized() -> list[Job]:
    """compute-sanitizer over the CRD kernels at small shapes: bad addresses, races in shared memory. Not part of the
    whole, since it checks what changes rarely and takes minutes."""
    tests = (sys.executable, "-m", "pytest", "-p", "no:benchmark", "-m", "gpu", "-q", "tests/ops/crd/test_gpu.py")
    which = {
        "gather": "gather and (against_float64 or update or draws_are)",
        "dense": "dense and (draws_are or against_float64 and (plain or replacement or enough or whole))",
    }
    jobs = []
    for name, chosen in which.items():
        for tool in ("memcheck", "racecheck"):
            checker = ("compute-sanitizer", "--tool", tool, "--error-exitcode", "1")
            jobs.append(Job("sanitize", f"{tool}, {name}", (*checker, *tests, "-k", chosen), 60))
    return jobs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=(*BY_DEFAULT, "data", "sanitize"), help="only this part")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON files")
    options = parser.parse_args()
    if options.part not in WITHOUT_RECORDS:
        record_file(options.out)
    options.out.mkdir(parents=True, exist_ok=True)
    failed, lacking = [], missing()
    if lacking:
        print(f"== without whole steps: {', '.join(lacking)} not installed", flush=True)
    for job in (*jobs(options.out, steps=not lacking), *sanitized()):
        if job.part not in ((options.part,) if options.part else BY_DEFAULT):
            continue
        print(f"== {job.name}: {' '.join(job.command[1:])}", flush=True)
        started = time.monotonic()
        try:
            code = subprocess.run(job.command, timeout=job.seconds, cwd=ROOT).returncode
        except subprocess.TimeoutExpired:
            code = -1
            print(f"== {job.name}: stopped after {job.seconds} s", flush=True)
        print(f"== {job.name}: exit code {code} after {time.monotonic() - started:.0f} s", flush=True)
        if code:
            failed.append(job.name)
    if failed:
        print("failed: " + ", ".join(failed))
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
