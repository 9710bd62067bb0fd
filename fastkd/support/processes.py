"""Which process wrote a file, in words that others can check: on this machine whether it still lives."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def own_process() -> dict[str, Any]:
    """This process, told from every other one of any machine, and from those that have had its number before."""
    return {
        "host": socket.gethostname(),
        "boot": _text("/proc/sys/kernel/random/boot_id"),
        "namespace": _link("/proc/self/ns/pid"),
        "pid": os.getpid(),
        "begun": _begun(os.getpid()),
    }


def is_gone(found: Mapping[str, Any]) -> bool | None:
    """Whether a process that `own_process` has told of is no more; None where this machine cannot know it."""
    here = own_process()
    if any(found.get(name) != here[name] for name in ("host", "boot", "namespace")):
        return None
    if begun := _begun(found.get("pid")):
        return begun != found.get("begun")  # another one has its number; one that sleeps may wake up
    return True if _has_no_process(found.get("pid")) else None


def _has_no_process(pid: Any) -> bool:
    """Whether there is no process of that number, where /proc does not say so: it may hide those of other users."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError, TypeError):
        return False
    return False


def _begun(pid: Any) -> str:
    """When a process of this machine began, in ticks since the machine did; empty where there is no such process."""
    fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split() if isinstance(pid, int) else []
    return fields[19] if len(fields) > 19 else ""


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
