"""How a process joins the others of its run: torchrun started them, or somebody else who has made their group already.

Without torchrun there is one process. Of what fails between processes a user gets one line.
"""

import contextlib
import gc
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.rendezvous import rendezvous

from fastkd.support.distributed import from_all, in_a_group_of_another, local_size, rank, restarts, wait_for_all
from fastkd.support.errors import UserError
from fastkd.support.watching import GRACE_SECONDS, Watch, end_now, own_name, say


@contextmanager
def processes(device: torch.device) -> Iterator[torch.device]:
    """Joins the group that torchrun started, if it did; yields this process's device.

    A group that somebody else has made in this process (Ray, a program of one's own) is taken as it is: it is neither
    watched nor ended.
    """
    if dist.is_initialized():
        with _taken_as_it_is(device) as own:
            yield own
        return
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield device
        return
    _check_environment()
    limit = _timeout()
    if device.type == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise UserError(f"{local_size()} processes on this machine, but it has {torch.cuda.device_count()} GPUs")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    watch = None
    try:
        watch = _join(device, limit)
        yield device
        dist.barrier()  # a process that leaves while another one still talks to it can take that one down
    except RuntimeError as error:
        late = watch.finding if watch is not None and watch.finding else "no message came from the other processes"
        late = f"{late}: process {rank()} ends after {limit:g} s (FASTKD_TIMEOUT)"
        if (told := _in_one_line(error, late)) is None:
            raise
        raise told from error
    finally:
        if watch is not None:
            watch.stop()
        gc.collect()  # threads of a group that something still holds would abort the interpreter at its end
        if dist.is_initialized():
            dist.destroy_process_group()


def _join(device: torch.device, limit: float) -> Watch:
    """Joins the group of torchrun's processes; returns who watches it, at work."""
    on_gpu = device.type == "cuda"
    # Objects and flags of the host travel by gloo, so that they never wait for a GPU.
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    store, number, size = next(rendezvous("env://", timeout=timedelta(seconds=max(limit, 60))))
    store = PrefixStore(_attempt(), store)
    # NCCL's own end is an abort with pages of text: where there is a GPU the watch comes first, else gloo's error does.
    late = limit + GRACE_SECONDS
    ends, strikes = (late, limit) if on_gpu else (limit, late)
    dist.init_process_group(backend, store=store, rank=number, world_size=size, timeout=timedelta(seconds=ends))
    names = from_all(own_name())
    how = {"limit": limit, "say": say, "end": end_now, "strikes_after": strikes}
    watch = Watch(store.clone(), number, names, lambda: _messages(device), **how)  # pyright: ignore
    wait_for_all()  # each has told something that the others can read
    watch.start()
    return watch


def _messages(device: torch.device) -> int:
    """How many messages this process has begun; of a backend that does not count them, none."""
    group, begun = dist.group.WORLD, 0
    if group is None:
        return begun
    for kind in {"cpu", device.type}:
        with contextlib.suppress(RuntimeError):
            begun += group._get_backend(torch.device(kind))._get_sequence_number_for_group()  # pyright: ignore
    return begun


def _timeout() -> float:
    """Seconds for which a process waits for another one's message."""
    value = os.environ.get("FASTKD_TIMEOUT", "600")
    if not value.isdecimal() or not 1 <= int(value) < 10**7:
        raise UserError(f"the environment variable FASTKD_TIMEOUT is {value!r:.60}, expected seconds, from 1")
    return float(value)


def _in_one_line(error: RuntimeError, late: str) -> UserError | None:
    """What a message that failed means; None where it is an error of another kind. late: what a timeout means."""
    if _PEER_IS_GONE.search(str(error)):
        return UserError(f"process {rank()} ends because another one of the run has ended; that one says why")
    if _IS_LATE.search(str(error)) or isinstance(error, dist.DistError):
        return UserError(late)
    return None


@contextmanager
def _taken_as_it_is(device: torch.device) -> Iterator[torch.device]:
    """Uses the group that this process belongs to; the host's messages get one beside it where it has none for them."""
    group = dist.group.WORLD
    beside: dist.ProcessGroup | None = None
    assert group is not None
    try:
        if device.type == "cuda":
            device = torch.device("cuda", torch.cuda.current_device())
        if all(kind.type != "cpu" for kind in group._device_types):
            beside = dist.new_group(backend="gloo")  # pyright: ignore[reportAssignmentType]
        with in_a_group_of_another(beside):
            yield device
    except RuntimeError as error:
        late = f"process {rank()} ends: no message came from the others in time"
        if (told := _in_one_line(error, late)) is None:
            raise
        raise told from error
    finally:
        if beside is not None:
            dist.destroy_process_group(beside)


def _attempt() -> str:
    """A name for these processes among all that torchrun starts for a job, the same in each of them.

    The agents' store outlives processes that are started anew, and holds the addresses of those before, which are gone.
    A store of the processes' own is a fresh one each time; and then agents may have counted different restarts, since
    only that of the process which failed counts one.
    """
    name = f"fastkd, {os.environ['WORLD_SIZE']} processes"
    is_of_agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return f"{name}, {restarts()[0]} restarts" if is_of_agents else name


_PEER_IS_GONE = re.compile(
    r"[Cc]onnection (was )?(closed|reset|refused)|closed by peer|remote process exited", re.DOTALL
)
"""How the transports say that a process at the other end is no more."""
_IS_LATE = re.compile(r"Timed out waiting \d+ms for|connectFullMesh failed|Connection timed out|No route to host")
"""How they say that nothing came from it in time."""


def _check_environment() -> None:
    """Raises UserError for variables of torchrun's that say nothing, as a script that sets them by hand leaves them."""
    numbers = {"WORLD_SIZE": 1, "RANK": 0, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "MASTER_PORT": 0}
    for name, least in numbers.items():
        value = os.environ.get(name, str(least))
        if not value.isdecimal() or not least <= int(value) < 2**16:
            raise UserError(f"the environment variable {name} is {value!r:.60}, expected a number from {least}")
    if int(os.environ["RANK"]) >= int(os.environ["WORLD_SIZE"]):
        raise UserError(f"RANK is {os.environ['RANK']}, but WORLD_SIZE says {os.environ['WORLD_SIZE']} processes")
    if missing := [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise UserError(f"RANK and WORLD_SIZE are set, {missing[0]} is not: torchrun sets all of them")
