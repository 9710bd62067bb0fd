"""What one process of a run makes and all of them have; its arrays lie in the memory of each machine once."""

import io
import mmap
import os
import pickle
import secrets
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from fastkd.support.distributed import from_all, from_main, is_main, on_main, wait_for_all, world_size

T = TypeVar("T")

MEMORY = Path("/dev/shm")
"""Where files are pages of memory, which the processes of a machine share."""
_BEAT_S = 5.0
"""Seconds after which the process that works says that it does: no timeout of the group ends those that wait."""
_PORTION = 1 << 24
_OWN = mmap.MAP_PRIVATE  # pages are shared until one is written to
_ALIGNED = 64


def made_once(make: Callable[[], T]) -> T:
    """What `make` returns on rank 0, on every rank: all call this function, one works.

    What is made consists of plain values, numpy arrays, tensors on the host and objects of classes that pickle; whoever
    writes into an array changes a copy of his own. An error of rank 0 is raised on every rank.
    """
    if world_size() == 1:
        return make()
    head, buffers = _made_while_others_wait(make) if is_main() else _waited_for()
    head, sizes, name = from_main((head, [len(buffer) for buffer in buffers], f"fastkd-{secrets.token_hex(16)}"))
    spans = _spans(sizes)
    memory = memoryview(_everywhere(buffers, spans, MEMORY / name))
    return pickle.loads(head, buffers=[memory[span.start : span.stop] for span in spans])


class _Packed(NamedTuple):
    head: bytes
    """The value as a pickle without the contents of its arrays, made and read by processes of one run."""
    buffers: Sequence[memoryview]
    """Those contents."""


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        return (torch.from_numpy, (obj.numpy(),)) if isinstance(obj, Tensor) else NotImplemented


def _packed(value: object) -> _Packed:
    head, found = io.BytesIO(), []
    _Pickler(head, protocol=5, buffer_callback=found.append).dump(value)
    return _Packed(head.getvalue(), [buffer.raw() for buffer in found])


class _Work(threading.Thread):
    """What is made, aside, while the main thread talks to the other ranks."""

    def __init__(self, make: Callable[[], object]):
        super().__init__(daemon=True)
        self.make, self.packed, self.error = make, _Packed(b"", ()), None

    def run(self) -> None:
        try:
            self.packed = _packed(self.make())
        except BaseException as error:
            self.error = error

    def ended(self) -> bool:
        self.join(_BEAT_S)
        return not self.is_alive()

    def end(self) -> None:
        if self.error is not None:
            raise self.error


def _made_while_others_wait(make: Callable[[], object]) -> _Packed:
    work = _Work(make)
    work.start()
    while not from_main(work.ended()):
        pass
    on_main(work.end)
    return work.packed


def _waited_for() -> _Packed:
    while not from_main(None):
        pass
    on_main(lambda: None)
    return _Packed(b"", ())


def _spans(sizes: Sequence[int]) -> list[slice]:
    """Where contents of those sizes lie behind each other."""
    spans, start = [], 0
    for size in sizes:
        spans.append(slice(start, start + size))
        start = -(-(start + size) // _ALIGNED) * _ALIGNED
    return spans


def _everywhere(buffers: Sequence[memoryview], spans: Sequence[slice], file: Path) -> mmap.mmap:
    """Rank 0's buffers in a memory that the processes of each machine share, where `file` can be one."""
    size = max([1, *(span.stop for span in spans)])
    number, created = _shared_file(file, size)
    memory = mmap.mmap(-1, size, flags=_OWN | mmap.MAP_ANONYMOUS) if number is None else mmap.mmap(number, size)
    fills = created or number is None
    _fill(memory if fills else None, buffers, spans, others=any(from_all(fills)[1:]))
    wait_for_all()
    if number is None:
        return memory
    memory.close()
    try:
        return mmap.mmap(number, size, flags=_OWN)
    finally:
        os.close(number)


def _shared_file(file: Path, size: int) -> tuple[int | None, bool]:
    """(the file's descriptor, whether this process created it), or (None, False); it has no name any more.

    Rank 0 creates that of its machine; on every other machine whoever is first.
    """
    number = _created(file, size) if is_main() else None
    wait_for_all()
    number = number if is_main() else _created(file, size)
    created = number is not None
    try:
        wait_for_all()
        number = number if created else _opened(file, size)
        wait_for_all()
    finally:
        if created:
            file.unlink(missing_ok=True)
    return number, created


def _created(file: Path, size: int) -> int | None:
    """A new file of so many bytes, all of them reserved; None where it is there, or cannot be."""
    try:
        number = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    try:
        os.posix_fallocate(number, 0, size)
    except OSError:
        os.close(number)
        file.unlink(missing_ok=True)
        return None
    return number


def _opened(file: Path, size: int) -> int | None:
    """The file that another process of this machine has created; None where there is none."""
    try:
        number = os.open(file, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    about = os.fstat(number)
    if about.st_size == size and about.st_uid == os.geteuid():
        return number
    os.close(number)
    return None


def _fill(target: mmap.mmap | None, buffers: Sequence[memoryview], spans: Sequence[slice], *, others: bool) -> None:
    """Puts rank 0's buffers where they belong; others: whether processes that do not see its memory wait for them."""
    for place, span in enumerate(spans):
        for start in range(span.start, span.stop, _PORTION):
            stop = min(start + _PORTION, span.stop)
            part = buffers[place][start - span.start : stop - span.start] if is_main() else b""
            content = from_main(bytes(part)) if others else part
            if target is not None and (others or is_main()):
                target[start:stop] = content
