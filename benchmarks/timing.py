"""What the benchmarks share: interleaved timing, capture, and the records that they write."""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from fastkd.ops import compiled

RESULTS = Path(__file__).parent / "results"
"""The records that README's tables are made of."""
L2_BYTES = 64 << 20
"""Of the largest cache that inputs must not fit into: an H200 has 60 MB."""


@dataclass(frozen=True)
class Record:
    benchmark: str
    contender: str
    case: str
    device: str
    median_s: float
    p20_s: float
    p80_s: float
    cpu_s: float
    """Processor time of one call, user and system."""
    peak_bytes: int | None
    """Allocated on the device by one call, beyond what stood before it; None on a CPU."""
    checked: bool
    """Its result was compared before it was timed."""
    versions: dict[str, str]
    commit: str
    starting_s: float | None = None
    """Compiling and capturing, before the first call."""
    bandwidth_share: float | None = None
    """The least bytes that must move, over the time, as a fraction of what a copy moves; None where not measured."""
    messages: tuple[int, ...] = ()
    """The bytes of each message that the call sent to other processes, in their order."""


class Timing(NamedTuple):
    median_s: float
    p20_s: float
    p80_s: float
    cpu_s: float

    def per(self, parts: int) -> "Timing":
        return Timing(self.median_s / parts, self.p20_s / parts, self.p80_s / parts, self.cpu_s / parts)


def interleaved(
    contenders: dict[str, Sequence[Callable[[], object]]], repetitions: int, device: str
) -> dict[str, Timing]:
    """Times one call of each contender in turn, round after round, so that all meet the same disturbances.

    A contender is a sequence of callables over different inputs; they are rotated, so that no cache holds them. On a
    GPU a quick contender is called several times in its turn, and the mean counts.
    """
    wall: dict[str, list[float]] = {name: [] for name in contenders}
    cpu: dict[str, list[float]] = {name: [] for name in contenders}
    warm_up = 3
    at_once = dict.fromkeys(contenders, 1)
    for repetition in range(warm_up + repetitions):
        for name, calls in contenders.items():
            several = [calls[(repetition * at_once[name] + i) % len(calls)] for i in range(at_once[name])]
            seconds, cpu_seconds = _several(several, device)
            if repetition == warm_up - 1 and device == "cuda":
                # A GPU that waits for one launch of a few microseconds shows the host's time, not its own.
                at_once[name] = min(max(1, round(2e-3 / seconds)), 50)
            if repetition >= warm_up:
                wall[name].append(seconds)
                cpu[name].append(cpu_seconds)
    return {
        name: Timing(statistics.median(times), *_p20_p80(times), statistics.median(cpu[name]))
        for name, times in wall.items()
    }


def _several(calls: Sequence[Callable[[], object]], device: str) -> tuple[float, float]:
    """Mean wall and processor seconds of calls made one after the other."""
    if device == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        before = cpu_seconds()
        start.record()
        for call in calls:
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000 / len(calls), (cpu_seconds() - before) / len(calls)
    before, start_s = cpu_seconds(), time.perf_counter()
    for call in calls:
        call()
    return (time.perf_counter() - start_s) / len(calls), (cpu_seconds() - before) / len(calls)


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _p20_p80(times: list[float]) -> tuple[float, float]:
    fifths = statistics.quantiles(times, n=5, method="inclusive")
    return fifths[0], fifths[3]


def captured(call: Callable[[], object]) -> Callable[[], None]:
    """`call` as a CUDA graph; what it returns stays in the graph's memory."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def peak_bytes(call: Callable[[], object], device: str) -> int | None:
    if device != "cuda":
        return None
    call()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def input_sets(bytes_each: int, device: str) -> int:
    """How many sets of inputs to rotate through: at least three, and more than the cache holds."""
    return 3 if device == "cpu" else min(max(3, -(-2 * L2_BYTES // bytes_each)), 64)


def device_name(device: str) -> str:
    """The GPU's name; without one the threads, and the instruction set of our compiled kernels where they are there."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    instructions = "" if compiled.obstacle("cpu") else f", {compiled.instructions()}"
    return f"cpu, {torch.get_num_threads()} threads{instructions}"


def versions(*packages: str) -> dict[str, str]:
    from importlib import metadata

    found = {}
    for package in ("torch", "triton", "numpy", *packages):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found | ({"cuda": torch.version.cuda} if torch.version.cuda else {})


def commit() -> str:
    """The commit of this checkout, with "+" where files differ from it; outside of one what FASTKD_COMMIT says.

    New records do not make a difference: several benchmarks may write theirs one after the other. Where nothing says
    which commit it is, it is "unknown".
    """
    head = _git("rev-parse", "--verify", "-q", "HEAD")
    if not head:
        return os.environ.get("FASTKD_COMMIT", "unknown")
    return head + ("+" if _git("status", "--porcelain", "--", ":/", ":(top,exclude)benchmarks/results") else "")


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def record_file(name: str | Path) -> Path:
    """Where records may be written: anywhere, but into results/ only from a tree that a commit names.

    Ends the program with a line and code 2 otherwise, before anything is measured.
    """
    path = Path(name)
    if path.resolve().is_relative_to(RESULTS) and commit().endswith("+"):
        print(f"benchmarks: {path}: files differ from the commit that a record names; commit them", file=sys.stderr)
        raise SystemExit(2)
    return path


def write_json(records: Sequence[Record], path: Path) -> None:
    path.write_text(json.dumps([asdict(record) for record in records], indent=1) + "\n")
