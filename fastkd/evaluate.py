"""python -m fastkd.evaluate RUN [--data …]: accuracy of teacher and student, and how alike they are."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fastkd.run import seed_folders
from fastkd.run.figures import mean_and_std
from fastkd.run.tested import evaluated
from fastkd.run.trust import trust
from fastkd.run.weights import check_export, describe, export_network, find_weights, open_network
from fastkd.support.command_line import command, read_options
from fastkd.support.console import new_table, table_console
from fastkd.support.environment import pick_device


@dataclass(frozen=True, kw_only=True)
class Options:
    """Tests the networks of a finished run: top-1 and top-5, KL(teacher ‖ student), CKA and top-1 agreement."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """A run folder; of a run with several seeds all are tested."""
    data: str = ""
    """NAME:PATH of another data set with the same classes (default: the run's own)."""
    export: Path | None = None
    """FILE.pt2: write the student as a torch.export program, from normalised images to logits; it needs torch alone."""
    trust: Path | None = None
    """Import the code outside of fastkd that this run names, and say what; else none is."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it is computed; auto: on a GPU where there is one."""
    json: bool = False
    """Print JSON instead of a table."""


def main(arguments: list[str]) -> int:
    options = read_options(Options, arguments, program="python -m fastkd.evaluate")
    if options.trust is not None:
        trust(options.trust, lambda line: print(f"fastkd: {line}", file=sys.stderr))
    if options.export is not None:  # what cannot be exported is refused before anything is measured
        check_export(options.export)
        find_weights(str(options.run), "student")
    folders = seed_folders(options.run) or [options.run]
    measured = {folder.name: evaluated(folder, options.data, pick_device(options.device)) for folder in folders}
    if options.json:
        print(json.dumps(measured if len(folders) > 1 else measured[folders[0].name], indent=2))
    else:
        _print(options.run, list(measured.values()))
    if options.export is not None:
        student = find_weights(str(options.run), "student")
        description = describe(student)
        assert description is not None, "else it could not be opened"
        export_network(options.export, open_network(student), description)
        takes = f"normalised images [any number, 3, {description.image_size}, {description.image_size}]"
        print(f"{options.export}: the student as a torch.export program, from {takes} to logits", file=sys.stderr)
    return 0


COLUMNS = (
    ("top-1 %", "top1", 100, 2),
    ("top-5 %", "top5", 100, 2),
    ("KL to teacher", "kl", 1, 4),
    ("CKA", "cka", 1, 3),
    ("same top-1 %", "agreement", 100, 2),
)


def _print(folder: Path, seeds: Sequence[dict[str, dict[str, Any]]]) -> None:
    samples = next(iter(seeds[0].values()))["samples"]
    several = f", mean ± std over {len(seeds)} seeds" if len(seeds) > 1 else ""
    table = new_table("", "network", right=[heading for heading, *_ in COLUMNS])
    for name, first in seeds[0].items():
        cells = []
        for _, key, factor, digits in COLUMNS:
            per = samples if key in ("top1", "top5") else 1
            values = [factor * seed[name][key] / per for seed in seeds if key in seed[name]]
            cells.append(mean_and_std(values).show(digits) if values else "")
        table.add_row(name, first["network"], *cells)
    console = table_console()
    console.print(f"{folder}: {samples:,} test images{several}", markup=False, soft_wrap=True)
    console.print(table)


if __name__ == "__main__":
    sys.exit(command(main))
