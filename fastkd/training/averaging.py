"""The mean of the gradients over the processes: by DDP's reducer, or by one message of all of them."""

import contextlib
import gc
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fastkd.data.base import Batch
from fastkd.support.distributed import world_size
from fastkd.training.stages import Stage, StageLoss

# DDP times its first ten steps, and after them one in so many, by events that are read on the host.
_NEVER = 2**31 - 1

MIB = 2.0**20
PARTS, LEAST_BYTES, MOST_BYTES = 4, 1 << 20, 25 << 20
"""Into how many messages gradients are cut, and between which bounds, the greater of which is DDP's."""

Context = Callable[[], AbstractContextManager[None]]


class Averaging:
    """Sees to it that a stage's gradients, after `backward` and `finish`, are the mean over the processes.

    Where there is one process, or the process works alone (`distributed.alone`), it is the stage itself.
    """

    def __init__(self, stage: Stage, device: torch.device, *, static_graph: bool, in_shards: bool = False):
        """static_graph: DDP's argument of that name; it does not go with batches in parts. in_shards: whether
        `fastkd.training.shards` adds the gradients up."""
        self.stage, self.device = stage, device
        self.steps_differ = bool(stage.why_steps_differ)
        self.static_graph = static_graph and not self.steps_differ
        self.reducer: DistributedDataParallel | None = None
        """DDP, from the first step or `build` on, unless the gradients travel as one message."""
        self.one_message = False
        self.by_others = stage.gate is not None or in_shards
        """Whether there is nothing to do: `fastkd.training.gates` averages the gradients that it collects, too."""
        self.stream: Context = contextlib.nullcontext
        """The stream on which steps are taken that are not recorded."""

    def build(self, stream: Context = contextlib.nullcontext, *, one_message: bool = False) -> None:
        """Prepares the mean anew; every process has to call it.

        stream: DDP keeps the nodes that add gradients up, and these work on the stream on which they were made: it has
            to be that of the steps, and of a capture.
        one_message: without DDP's reducer.
        """
        if self.reducer is not None:
            self.reducer = None
            gc.collect()  # what an earlier reducer keeps of the autograd graph would be used again
        self.stream, self.one_message = stream, one_message
        if world_size() == 1 or one_message or self.by_others:
            return
        ids = [self.device] if self.device.type == "cuda" else None
        with stream():
            # BatchNorm statistics are each rank's own; rank 0's are shared before evaluation and saving.
            self.reducer = DistributedDataParallel(
                self.stage,
                device_ids=ids,
                broadcast_buffers=False,
                static_graph=self.static_graph,
                find_unused_parameters=self.steps_differ,
                bucket_cap_mb=message_bytes(self.stage.parameters()) / MIB,  # pyright: ignore[reportArgumentType]
            )
        self.reducer._set_ddp_runtime_logging_sample_rate(_NEVER)

    def module(self) -> Callable[[Batch], StageLoss]:
        """What is called with a batch; the reducer of several processes is built now, if it was not before."""
        return self._ready_reducer() or self.stage

    def part(self, *, last: bool) -> AbstractContextManager[None]:
        """The context of a part of a batch: nothing is sent before the last one."""
        reducer = self._ready_reducer()
        return contextlib.nullcontext() if reducer is None or last else reducer.no_sync()

    def _ready_reducer(self) -> DistributedDataParallel | None:
        if world_size() == 1 or self.one_message or self.by_others:
            return None
        if self.reducer is None:
            self.build()
        return self.reducer

    def finish(self) -> None:
        """Called when all gradients are there."""
        if self.one_message and not self.by_others and world_size() > 1:
            average_gradients([parameter for parameter in self.stage.parameters() if parameter.grad is not None])


def message_bytes(parameters: Iterable[nn.Parameter]) -> int:
    """The bytes of gradients that travel as one message: a quarter of all, but 1 MiB at least and 25 at most.

    What backward has found last waits for nothing that it could overlap with: the smaller the last message, the less of
    it is waited for. Below 1 MiB a message costs more than it hides (docs/DESIGN.md, section 9).
    """
    total = sum(parameter.nbytes for parameter in parameters if parameter.requires_grad)
    return min(max(total // PARTS, LEAST_BYTES), MOST_BYTES)


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Makes the gradients of all these parameters their means over the processes, each divided first, as DDP does.

    They travel as one flat tensor and are parts of it from then on. All are of one type and without gaps.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = gradients[0].new_empty(sum(gradient.numel() for gradient in gradients))
    pieces = flat.split([gradient.numel() for gradient in gradients])
    laid_out = [
        piece.as_strided(gradient.shape, gradient.stride(), piece.storage_offset())
        for piece, gradient in zip(pieces, gradients, strict=True)
    ]
    torch._foreach_copy_(laid_out, gradients)  # pyright: ignore[reportPrivateImportUsage]
    flat.mul_(1 / dist.get_world_size())
    dist.all_reduce(flat)
    for parameter, gradient in zip(parameters, laid_out, strict=True):
        parameter.grad = gradient
