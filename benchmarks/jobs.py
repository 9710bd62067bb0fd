"""Commands that are carried out within their time: one that dies or takes too long leaves what it wrote, and the next
begins."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

_TO_END = 5
"""Seconds in which a job that was interrupted may write what it has."""


@dataclass(frozen=True)
class Job:
    part: str
    name: str
    command: tuple[str, ...]
    seconds: int
    """Its share of the time; it may also take what the jobs before it left of theirs."""
    wave: str = ""
    """Jobs of one wave, which stand one after the other, run at once: nothing in them is timed."""
    environment: dict[str, str] = field(default_factory=dict)


class Done(NamedTuple):
    """How a job ended, as its line of the summary says it."""

    name: str
    command: tuple[str, ...]
    code: int | None
    """The exit code; that of a signal is negative, None is the time that ran out."""
    seconds: float
    last_lines: list[str]

    def words(self) -> str:
        how = f"stopped after {self.seconds:.0f} s" if self.code is None else f"exit code {self.code}"
        return f"== {self.name}: {how}" + ("" if self.code is None else f" after {self.seconds:.0f} s")


def waves(jobs: Iterable[Job]) -> list[list[Job]]:
    """The jobs that run at once; a job without a wave runs alone."""
    numbered = enumerate(jobs)
    return [[job for _, job in wave] for _, wave in groupby(numbered, key=lambda item: item[1].wave or str(item[0]))]


def seconds_of(wave: Sequence[Job]) -> int:
    return max(job.seconds for job in wave)


def carry_out(
    jobs: Sequence[Job],
    out: Path,
    *,
    root: Path,
    say: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> list[Done]:
    """Runs the jobs, wave by wave, from the folder `root`.

    What a job prints goes to out/NAME.log; how it ended is a line of out/gpu.jsonl as soon as it has.
    """
    out.mkdir(parents=True, exist_ok=True)
    summary, found, end = out / "gpu.jsonl", [], clock()
    summary.write_text("")
    for wave in waves(jobs):
        end += seconds_of(wave)
        for job in wave:
            say(f"== {job.name}: {' '.join(job.command[1:])}")
        with ThreadPoolExecutor(max_workers=len(wave)) as pool:
            for done in pool.map(partial(_carry_out, out=out, root=root, seconds=end - clock()), wave):
                with summary.open("a") as file:
                    file.write(json.dumps(done._asdict()) + "\n")
                say("\n".join([*done.last_lines, done.words()]))
                found.append(done)
    return found


def _carry_out(job: Job, out: Path, root: Path, seconds: float) -> Done:
    log, started = out / f"{job.name.replace(' ', '-')}.log", time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(
            job.command,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=root,
            env=os.environ | job.environment,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=max(seconds, 0))
        except BaseException as error:
            _end(process)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            code = None
    return Done(job.name, job.command, code, time.monotonic() - started, _last_lines(log))


def _end(process: subprocess.Popen) -> None:
    """Interrupts a job and those it started, which then write what they have; then kills what is left of them."""
    for number in (signal.SIGINT, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=_TO_END)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def _last_lines(log: Path, count: int = 12) -> list[str]:
    return log.read_text(errors="replace").splitlines()[-count:]
