"""Everything that needs a GPU, in one command: python -m benchmarks.gpu [--part tests|ops|steps] [--out DIR]

The gpu tests, then the benchmarks, each within its own time; their records go to DIR (default benchmarks/results) as
one JSON file a benchmark. Needs torch, triton, numpy and pytest, as well as fastkd's own dependencies for `steps`.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

RESULTS = Path(__file__).parent / "results"


class Job(NamedTuple):
    part: str
    name: str
    command: tuple[str, ...]
    seconds: int
    """At most; one that takes longer is stopped, and the next one begins."""


def jobs(out: Path) -> list[Job]:
    python = sys.executable
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
    )

    def benchmark(part: str, name: str, seconds: int) -> Job:
        command = (python, "-m", f"benchmarks.{name}", "--quick", "--json", str(out / f"{name}.json"))
        return Job(part, name, command, seconds)

    return [
        Job("tests", "gpu tests", tests, 180),
        benchmark("ops", "distill_loss", 90),
        benchmark("ops", "crd", 90),
        benchmark("steps", "training_step", 120),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("tests", "ops", "steps"), help="only this part")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON files")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    failed = []
    for job in jobs(options.out):
        if options.part not in (None, job.part):
            continue
        print(f"== {job.name}: {' '.join(job.command[1:])}", flush=True)
        started = time.monotonic()
        try:
            code = subprocess.run(job.command, timeout=job.seconds).returncode
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
