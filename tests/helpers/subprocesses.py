"""Tests that need a process of their own, because of what it must know before it imports anything."""

import json
import os
import subprocess
import sys
from pathlib import Path

from helpers.places import ROOT, TESTS


def with_paths(**environment: str) -> dict[str, str]:
    """The environment of a process that finds the package and the helpers."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(TESTS))), **environment}


def run_interpreted(*files: Path, marks: str = "not slow and not gpu", **environment: str) -> None:
    """Runs test files in a process that sets TRITON_INTERPRET before all imports, where they are collected."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "helpers.interpreter"]
    command += ["-W", "ignore::RuntimeWarning", "-m", marks, *map(str, files)]
    environment = with_paths(TRITON_INTERPRET="1", **environment)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout, "nothing was run"


def compiled_ahead(kernels: str, *arguments: str) -> list[dict]:
    """What `helpers.compiled_ahead.KERNELS` prints, run without the interpreter: helpers decorated under it do not
    compile."""
    environment = with_paths()
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-m", f"helpers.compiled_ahead.{kernels}", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]
