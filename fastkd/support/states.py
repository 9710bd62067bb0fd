"""Checkpoints as files: archives of plain types and tensors that end with the digest of their bytes.

A checkpoint is a zip archive, whose end has a place for a comment: it holds the digest of all bytes in front of the
comment's length. `torch.load` neither compares the archive's own checksums nor minds the comment.
"""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from fastkd.support.errors import UserError
from fastkd.support.files import read_bytes, write_by

_DIGEST = b"fastkd sha256 "
_COMMENT = len(_DIGEST) + 64
_CHUNK = 1 << 24
"""Bytes that are digested and written at once: whoever is to give up a writing looks between two of them."""


class Written(NamedTuple):
    """What a file has to be."""

    size: int
    """Its bytes."""
    sha256: str
    """The digest at its end."""


def write_state(path: Path, state: dict[str, Any], look: Callable[[], None] = lambda: None) -> Written:
    """Writes a checkpoint of plain types and tensors, with its digest. Nothing in it says which device it came from.

    It is written as it is made, without a copy of the whole. look: called between pieces of some megabytes; what it
    raises ends the writing, and what stood there stays.
    """
    return write_by(path, lambda file: _archive(on_host(state), file, look))


def _archive(state: dict[str, Any], file: BinaryIO, look: Callable[[], None]) -> Written:
    digested = _Digested(file, look)
    try:
        torch.save(state, digested)  # pyright: ignore[reportArgumentType] - it only writes
    except RuntimeError as error:  # torch's writer ends in one of its own where Ctrl-C comes between two of its pieces
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        raise
    if digested.error is not None:
        raise digested.error
    digest = digested.sha256.hexdigest()
    end = _COMMENT.to_bytes(2, "little") + _DIGEST + digest.encode()
    file.write(end)
    return Written(digested.size + len(end), digest)


class _Digested:
    """What an archive is written into: a file, which gets all of it but the last two bytes, and their digest.

    Those two are the length of the archive's comment, which is empty here. An error is kept, and nothing more written:
    raised through torch's writer it would lose its kind.
    """

    def __init__(self, file: BinaryIO, look: Callable[[], None]):
        self.file, self.look = file, look
        self.sha256, self.size = hashlib.sha256(), 0
        self.error: BaseException | None = None
        self._held = b""

    def write(self, data: memoryview) -> int:
        """Takes the bytes that come next; `torch.save` seeks nowhere."""
        size, held = len(data), self._held
        if size < 2:
            held, data = b"", memoryview(held + bytes(data))
        self._pass_on(memoryview(held))
        self._held = bytes(data[-2:])
        self._pass_on(data[:-2])
        return size

    def _pass_on(self, data: memoryview) -> None:
        for first in range(0, len(data), _CHUNK):
            if self.error is not None:
                return
            piece = data[first : first + _CHUNK]
            try:
                self.look()
                self.file.write(piece)
            except BaseException as error:
                self.error = error
            self.sha256.update(piece)
            self.size += len(piece)

    def flush(self) -> None:
        """Does nothing: the file is flushed when it is whole."""


def on_host(value: Any) -> Any:
    """The value with every tensor in its dictionaries and lists on the host; one that is there already is itself."""
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {key: on_host(item) for key, item in value.items()}
    return [on_host(item) for item in value] if isinstance(value, list) else value


def read_state(path: Path, expected: Written | None = None) -> tuple[dict[str, Any], bool]:
    """A checkpoint that `write_state` wrote, and whether it had a digest, which is compared: fastkd 0.1 wrote none.

    Nothing is unpickled but plain types and tensors. expected: what the file has to be, where that is known.
    """
    content = read_bytes(path, what="the checkpoint ")
    if expected is not None and len(content) != expected.size:
        raise UserError(f"{path} has {len(content):,} bytes, the checkpoint counts {expected.size:,}")
    with_digest = _has_digest(path, memoryview(content))
    if expected is not None and (not with_digest or content[-64:] != expected.sha256.encode()):
        raise UserError(f"{path} is not the file that the checkpoint counts: it has another digest")
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged archive fails in many ways: zip, pickle, end of file
        raise UserError(f"{path} is not a checkpoint: damaged, or of another program") from error
    if not isinstance(state, dict):
        raise UserError(f"{path} is not a checkpoint of fastkd: expected a dictionary, got {type(state).__name__}")
    return state, with_digest


def _has_digest(path: Path, content: memoryview) -> bool:
    """Whether a digest stands at the end, which has to be that of the bytes in front of it."""
    end = bytes(content[-2 * _COMMENT :])
    if not end[-_COMMENT:].startswith(_DIGEST):
        if _DIGEST in end:
            raise UserError(f"{path} is not a checkpoint any more: its end is not where it was")
        return False
    if hashlib.sha256(content[: -_COMMENT - 2]).hexdigest().encode() != end[-64:]:
        raise UserError(f"{path} is damaged: its bytes are not those that were written")
    return True
