"""What the processes of a run say to each other: one process a GPU (NCCL), or some on the CPU (gloo).

Without torchrun there is one process, and every function here has its answer for that. Rank 0 writes; all ranks hold
the same weights.
"""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fastkd.support.errors import UserError


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return 1 if _alone or not dist.is_initialized() else dist.get_world_size()


_alone = False


_of_host: dist.ProcessGroup | None = None
"""The group that the host's messages go through; None: the one of all messages."""
_on_this_machine = 0
"""The number of processes on this machine, where torchrun does not say it; 0: it is not known."""


@contextmanager
def in_a_group_of_another(host: dist.ProcessGroup | None) -> Iterator[None]:
    """Within it the host's messages go through `host`, if there is one, and processes on this machine are counted."""
    global _of_host, _on_this_machine
    before = _of_host, _on_this_machine
    try:
        _of_host = host
        _on_this_machine = from_all(socket.gethostname()).count(socket.gethostname())
        yield
    finally:
        _of_host, _on_this_machine = before


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
    """Gives every rank the buffers of rank 0: BatchNorm statistics, which each collects on its own images.

    What modules name as `replicated` all ranks compute alike: a memory bank is not sent.
    """
    if world_size() > 1:
        for part in module.modules():
            for name, buffer in part.named_buffers(recurse=False):
                if name not in getattr(part, "replicated", ()):
                    dist.broadcast(buffer, src=0, group=_group_of(buffer))


def _group_of(value: Tensor) -> dist.ProcessGroup | None:
    """The group that a tensor travels through."""
    return _of_host if value.device.type == "cpu" else None
