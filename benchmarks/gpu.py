"""Everything that needs a GPU, in less than eight minutes: python -m benchmarks.gpu [--part PART] [--out DIR]

What was never run comes first: the captured steps, then the kernels, whose tests also compile for the benchmarks what
these time. Each job has its time; one that dies or takes longer leaves what it found, and the next one begins. In DIR
(default benchmarks/results): gpu.jsonl says how each job ended, NAME.log what it printed, NAME.jsonl has a line for
each test, and NAME.json a benchmark's records.

Needs torch, triton, numpy and pytest; of what else is not installed, a word says what is left out. A folder of wheels
that were unpacked elsewhere (`pip install --target FOLDER`) serves as well, on PYTHONPATH. Two parts have to be asked
for: `data`, which needs DALI, and `sanitize`.
"""

import argparse
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.jobs import Job, carry_out
from benchmarks.timing import RESULTS, record_file
from fastkd.ops import compiled

ROOT = Path(__file__).parents[1]
BY_DEFAULT = ("build", "tests", "ops", "steps")
WITHOUT_RECORDS = ("build", "tests", "sanitize")
GPU_TESTS = ("-p", "no:benchmark", "-m", "gpu", "-q")  # the plugin of that name warns of several workers
CORES = 16
"""The cores that the workers of the tests are meant for; where there are fewer, there are fewer workers."""


def missing(*needed: str) -> list[str]:
    return [name for name in needed if importlib.util.find_spec(name) is None]


def without_steps() -> list[str]:
    """What the whole steps need beyond torch, triton, numpy and pytest, and is not installed."""
    return missing("torchvision", "PIL", "safetensors", "rich", "tyro")


def jobs(out: Path, *, steps: bool, cores: int, several: bool) -> list[Job]:
    """steps: whether whole steps can be run. several: whether tests can have several workers."""
    return [
        *([build()] if compiled.obstacle("cuda") else []),
        *tests(out, cores, several=several, steps=steps),
        benchmark(out, "ops", "distill_loss", 45),
        benchmark(out, "ops", "crd", 45),
        benchmark(out, "ops", "row_loss", 40),
        *(
            [
                benchmark(out, "steps", "training_step", 75),
                benchmark(out, "steps", "store", 30),
                benchmark(out, "steps", "methods", 25),
            ]
            if steps
            else []
        ),
        Job("data", "loader tests", (sys.executable, "-m", "pytest", *GPU_TESTS, "tests/data/test_dali_gpu.py"), 120),
        benchmark(out, "data", "data", 180),
        benchmark(out, "data", "feeding", 120),
        *sanitized(),
    ]


def build() -> Job:
    """Compiles the libraries where they are not there, for the GPU of this machine alone."""
    environment = {"TORCH_CUDA_ARCH_LIST": architecture()} if torch.cuda.is_available() else {}
    return Job("build", "build", (sys.executable, "setup.py", "build_ext", "--inplace"), 50, environment=environment)


def architecture() -> str:
    return "{}.{}".format(*torch.cuda.get_device_capability())


TESTS = {
    "capture": (5, "tests/training/test_capture_gpu.py", "tests/training/test_averaging_gpu.py"),
    "operations": (9, *(f"tests/ops/{name}/test_gpu.py" for name in ("row_loss", "crd", "augment", "distill_loss"))),
    "methods": (
        2,
        "tests/methods/test_methods_gpu.py",
        "tests/data/test_augment_gpu.py",
        "tests/support/test_host_copies.py",
    ),
}
"""{job: workers and files}, those that were never run first. The loaders' own tests need DALI: the part `data`."""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TORCHINDUCTOR_COMPILE_THREADS": "2"}
"""Each worker has a core."""


def tests(out: Path, cores: int, *, several: bool, steps: bool) -> Iterator[Job]:
    """All at once: most of their time is a compiler's."""
    for name, (workers, *files) in TESTS.items():
        if not steps and name != "operations":
            continue
        share = max(1, workers * cores // CORES)
        results = ("-p", "benchmarks.as_they_come", "--results", str(out / f"{name}-tests.jsonl"))
        many = ("-n", str(share)) if several and share > 1 else ()
        command = (sys.executable, "-m", "pytest", *GPU_TESTS, "-rfE", "--tb=short", *results, *many, *files)
        yield Job("tests", f"{name} tests", command, 150, wave="tests", environment=ONE_THREAD)


def benchmark(out: Path, part: str, name: str, seconds: int) -> Job:
    command = (sys.executable, "-m", f"benchmarks.{name}", "--quick", "--json", str(out / f"{name}.json"))
    return Job(part, name, command, seconds)


def sanitized() -> list[Job]:
    """compute-sanitizer over the CRD kernels at small shapes: bad addresses, races in shared memory. Not part of the
    whole, since it checks what changes rarely and takes minutes."""
    tests = (sys.executable, "-m", "pytest", *GPU_TESTS, "tests/ops/crd/test_gpu.py")
    which = {
        "gather": "gather and (against_float64 or update or draws_are)",
        "dense": "dense and (draws_are or against_float64 and (plain or replacement or enough or whole))",
        "marks": "counts_of and cuda",
    }
    jobs = []
    for name, chosen in which.items():
        for tool in ("memcheck", "racecheck"):
            checker = ("compute-sanitizer", "--tool", tool, "--error-exitcode", "1")
            jobs.append(Job("sanitize", f"{tool} {name}", (*checker, *tests, "-k", chosen), 60))
    return jobs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=(*BY_DEFAULT, "data", "sanitize"), help="only this part")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--list", action="store_true", help="say what would be run, with its seconds, and stop")
    options = parser.parse_args()
    out, lacking, several = options.out.resolve(), without_steps(), not missing("xdist")
    cores = len(os.sched_getaffinity(0))
    if lacking:
        print(f"== without whole steps and their tests: {', '.join(lacking)} not installed", flush=True)
    if not several:
        print("== the tests have one worker each: pytest-xdist is not installed", flush=True)
    parts = (options.part,) if options.part else BY_DEFAULT
    chosen = [job for job in jobs(out, steps=not lacking, cores=cores, several=several) if job.part in parts]
    if options.list:
        for job in chosen:
            print(f"{job.seconds:4} s  {job.name}: {' '.join(job.command[1:])}")
        return 0
    if options.part not in WITHOUT_RECORDS:
        record_file(out)
    found = carry_out(chosen, out, root=ROOT, say=lambda line: print(line, flush=True))
    if failed := [done.name for done in found if done.code]:
        print("failed: " + ", ".join(failed))
    if late := [done.name for done in found if done.code is None]:
        print("not done in their time: " + ", ".join(late))
    return 1 if failed or late else 0


if __name__ == "__main__":
    sys.exit(main())
