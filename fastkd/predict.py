"""python -m fastkd.predict RUN IMAGES…: classes of images that nobody has labelled, by name."""

import csv
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

import tyro

from fastkd.run.prediction import Prediction, images_at, predictions
from fastkd.run.trust import trust
from fastkd.run.weights import describe, find_weights, open_network
from fastkd.support import environment
from fastkd.support.command_line import command, read_options
from fastkd.support.display import Display
from fastkd.support.environment import pick_device
from fastkd.support.errors import UserError
from fastkd.support.paths import explained, is_folder
from fastkd.support.ranges import whole
from fastkd.support.words import counted


@dataclass(frozen=True, kw_only=True)
class Options:
    """Names the likeliest classes of images, with their probabilities.

    Images are resized, cropped and normalised as in the tests of the training. One that cannot be read has its reason
    in place of a class; the code is then 1.

    Examples:
      python -m fastkd.predict runs/birds photographs/ --out birds.csv
      python -m fastkd.predict runs/birds one.jpg two.png --top 3
    """

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """A run folder, RUN@EPOCH, or a weights file of fastkd's."""
    images: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES")]
    """Image files, and folders with all below them."""
    network: str = "student"
    """The stage of the run whose network is asked."""
    top: Annotated[int, whole(1, 1_000)] = 1
    """So many of the likeliest classes."""
    out: Path | None = None
    """FILE.csv, .json (an object a line) or .parquet (default: CSV to the standard output)."""
    batch_size: Annotated[int, whole(1, 65_536)] = 256
    """Images computed at once."""
    workers: Annotated[int, whole(0, 1_024)] | None = None
    """Processes that decode (default: all cores)."""
    trust: Path | None = None
    """Import the code outside of fastkd that this run names, and say what; else none is."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it is computed; auto: on a GPU where there is one."""


def main(arguments: list[str]) -> int:
    options = read_options(Options, arguments, program="python -m fastkd.predict")
    write = _writer(options.out)
    if options.trust is not None:
        trust(options.trust, lambda line: print(f"fastkd: {line}", file=sys.stderr))
    file = find_weights(options.run, options.network)
    network, description = open_network(file), describe(file)
    assert description is not None, "else it could not be opened"
    records = images_at(options.images)
    environment.set_threads(None)
    workers = environment.cores() if options.workers is None else options.workers
    how: dict[str, Any] = {"top": options.top, "batch_size": options.batch_size, "workers": workers}
    found = predictions(network, description, records, device=pick_device(options.device), **how)
    counting = _Counting(len(records))
    with Display() as display:
        write(counting.watched(found, display), options.top)
        display.note(counting.words())
    return 1 if counting.failed else 0


class _Counting:
    """How many images were asked about, and how many of them cannot be used."""

    def __init__(self, images: int):
        self.images, self.done, self.failed = images, 0, 0
        self.began = time.monotonic()

    def watched(self, found: Iterable[Prediction], display: Display) -> Iterator[Prediction]:
        for one in found:
            self.done += 1
            self.failed += bool(one.error)
            if display.due():
                display.last_shown = time.monotonic()
                display.note(self.words())
            yield one

    def words(self) -> str:
        rate = self.done / max(time.monotonic() - self.began, 1e-9)
        failed = f", {counted(self.failed, 'image')} cannot be used" if self.failed else ""
        return f"{self.done:,} of {counted(self.images, 'image')}{failed}  {rate:,.0f} images/s"


Writer = Callable[[Iterable[Prediction], int], None]


def _writer(out: Path | None) -> Writer:
    """Writes predictions, of so many classes each, to a file that is there once it is whole, or to standard output."""
    if out is None:
        return lambda found, top: _write_csv(found, top, sys.stdout)
    kinds: dict[str, Callable[[Iterable[Prediction], int, Path], None]] = {
        ".csv": lambda found, top, aside: _to_text(found, top, aside, _write_csv),
        ".json": lambda found, top, aside: _to_text(found, top, aside, _write_json),
        ".jsonl": lambda found, top, aside: _to_text(found, top, aside, _write_json),
        ".parquet": _write_parquet,
    }
    if out.suffix not in kinds:
        raise UserError(f"--out ends in {', '.join(kinds)}, got {out}")
    if not is_folder(out.parent):
        raise UserError(f"--out {out}: there is no folder {out.parent}")
    if out.suffix == ".parquet":
        _pyarrow()

    def write(found: Iterable[Prediction], top: int) -> None:
        aside = out.with_name(f".{out.name}.{os.getpid()}")
        with explained("cannot write", out):
            try:
                kinds[out.suffix](found, top, aside)
                os.replace(aside, out)
            finally:
                aside.unlink(missing_ok=True)

    return write


def _to_text(
    found: Iterable[Prediction], top: int, aside: Path, write: Callable[[Iterable[Prediction], int, TextIO], None]
) -> None:
    with open(aside, "x", newline="", encoding="utf-8", errors="surrogateescape") as file:
        write(found, top, file)


def _write_csv(found: Iterable[Prediction], top: int, file: TextIO) -> None:
    numbers = [""] + [str(number) for number in range(2, top + 1)]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["image", *(f"{name}{n}" for n in numbers for name in ("class", "probability")), "error"])
    for one in found:
        pairs = [
            word for name, share in zip(one.classes, one.probabilities, strict=True) for word in (name, f"{share:.6f}")
        ]
        writer.writerow([one.image, *pairs, *[""] * (2 * top - len(pairs)), one.error])


def _write_json(found: Iterable[Prediction], top: int, file: TextIO) -> None:
    for one in found:
        likeliest = [
            {"class": name, "probability": share} for name, share in zip(one.classes, one.probabilities, strict=True)
        ]
        plain = {"image": one.image} | ({"error": one.error} if one.error else {"classes": likeliest})
        file.write(json.dumps(plain) + "\n")


def _write_parquet(found: Iterable[Prediction], top: int, aside: Path) -> None:
    arrow, rows = _pyarrow(), list(found)
    columns = {
        "image": [one.image for one in rows],
        "classes": [list(one.classes) for one in rows],
        "probabilities": [list(one.probabilities) for one in rows],
        "error": [one.error or None for one in rows],
    }
    kinds = [arrow.string(), arrow.list_(arrow.string()), arrow.list_(arrow.float64()), arrow.string()]
    table = arrow.table(columns, schema=arrow.schema(list(zip(columns, kinds, strict=True))))
    importlib.import_module("pyarrow.parquet").write_table(table, str(aside))


def _pyarrow() -> Any:
    try:
        return importlib.import_module("pyarrow")
    except ImportError as error:
        raise UserError("--out FILE.parquet needs the package pyarrow: pip install 'fastkd[hf]'") from error


if __name__ == "__main__":
    sys.exit(command(main))
