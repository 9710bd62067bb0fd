"""Work that may run beside what follows it: in a branch of a CUDA graph, while one is recorded."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar

T = TypeVar("T")


class Fork(Protocol):
    """Begins work in a branch; what it returns ends the branch, in the stream that calls it, and gives the work's
    result."""

    def __call__(self, work: Callable[[], T]) -> Callable[[], T]: ...


_fork: ContextVar[Fork | None] = ContextVar("fork", default=None)


def begun_beside(work: Callable[[], T]) -> Callable[[], T] | None:
    """Begins `work` beside what follows, if somebody offers branches; else None, and nothing is begun.

    What is returned has to be called before the recording ends, once, where the result is needed. `work` may read what
    was written before, and nothing that follows may change what it reads until then.
    """
    fork = _fork.get()
    return None if fork is None else fork(work)


@contextmanager
def offering(fork: Fork) -> Iterator[None]:
    """Within, work that may run beside something else does so by `fork`."""
    token = _fork.set(fork)
    try:
        yield
    finally:
        _fork.reset(token)
