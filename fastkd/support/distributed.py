"""Several processes, one run: started by torchrun, one process a GPU (NCCL), or some on the CPU (gloo).

Without torchrun there is one process, and every function here has its answer for that. Rank 0 writes; all ranks hold
the same weights.
"""

import gc
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.rendezvous import rendezvous

from fastkd.support.errors import UserError


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
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if dist.is_initialized() else 1


@contextmanager
def processes(device: torch.device) -> Iterator[torch.device]:
    """Joins the group that torchrun started, if it did; yields this process's device."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield device
        return
    _check_environment()
    if device.type == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise UserError(f"{local_size()} processes on this machine, but it has {torch.cuda.device_count()} GPUs")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    # Objects and flags of the host travel by gloo, so that they never wait for a GPU.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    store, number, size = next(rendezvous("env://"))
    dist.init_process_group(backend, store=PrefixStore(_attempt(), store), rank=number, world_size=size)
    try:
        yield device
        dist.barrier()  # a process that leaves while another one still talks to it can take that one down
    except RuntimeError as error:
        if not _PEER_IS_GONE.search(str(error)):
            raise
        raise UserError(f"process {rank()} ends because another one of the run has ended; that one says why") from error
    finally:
        gc.collect()  # threads of a group that something still holds would abort the interpreter at its end
        dist.destroy_process_group()


def _attempt() -> str:
    """A name for these processes among all that torchrun starts for a job.

    Its store outlives processes that are started anew, and holds the addresses of those before, which are gone.
    """
    return f"fastkd, {restarts()[0]} restarts, {os.environ['WORLD_SIZE']} processes"


_PEER_IS_GONE = re.compile(
    r"[Cc]onnection (was )?(closed|reset|refused)|closed by peer|remote process exited", re.DOTALL
)
"""How the transports say that a process at the other end is no more."""


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
        dist.barrier()


def from_main(value: Any) -> Any:
    """Rank 0's value, on every rank; plain types only."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
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
    dist.all_gather_object(boxes, value)
    return boxes


def _is_on_host(value: Any) -> bool:
    if isinstance(value, dict | list | tuple):
        return all(_is_on_host(item) for item in (value.values() if isinstance(value, dict) else value))
    return not isinstance(value, Tensor) or value.device.type == "cpu"


def on_all(action: Callable[[], Any]) -> list[Any]:
    """Every rank runs `action`; returns what they return, plain types on the host, in the order of the ranks.

    An error on one of them is raised on every rank.
    """
    value = error = None
    try:
        value = action()
    except Exception as raised:
        error = raised
    found = from_all([value, None if error is None else str(error) or type(error).__name__])
    if error is not None:
        raise error
    if mistake := next((mistake for _, mistake in found if mistake is not None), None):
        raise UserError(mistake)
    return [value for value, _ in found]


def first_of_all(value: Any) -> Any:
    """The first true value in rank order, the same on every rank; None where there is none."""
    return next((found for found in from_all(value) if found), None)


def agreed(flag: bool) -> bool:
    """Whether the flag is set on any rank; every rank gets the same answer."""
    if world_size() == 1:
        return flag
    found = torch.tensor(int(flag))
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return bool(found.item())


def sum_over_ranks(value: Tensor) -> Tensor:
    """Sums a tensor over all ranks, in place, and returns it."""
    if world_size() > 1:
        dist.all_reduce(value)
    return value


def any_rank(flag: Tensor) -> Tensor:
    """Sets a flag on the device, a number that is 0 or 1, to 1 where it is 1 on any rank; returns it."""
    if world_size() > 1:
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return flag


def share_buffers(module: nn.Module) -> None:
    """Gives every rank the buffers of rank 0: BatchNorm statistics, which each collects on its own images.

    What modules name as `replicated` all ranks compute alike: a memory bank is not sent.
    """
    if world_size() > 1:
        for part in module.modules():
            for name, buffer in part.named_buffers(recurse=False):
                if name not in getattr(part, "replicated", ()):
                    dist.broadcast(buffer, src=0)
