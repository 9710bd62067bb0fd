"""Files that are there whole or not at all."""

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from fastkd.support.errors import UserError


def write_bytes(path: Path, content: bytes) -> None:
    """Writes beside the file, flushes to the disk, then renames: whoever looks sees the old content or the new."""
    if not path.name:
        raise UserError(f"cannot write {path}: expected the name of a file")
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(aside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink()
        kept = "; what stood there before is intact" if path.exists() else ""
        raise UserError(f"cannot write {path}: {reason(error)}{kept}") from error


def make_folder(path: Path) -> None:
    """Makes a folder with its parents; one that stands there already will do."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create the folder {path}: {reason(error)}") from error


def reason(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full"
    return error.strerror or str(error)


def write_json(path: Path, value: Any) -> None:
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error


def write_state(path: Path, state: dict) -> None:
    """Writes a checkpoint of plain types and tensors."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes(path, buffer.getvalue())


def read_state(path: Path) -> dict:
    """Reads a checkpoint that `write_state` wrote; nothing is unpickled but plain types and tensors."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"cannot read the checkpoint {path}: {reason(error)}") from error
    except Exception as error:  # a damaged archive fails in many ways: zip, pickle, end of file
        raise UserError(f"{path} is not a checkpoint: damaged, or of another program") from error
    if not isinstance(state, dict):
        raise UserError(f"{path} is not a checkpoint of fastkd: expected a dictionary, got {type(state).__name__}")
    return state


def write_weights(path: Path, weights: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes a safetensors file."""
    write_bytes(path, save({name: value.detach().cpu().contiguous() for name, value in weights.items()}, metadata))


def read_weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read the weights {path}: {error}") from error


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the folder for this process; a second run in it is refused. The lock ends when the process does."""
    try:
        file = open(folder / ".lock", "w")  # noqa: SIM115 - the block below closes it
    except OSError as error:
        raise UserError(f"cannot write in {folder}: {reason(error)}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"another process is training in {folder}") from error
        yield
