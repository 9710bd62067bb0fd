"""Several processes, one run: started by torchrun, one process a GPU (NCCL), or some on the CPU (gloo).

Without torchrun there is one process, and every function here has its answer for that. Rank 0 writes; all ranks hold
the same weights.
"""

import gc
import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.rendezvous import rendezvous

from fastkd.support.errors import UserError
from fastkd.support.watching import GRACE_SECONDS, Watch, end_now, own_name, say


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return 1 if _alone or not dist.is_initialized() else dist.get_world_size()


_alone = False


@contextmanager
def alone() -> Iterator[None]:
    """Within it this process is the only one: nothing that asks here sends a message. SyncBatchNorm does not ask."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def is_main() -> bool:
    """Whether this process writes and speaks."""
    return rank() == 0


def local_processes() -> int:
    """The number of processes on this machine, which share its cores."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", _on_this_machine or 1)) if dist.is_initialized() else 1


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
        raise _in_one_line(error, late) or error from error
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
    watch = Watch(store.clone(), number, names, lambda: _messages(device), **how)
    wait_for_all()  # each has told something that the others can read
    watch.start()
    return watch


def _messages(device: torch.device) -> int:
    """How many messages this process has begun."""
    group = dist.group.WORLD
    assert group is not None
    return sum(group._get_backend(torch.device(kind))._get_sequence_number_for_group() for kind in {"cpu", device.type})


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
    if _IS_LATE.search(str(error)) or isinstance(error, torch.distributed.DistError):
        return UserError(late)
    return None


@contextmanager
def _taken_as_it_is(device: torch.device) -> Iterator[torch.device]:
    """Uses the group that this process belongs to; the host's messages get one beside it where it has none for them."""
    global _of_host, _on_this_machine
    before = _of_host, _on_this_machine
    group, made = dist.group.WORLD, None
    assert group is not None
    try:
        if device.type == "cuda":
            device = torch.device("cuda", torch.cuda.current_device())
        if not any("cpu" in kind.type for kind in group._device_types):
            made = _of_host = dist.new_group(backend="gloo")
        _on_this_machine = from_all(socket.gethostname()).count(socket.gethostname())
        yield device
    except RuntimeError as error:
        late = f"process {rank()} ends: no message came from the others in time"
        raise _in_one_line(error, late) or error from error
    finally:
        _of_host, _on_this_machine = before
        if made is not None:
            dist.destroy_process_group(made)


_of_host: dist.ProcessGroup | None = None
"""The group that the host's messages go through; None: the one of all messages."""
_on_this_machine = 0
"""The number of processes on this machine, where torchrun does not say it; 0: it is not known."""


def _attempt() -> str:
    """A name for these processes among all that torchrun starts for a job.

    Its store outlives processes that are started anew, and holds the addresses of those before, which are gone.
    """
    return f"fastkd, {restarts()[0]} restarts, {os.environ['WORLD_SIZE']} processes"


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


def local_size() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))


def restarts() -> tuple[int, int]:
    """How often torchrun has started these processes anew after one of them failed, and how often it may."""
    count, most = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")
    return int(count), int(most)


def wait_for_all() -> None:
    if world_size() > 1:
        dist.barrier(_of_host)


def from_main(value: Any) -> Any:
    """Rank 0's value, on every rank; plain types only."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, group=_of_host)
    return box[0]


def on_main(action: Callable[[], None]) -> None:
    """Rank 0 runs `action` and the others wait for it; an error there is raised on every rank."""
    error = None
    if is_main():
        try:
            action()
        except Exception as raised:
            error = raised
    mistake = from_main(None if error is None else str(error) or type(error).__name__)
    if error is not None:
        raise error
    if mistake is not None:
        raise UserError(mistake)


def from_all(value: Any) -> list[Any]:
    """Every rank's value, in the order of the ranks; tensors in it are on the host.

    One on a GPU would be unpickled on that GPU by every rank: half a GiB of memory there for each.
    """
    if world_size() == 1:
        return [value]
    assert _is_on_host(value), "what is sent to the other ranks lies on a device"
    boxes: list[Any] = [None] * world_size()
    dist.all_gather_object(boxes, value, group=_of_host)
    return boxes


def _is_on_host(value: Any) -> bool:
    if isinstance(value, dict | list | tuple):
        return all(_is_on_host(item) for item in (value.values() if isinstance(value, dict) else value))
    return not isinstance(value, Tensor) or value.device.type == "cpu"


def first_of_all(value: Any) -> Any:
    """The first true value in rank order, the same on every rank; None where there is none."""
    return next((found for found in from_all(value) if found), None)


def agreed(flag: bool) -> bool:
    """Whether the flag is set on any rank; every rank gets the same answer."""
    return bool(largest_of_all(int(flag))[0])


def largest_of_all(*values: int) -> list[int]:
    """The largest of each number over the ranks; every rank gets the same ones."""
    if world_size() == 1:
        return list(values)
    found = torch.tensor(values)
    dist.all_reduce(found, op=dist.ReduceOp.MAX, group=_of_host)
    return found.tolist()


def sum_over_ranks(value: Tensor) -> Tensor:
    """Sums a tensor over all ranks, in place, and returns it."""
    if world_size() > 1:
        dist.all_reduce(value, group=_group_of(value))
    return value


def any_rank(flag: Tensor) -> Tensor:
    """Sets a flag on the device, a number that is 0 or 1, to 1 where it is 1 on any rank; returns it."""
    if world_size() > 1:
        dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=_group_of(flag))
    return flag


def share_buffers(module: nn.Module) -> None:
    """Gives every rank the buffers of rank 0: BatchNorm statistics, which each collects on its own images."""
    if world_size() > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0, group=_group_of(buffer))


def _group_of(value: Tensor) -> dist.ProcessGroup | None:
    """The group that a tensor travels through."""
    return _of_host if value.device.type == "cpu" else None
