"""Images in tar files: `tar:PATTERN`. Their members are listed once, and then read by place, in any order."""

import hashlib
import io
import json
import os
import re
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from torch import Tensor

from fastkd.data.base import DataSet, Reading
from fastkd.data.debris import is_debris
from fastkd.data.decoding import EXTENSIONS, BadImage, Head, decode, probe_bytes
from fastkd.data.listing import UNTOLD, Listing, data_set_of, part_of
from fastkd.data.paths import Paths
from fastkd.data.shards import Shards
from fastkd.support.errors import UserError
from fastkd.support.files import make_folder, parse_json, read_bytes, write_bytes
from fastkd.support.schemas import TarIndex, checked

_FORMAT = 1
_MOST_OF_AN_INDEX = 1 << 33
_MOST_OF_A_LABEL = 1 << 20  # bytes of a .cls or .json beside an image
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}


def tar_shards(path: str, reading: Reading, cache: Path | None = None) -> DataSet:
    """The images in the tar files that a pattern names (`*`, `?`, `{000..146}`, `{train,val}`).

    An image's class is what stands in the member beside it that ends in .cls, or, with --label-column KEY, under that
    key of the one that ends in .json; else the folder that it lies in. What is to be tested on lies below a folder
    train, val or test, or in a shard with that word in its name.
    """
    if not path:
        raise UserError("tar needs a pattern: --data tar:PATTERN")
    shards = Shards(path)
    members = _members(shards, reading, cache)
    root = Path(os.path.dirname(shards.paths[0]))
    listing = Listing(
        origin="tar",
        root=root,
        records=Members(shards, members.names, members.shards, members.offsets, members.sizes),
        keys=members.keys,
        labels=members.labels,
        parts=members.parts,
        state=members.key.encode(),
    )
    return data_set_of(listing, reading, cache)


class Members:
    """Members of tar files by row number."""

    def __init__(self, shards: Shards, names: Paths, numbers: np.ndarray, offsets: np.ndarray, sizes: np.ndarray):
        self._shards, self._names = shards, names
        self._numbers, self._offsets, self._sizes = numbers, offsets, sizes

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, place: int) -> str:
        return f"{self._shards.paths[self._numbers[place]]}:{os.fsdecode(self.name(place))}"

    def __iter__(self) -> Iterator[str]:
        return (self[place] for place in range(len(self)))

    def name(self, place: int) -> bytes:
        return self._names.name(place)

    def head(self, place: int) -> Head:
        size = int(self._sizes[place])

        def read(count: int, offset: int) -> bytes:
            return self._read(place, min(count, max(0, size - offset)), offset)

        return probe_bytes(read, size, lambda: io.BytesIO(self._read(place, size, 0)))

    def encoded(self, place: int) -> np.ndarray:
        size = int(self._sizes[place])
        content = self._read(place, size, 0)
        if len(content) != size:
            raise BadImage(f"is truncated: {len(content):,} bytes of {size:,}")
        return np.frombuffer(bytearray(content), np.uint8)

    def pixels(self, place: int) -> Tensor:
        return decode(self.encoded(place))

    def take(self, places: np.ndarray) -> Self:
        own = (self._numbers[places], self._offsets[places], self._sizes[places])
        return type(self)(self._shards, self._names.take(places), *own)

    def _read(self, place: int, count: int, offset: int) -> bytes:
        return self._shards.read(int(self._numbers[place]), count, int(self._offsets[place]) + offset) if count else b""


class _Listed(NamedTuple):
    """What the shards hold."""

    names: Paths
    """Names below the folder of their split."""
    shards: np.ndarray
    """[n] int32"""
    offsets: np.ndarray
    """[n] int64: where the member's content begins in its shard."""
    sizes: np.ndarray
    """[n] int64: its bytes."""
    labels: np.ndarray
    """[n] int64: places in `keys`."""
    parts: np.ndarray
    """[n] int8"""
    keys: tuple[str, ...]
    key: str
    """A digest of the shards' names, sizes and times."""


class _Member(NamedTuple):
    name: str
    offset: int
    size: int
    label: str
    part: int


def _members(shards: Shards, reading: Reading, cache: Path | None) -> _Listed:
    """The members, as an earlier list has them whose shards have not changed, or listed anew and kept."""
    states = [shards.state(number) for number in range(len(shards))]
    key = hashlib.sha256(repr((_FORMAT, reading.label_column, shards.paths, states)).encode()).hexdigest()
    file = (
        None if cache is None else cache / f"members-{hashlib.sha256(repr(shards.paths).encode()).hexdigest()[:12]}.npz"
    )
    if file is not None and (kept := _kept(file, key)) is not None:
        return kept
    with ThreadPoolExecutor(max_workers=reading.lookers) as pool:
        found = list(
            pool.map(lambda number: _packed(_listed(shards, number, reading.label_column)), range(len(shards)))
        )
    listed = _joined(found, key)
    if not len(listed.labels):
        raise UserError(f"{shards.paths[0]} holds no images: members that end in {', '.join(EXTENSIONS)}")
    if file is not None:
        _keep(file, listed)
    return listed


class _Shard(NamedTuple):
    """What one shard holds, as in `_Listed`: a million members would take half a GiB as objects."""

    names: Paths
    offsets: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray
    parts: np.ndarray
    keys: tuple[str, ...]


def _packed(members: list[_Member]) -> _Shard:
    keys = tuple(sorted({member.label for member in members}))
    label_of = {label: place for place, label in enumerate(keys)}
    return _Shard(
        Paths.of("", [os.fsencode(member.name) for member in members]),
        np.array([member.offset for member in members], np.int64),
        np.array([member.size for member in members], np.int64),
        np.array([label_of[member.label] for member in members], np.int64),
        np.array([member.part for member in members], np.int8),
        keys,
    )


def _joined(shards: Sequence[_Shard], key: str) -> _Listed:
    keys = tuple(sorted({label for shard in shards for label in shard.keys}))
    label_of = {label: place for place, label in enumerate(keys)}
    tables = [np.array([label_of[label] for label in shard.keys], np.int64) for shard in shards]
    return _Listed(
        Paths.joined("", [shard.names for shard in shards]),
        np.repeat(np.arange(len(shards), dtype=np.int32), [len(shard.names) for shard in shards]),
        np.concatenate([shard.offsets for shard in shards]),
        np.concatenate([shard.sizes for shard in shards]),
        np.concatenate([table[shard.labels] for table, shard in zip(tables, shards, strict=True)]),
        np.concatenate([shard.parts for shard in shards]),
        keys,
        key,
    )


def _listed(shards: Shards, number: int, label_column: str | None) -> list[_Member]:
    """The images of one shard."""
    path = shards.paths[number]
    with shards.opened(number) as file:
        begin = file.read(2)
        if begin in _COMPRESSED:
            raise UserError(f"{path} is compressed by {_COMPRESSED[begin]}: unpack it to a tar, which is read by place")
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                members = [
                    member for member in archive if member.isreg() and not is_debris(os.path.basename(member.name))
                ]
                told = _told_labels(archive, members, label_column, path)
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{path} is no whole tar file: {error}") from error
    shard_part = _part_of_words(os.path.basename(path))
    images = [member for member in members if member.name.lower().endswith(EXTENSIONS)]
    return [_member(member, told, label_column, shard_part, path) for member in images]


def _member(member: tarfile.TarInfo, told: dict[str, str], label_column: str | None, part: int, path: str) -> _Member:
    folders = member.name.split("/")[:-1]
    place = next((place for place, folder in enumerate(folders) if part_of(folder) is not None), None)
    if place is not None:
        part = part_of(folders[place]) or 0
    name = "/".join([*folders[place + 1 :], member.name.split("/")[-1]]) if place is not None else member.name
    stem = os.path.splitext(member.name)[0]
    label = told.get(stem)
    if label is None and told:
        raise UserError(f"{path}: {member.name} has no label beside it, as others have")
    if label is None:
        inside = folders[place + 1 :] if place is not None else folders
        if label_column is not None or not inside or inside == ["."]:
            beside = f".json with {label_column!r}" if label_column else "folder, nor a .cls beside it"
            raise UserError(f"{path}: {member.name} has no {beside} that says its class")
        label = inside[-1]
    return _Member(name.removeprefix("./"), member.offset_data, member.size, label, part)


def _told_labels(
    archive: tarfile.TarFile, members: list[tarfile.TarInfo], label_column: str | None, path: str
) -> dict[str, str]:
    """{member without its ending: its class}, as members beside the images say."""
    ending = ".cls" if label_column is None else ".json"
    found: dict[str, str] = {}
    for member in members:
        stem, own = os.path.splitext(member.name)
        if own.lower() != ending:
            continue
        if member.size > _MOST_OF_A_LABEL:
            raise UserError(f"{path}: {member.name} has {member.size:,} bytes: no label is that long")
        content = archive.extractfile(member)
        text = (content.read() if content else b"").decode("utf-8", errors="replace").strip()
        found[stem] = text if label_column is None else _under(text, label_column, f"{path}: {member.name}")
        if not found[stem] or len(found[stem]) > 1000:
            raise UserError(f"{path}: {member.name} holds no label")
    return found


def _under(text: str, column: str, where: str) -> str:
    try:
        value = parse_json(text)
    except ValueError as error:
        raise UserError(f"{where} is not JSON: {error}") from error
    label = value.get(column) if isinstance(value, dict) else None
    if not isinstance(label, str | int) or isinstance(label, bool):
        raise UserError(f"{where} has no label {column!r}: expected a word or a number")
    return str(label)


def _part_of_words(name: str) -> int:
    """The part that a shard's name tells of, as imagenet-train-000000.tar does."""
    words = re.split(r"[^A-Za-z]+", name)
    return next((part for word in words if (part := part_of(word)) is not None), UNTOLD)


def _keep(file: Path, listed: _Listed) -> None:
    about = json.dumps({"format": _FORMAT, "key": listed.key, "keys": list(listed.keys)}).encode()
    names, buffer = listed.names, io.BytesIO()
    np.savez(
        buffer, about=np.frombuffer(about, np.uint8), blob=names.blob, starts=names.starts, lengths=names.lengths,
        shards=listed.shards, offsets=listed.offsets, sizes=listed.sizes, labels=listed.labels, parts=listed.parts,
    )  # fmt: skip
    make_folder(file.parent)
    write_bytes(file, buffer.getvalue())


def _kept(file: Path, key: str) -> _Listed | None:
    """What was kept; None where nothing was, where shards have changed since, or where the file is damaged."""
    try:
        content = read_bytes(file, most=_MOST_OF_AN_INDEX)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(member.file_size for member in archive.infolist()) > len(content):
                return None
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            about = checked(TarIndex, parse_json(arrays["about"].tobytes().decode()), str(file))
            if about["format"] != _FORMAT or about["key"] != key:
                return None
            listed = _Listed(
                names=Paths("", arrays["blob"], arrays["starts"], arrays["lengths"]),
                shards=arrays["shards"],
                offsets=arrays["offsets"],
                sizes=arrays["sizes"],
                labels=arrays["labels"],
                parts=arrays["parts"],
                keys=tuple(about["keys"]),
                key=key,
            )
            return listed if _is_whole(listed) else None
    except Exception:  # a damaged archive fails in many ways; listing anew is the cure for all of them
        return None


def _is_whole(listed: _Listed) -> bool:
    """Whether the arrays belong together: a wrong one would read outside of a shard, or of a name."""
    count, names = len(listed.labels), listed.names
    kinds = {"shards": np.int32, "offsets": np.int64, "sizes": np.int64, "labels": np.int64, "parts": np.int8}
    arrays = {name: getattr(listed, name) for name in kinds}
    if any((array.shape, array.dtype) != ((count,), kinds[name]) for name, array in arrays.items()):
        return False
    if (names.starts.shape, names.lengths.shape, names.blob.dtype) != ((count,), (count,), np.uint8):
        return False
    inside = (names.starts >= 0) & (names.lengths >= 0) & (names.starts + names.lengths <= len(names.blob))
    labelled = (listed.labels >= 0) & (listed.labels < len(listed.keys))
    placed = (listed.offsets >= 0) & (listed.sizes >= 0) & (listed.shards >= 0)
    return bool(count and (inside & labelled & placed).all())
