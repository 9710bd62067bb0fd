"""Copies on the host of everything that a tree of tensors holds, into buffers that are kept from one to the next."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, UntypedStorage


class HostCopies:
    """Copies trees of dictionaries, lists and tensors as they are at one instant.

    The copies are written to a file as the tensors themselves would be: those on a CPU share storages where the tensors
    do. Those of a GPU go to pinned memory, in the order of its stream: nobody waits for them but who calls `arrived`,
    and what the stream does next changes none of them. The next tree gets the buffers of the last one.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[int, bool], list[UntypedStorage]] = {}
        """{(bytes, pinned): buffers}"""

    def of(self, tree: Any, *, apart: bool = False) -> tuple[Any, Callable[[], None]]:
        """The copy of a tree, and a function that waits until all of it has arrived.

        apart: every tensor gets a storage of its own, which holds its elements and no others.
        """
        taking = _Taking(self._kept, apart)
        copy = taking.of(tree)
        self._kept = taking.used
        return copy, taking.arrival()


class _Taking:
    def __init__(self, kept: dict[tuple[int, bool], list[UntypedStorage]], apart: bool):
        self.kept, self.apart, self.used = kept, apart, defaultdict(list)
        self.storages: dict[int, UntypedStorage] = {}
        """{a storage on the CPU: its copy}"""
        self.views: dict[int, Tensor] = {}
        """{a tensor on the CPU: its copy}, since a file holds a tensor that stands in two places once."""
        self.device: torch.device | None = None

    def of(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._elements(value) if self.apart or value.device.type != "cpu" else self._whole_storage(value)
        if isinstance(value, dict):
            return {key: self.of(item) for key, item in value.items()}
        return [self.of(item) for item in value] if isinstance(value, list) else value

    def _whole_storage(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.storages:
            self.storages[storage._cdata] = self._buffer(storage.nbytes(), pinned=False).copy_(storage)
        if id(tensor) not in self.views:
            copy = self.storages[storage._cdata]
            self.views[id(tensor)] = _view(copy, tensor, tensor.storage_offset(), tensor.stride())
        return self.views[id(tensor)]

    def _elements(self, tensor: Tensor) -> Tensor:
        pinned = tensor.device.type == "cuda"
        if pinned:
            self.device = tensor.device
        layout = torch.empty_like(tensor, device="meta")
        buffer = self._buffer(layout.untyped_storage().nbytes(), pinned=pinned)
        return _view(buffer, tensor, 0, layout.stride()).copy_(tensor.detach(), non_blocking=pinned)

    def _buffer(self, size: int, *, pinned: bool) -> UntypedStorage:
        waiting = self.kept.get((size, pinned))
        buffer = waiting.pop() if waiting else _made(size, pinned=pinned)
        self.used[size, pinned].append(buffer)
        return buffer

    def arrival(self) -> Callable[[], None]:
        if self.device is None:
            return lambda: None
        event = torch.cuda.Event(blocking=True)  # a thread that asks again and again takes a core from the steps
        event.record(torch.cuda.current_stream(self.device))
        return event.synchronize


def _made(size: int, *, pinned: bool) -> UntypedStorage:
    return torch.empty(size, dtype=torch.uint8, pin_memory=pinned).untyped_storage()


def _view(storage: UntypedStorage, like: Tensor, offset: Any, strides: Any) -> Tensor:
    return torch.empty(0, dtype=like.dtype).set_(storage, offset, like.shape, strides)  # pyright: ignore
