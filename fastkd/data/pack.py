"""Parquet files, turned once into tar shards: reading one image by its place out of parquet decodes thousands."""

import importlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fastkd.data.arrow import pyarrow
from fastkd.support.errors import UserError, nearest
from fastkd.support.files import make_folder, write_text
from fastkd.support.paths import explained, inside, is_file

_ROWS = 256  # read at once
_ENDINGS = {b"\xff\xd8\xff": ".jpg", b"\x89PN": ".png", b"RIF": ".webp", b"GIF": ".gif", b"BM": ".bmp"}


class _Columns(NamedTuple):
    image: str
    label: str
    names: list[str]
    """Of the classes; none: the labels are all there is."""


def pack(source: Path, target: Path, part: str, tell: Callable[[str], None], label_column: str | None = None) -> int:
    """Writes target/PART-000000.tar … of one parquet file, or of those of a folder, a shard each; returns the images.

    Each image has its class as a number in a .cls beside it; names of classes go to classes.txt. The bytes that it will
    take are told first. A file that is there already is not written again: killed, the same call goes on. Raises
    UserError.
    """
    files = [source] if is_file(source) else inside(source, "*.parquet")
    if not files:
        raise UserError(f"{source} is no parquet file, and no folder with files that end in .parquet")
    parquet = _parquet()
    opened = [_opened(parquet, file) for file in files]
    columns = [_columns(file, schema.schema_arrow, label_column) for file, schema in zip(files, opened, strict=True)]
    if other := next((file for file, each in zip(files, columns, strict=True) if each != columns[0]), None):
        raise UserError(f"{other} has other columns or classes than {files[0]}")
    need = sum(file.stat().st_size for file in files)
    rows = sum(each.metadata.num_rows for each in opened)
    tell(f"{rows:,} images of {len(files)} parquet files: about {need / 2**30:.2f} GiB  ->  {target}")
    make_folder(target)
    if (free := shutil.disk_usage(target).free) < need:
        raise UserError(f"cannot write {target}: {need / 2**30:.2f} GiB are needed, {free / 2**30:.2f} are free")
    for number, (file, each) in enumerate(zip(files, opened, strict=True)):
        shard = target / f"{part}-{number:06}.tar"
        if not is_file(shard):
            _write_shard(file, each, columns[0], shard)
    if columns[0].names:
        write_text(target / "classes.txt", "".join(f"{n}\t{name}\n" for n, name in enumerate(columns[0].names)))
    return rows


def _write_shard(file: Path, opened: Any, columns: _Columns, shard: Path) -> None:
    aside = shard.with_name(f".{shard.name}.part")
    with explained("cannot write", shard):
        with tarfile.open(aside, "w") as archive:
            for number, (content, label) in enumerate(_rows(file, opened, columns)):
                stem = f"{number:09}"
                _add(archive, stem + _ending(content), content)
                _add(archive, f"{stem}.cls", str(label).encode())
        aside.replace(shard)


def _rows(file: Path, opened: Any, columns: _Columns) -> Iterator[tuple[bytes, int]]:
    for batch in opened.iter_batches(_ROWS, columns=[columns.image, columns.label]):
        for row in batch.to_pylist():
            image, label = row[columns.image], row[columns.label]
            content = image.get("bytes") if isinstance(image, dict) else image
            if not content or not isinstance(label, int) or label < 0:
                raise UserError(f"{file} has a row without an image's bytes or a label from 0 on")
            yield content, label


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _ending(content: bytes) -> str:
    return next((ending for begin, ending in _ENDINGS.items() if content.startswith(begin)), ".tif")


def _parquet() -> Any:
    pyarrow()
    return importlib.import_module("pyarrow.parquet")


def _opened(parquet: Any, file: Path) -> Any:
    with explained("cannot read", file):
        try:
            return parquet.ParquetFile(str(file))
        except pyarrow().ArrowInvalid as error:
            raise UserError(f"{file} is no parquet file: {error}") from error


def _columns(file: Path, schema: Any, label_column: str | None) -> _Columns:
    """The columns of images and labels: those that Hugging Face's features name, else the usual names."""
    told = _features(schema)
    images = [name for name, about in told.items() if about.get("_type") == "Image"] or ["image", "img"]
    labels = [label_column] if label_column else [n for n, about in told.items() if about.get("_type") == "ClassLabel"]
    image = next((name for name in images if name in schema.names), None)
    label = next((name for name in labels or ["label", "labels"] if name in schema.names), None)
    if image is None or label is None or (len(labels) > 1 and label_column is None):
        which = "an image" if image is None else "one label (--label-column NAME says which)"
        hint = nearest(label_column, schema.names) if label_column else f": it has {', '.join(schema.names)}"
        raise UserError(f"{file} has no column of {which}{hint}")
    names = told.get(label, {}).get("names", [])
    return _Columns(image, label, [str(name) for name in names] if isinstance(names, list) else [])


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    try:
        told = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return {name: about for name, about in told.items() if isinstance(about, dict)}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
