"""Counts the bytes that tensors take."""

import weakref

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def storages(values) -> list:
    return [value.untyped_storage() for value in tree_leaves(values) if isinstance(value, Tensor)]


class Peak(TorchDispatchMode):
    """The most bytes at once of the tensors that were made under it."""

    def __init__(self):
        super().__init__()
        self.alive, self.known, self.peak = 0, set(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {storage.data_ptr() for storage in storages((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for storage in storages(result):
            if storage.data_ptr() not in given:
                self.count(storage)
        return result

    def count(self, storage) -> None:
        address, size = storage.data_ptr(), storage.nbytes()
        if address and address not in self.known:
            self.known.add(address)
            self.alive += size
            self.peak = max(self.peak, self.alive)
            weakref.finalize(storage, self.forget, address, size)

    def forget(self, address: int, size: int) -> None:
        self.known.discard(address)
        self.alive -= size
