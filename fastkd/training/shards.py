"""A batch that always is so many shards, whatever the number of processes: equal bytes for every divisor of it."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fastkd.data.base import Batch
from fastkd.data.shares import sizes
from fastkd.losses import CRDLoss
from fastkd.support.distributed import rank, world_size
from fastkd.training.parts import divided
from fastkd.training.stages import Numbers, Stage, StageLoss

ForwardBackward = Callable[[Batch, float], StageLoss]
Node = tuple[int, int]
"""The shards first … end-1, whose sum is a node of the tree by which all are added up."""


def halves(node: Node) -> tuple[Node, Node]:
    """The two nodes that are added up to make a node of more than one shard."""
    first, end = node
    middle = (first + end) // 2
    return (first, middle), (middle, end)


def nodes_within(node: Node, own: Node) -> list[Node]:
    """The largest nodes below a node whose shards are all a process' own."""
    if own[0] <= node[0] and node[1] <= own[1]:
        return [node]
    if node[1] <= own[0] or own[1] <= node[0]:
        return []
    return [found for half in halves(node) for found in nodes_within(half, own)]


class Layout(NamedTuple):
    """What of a shard is added up, as one flat tensor: gradients, changes of buffers, and numbers of the loss."""

    parameters: list[nn.Parameter]
    buffers: list[Tensor]
    names: tuple[str, ...]

    def pieces(self, flat: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """The parts of a flat tensor as gradients and buffers in the layouts of their like, and the numbers."""
        values = [*self.parameters, *self.buffers]
        *parts, numbers = flat.split([*(value.numel() for value in values), len(self.names)])
        laid_out = [
            part.as_strided(value.shape, value.stride(), part.storage_offset())
            for part, value in zip(parts, values, strict=True)
        ]
        return laid_out[: len(self.parameters)], laid_out[len(self.parameters) :], numbers

    def new(self, rows: int) -> Tensor:
        """[rows,numbers], of zeros."""
        count = sum(value.numel() for value in (*self.parameters, *self.buffers)) + len(self.names)
        return self.parameters[0].new_zeros(rows, count)


class Shards:
    """Takes the shards of a process one after the other, each from the buffers with which the step began.

    Gradients, terms and the changes of buffers (BatchNorm's statistics) are weighted by the shards' images and added up
    along one tree, halves by halves: what a process has of it first, then what all have gathered.
    """

    def __init__(self, stage: Stage, count: int):
        """count: shards of a batch, which the processes divide."""
        self.stage, self.count, self.processes = stage, count, world_size()
        each = count // self.processes
        self.own: Node = (rank() * each, (rank() + 1) * each)
        self.remembering = [module for module in stage.modules() if isinstance(module, CRDLoss)]

    def pieces(self, batch: Batch, whole: int) -> list[Batch]:
        """The shards of this process; whole: the images of the global batch."""
        return divided(batch, [*sizes(whole, self.count)[slice(*self.own)]])

    def __call__(self, batch: Batch, whole: int, forward_backward: ForwardBackward) -> StageLoss:
        """Leaves the gradients of the global batch in the parameters; the terms are its own, the hits this process'."""
        for loss in self.remembering:
            loss.begin_shards()
        step = _Step(self.stage, self.pieces(batch, whole), whole, self.own[0], forward_backward, self._left_alone())
        sums = {node: step.sum_of(node) for node in nodes_within((0, self.count), self.own)}
        found = step.finished(self._added_up(sums, step.layout))
        for loss in self.remembering:
            loss.end_shards(sizes(whole, self.processes))
        return found

    def _left_alone(self) -> set[int]:
        """The buffers that no shard changes, by their ids: banks, which are large."""
        return {id(loss.bank) for loss in self.remembering}

    def _added_up(self, sums: dict[Node, Tensor], layout: Layout) -> Tensor:
        """The sum of all shards; of its own ones where a process works alone."""
        if world_size() == 1:
            return (
                _along_the_tree((0, self.count), sums) if self.processes == 1 else torch.stack([*sums.values()]).sum(0)
            )
        each = self.count // self.processes
        of_all = [nodes_within((0, self.count), (n * each, (n + 1) * each)) for n in range(self.processes)]
        message = layout.new(max(map(len, of_all)))
        for row, found in zip(message, sums.values(), strict=False):
            row.copy_(found)
        gathered = [torch.empty_like(message) for _ in of_all]
        dist.all_gather(gathered, message)
        pairs = zip(of_all, gathered, strict=True)
        known = dict(itertools.chain.from_iterable(zip(nodes, rows, strict=False) for nodes, rows in pairs))
        return _along_the_tree((0, self.count), known)


def _along_the_tree(node: Node, known: dict[Node, Tensor]) -> Tensor:
    if node in known:
        return known[node]
    left, right = halves(node)
    return _along_the_tree(left, known) + _along_the_tree(right, known)


class _Step:
    """One step of the shards of a process."""

    layout: Layout

    def __init__(
        self,
        stage: Stage,
        pieces: Sequence[Batch],
        whole: int,
        first: int,
        forward_backward: ForwardBackward,
        left_alone: set[int],
    ):
        self.stage, self.pieces, self.whole, self.first = stage, pieces, whole, first
        self.forward_backward = forward_backward
        self.buffers = [buffer for buffer in stage.buffers() if id(buffer) not in left_alone]
        self.before = [buffer.clone() for buffer in self.buffers]
        self.hits: Tensor | None = None

    def sum_of(self, node: Node) -> Tensor:
        """The sum of the shards of a node, taken in order."""
        if node[1] - node[0] == 1:
            return self._of_shard(self.pieces[node[0] - self.first])
        left, right = (self.sum_of(half) for half in halves(node))
        return left + right

    def _of_shard(self, piece: Batch) -> Tensor:
        for buffer, value in zip(self.buffers, self.before, strict=True):
            buffer.copy_(value)
        share = len(piece.labels) / self.whole
        loss = self.forward_backward(piece, share)
        self.hits = loss.hits if self.hits is None else self.hits + loss.hits
        return self._flat(loss.numbers(), share)

    @torch.no_grad()
    def _flat(self, numbers: Numbers, share: float) -> Tensor:
        """What a shard adds; its gradients are taken out of the parameters."""
        parameters = [parameter for parameter in self.stage.parameters() if parameter.grad is not None]
        summed = [buffer for buffer, _ in self._summed(parameters[0].dtype)]
        self.layout = Layout(parameters, summed, numbers.names)
        (flat,) = self.layout.new(1)
        gradients, changes, values = self.layout.pieces(flat)
        for goal, parameter in zip(gradients, parameters, strict=True):
            goal.copy_(parameter.grad)  # pyright: ignore[reportArgumentType]
            parameter.grad = None
        for goal, (buffer, before) in zip(changes, self._summed(parameters[0].dtype), strict=True):
            goal.copy_((buffer - before) * share)
        values.copy_(numbers.values * share)
        return flat

    def _summed(self, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
        """The buffers that shards change each in its own way, and what they were: those that are no counters."""
        return ((now, then) for now, then in zip(self.buffers, self.before, strict=True) if now.dtype == dtype)

    @torch.no_grad()
    def finished(self, total: Tensor) -> StageLoss:
        """Puts gradients and buffers where they belong."""
        gradients, changes, values = self.layout.pieces(total)
        for parameter, gradient in zip(self.layout.parameters, gradients, strict=True):
            parameter.grad = gradient
        for (buffer, before), change in zip(self._summed(total.dtype), changes, strict=True):
            buffer.copy_(before + change)
        loss, *terms = values.unbind()
        assert self.hits is not None
        return StageLoss(loss, dict(zip(self.layout.names[1:], terms, strict=True)), self.hits)
