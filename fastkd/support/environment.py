"""What a run was made with: versions, device, git commit."""

import importlib.metadata
import os
import platform
import resource
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

import fastkd
from fastkd.support.errors import UserError
from fastkd.support.words import counted

_PACKAGES = ("torch", "torchvision", "triton", "timm", "numpy", "safetensors", "tyro", "rich", "nvidia-dali-cuda130")


def collect() -> dict[str, Any]:
    """The versions, devices and commit that a run is made with, in plain types."""
    return {
        "fastkd": fastkd.__version__,
        "commit": git_commit(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "cuda": torch.version.cuda,
        "gpus": [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())],
        "cores": cores(),
        "threads": torch.get_num_threads(),
    }


def this_call() -> dict[str, str]:
    """When, where and by which command the program was called; the command begins with the interpreter's name."""
    interpreter, *words = sys.orig_argv or sys.argv
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "host": platform.node(),
        "command": shlex.join([Path(interpreter).name, *words]),
    }


def calls(environment: Mapping[str, Any]) -> list[dict[str, str]]:
    """The calls that the env.json of a run tells of, from the first on; one of fastkd 0.1 tells of none."""
    names = ("date", "host", "command")
    told = [*environment.get("earlier", []), environment]
    return [{name: call[name] for name in names} for call in told if all(name in call for name in names)]


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads(wanted: int | None, processes: int = 1) -> int:
    """The CPU threads of this process: as many as asked for, else OMP_NUM_THREADS, else its share of the cores."""
    if wanted is not None:
        most = max(64, 8 * cores())
        if wanted > most:
            raise UserError(
                f"--threads {wanted}: this machine has {counted(cores(), 'core')}, more than {most} would only wait"
            )
        return wanted
    named = os.environ.get("OMP_NUM_THREADS", "")
    return int(named) if named.isdigit() and int(named) else max(1, cores() // processes)


def set_threads(wanted: int | None, processes: int = 1) -> None:
    torch.set_num_threads(threads(wanted, processes))


def peak_memory(device: torch.device) -> int:
    """The most bytes held: by tensors on a GPU since its statistics were reset, or by this process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def memory(device: torch.device) -> dict[str, int]:
    """Bytes: `rss`, what this process holds of the machine's memory; on a GPU also the most that torch had allocated
    and reserved there, `max_allocated` and `max_reserved`."""
    held = {"rss": _resident_bytes()}
    if device.type != "cuda":
        return held
    of_gpu = {
        "max_allocated": torch.cuda.max_memory_allocated(device),
        "max_reserved": torch.cuda.max_memory_reserved(device),
    }
    return of_gpu | held


def _resident_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:  # a system without /proc says at least what the most was
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def device_name(device: torch.device) -> str:
    """The name of the GPU, or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def without_bfloat16(device: torch.device) -> str:
    """The name of a GPU whose matrix units do not know bfloat16, as those before sm_80; "" for any other device."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return ""
    major, minor = torch.cuda.get_device_capability(device)
    return "" if major >= 8 else f"{torch.cuda.get_device_name(device)} (sm_{major}{minor})"


def free_memory() -> int | None:
    """Bytes of memory that this machine can still give; None if it does not say."""
    try:
        about = Path("/proc/meminfo").read_text()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in about.splitlines() if line.startswith("MemAvailable")), None)


def pick_device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: this machine has no GPU that torch can use")
    return torch.device(name)


def git_commit() -> str | None:
    """The commit of the checkout that fastkd runs from, with a + where it was changed; None without a checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "--short=12", "HEAD")
        return commit + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
