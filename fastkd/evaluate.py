"""python -m fastkd.evaluate RUN [--data …]: accuracy of teacher and student, and how alike they are."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from fastkd.run import Job, open_data, open_run, read_results, seed_folders
from fastkd.run.card import write_card
from fastkd.run.export import check_export, export_network, takes
from fastkd.run.figures import mean_and_std
from fastkd.run.quantised import quantise
from fastkd.run.tested import evaluated, normalising_as_in_training
from fastkd.run.trust import trust
from fastkd.run.weights import describe, find_weights, open_network
from fastkd.support.command_line import command, read_options
from fastkd.support.console import new_table, table_console
from fastkd.support.environment import pick_device
from fastkd.support.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Options:
    """Tests the networks of a finished run: top-1 and top-5, KL(teacher ‖ student), CKA and top-1 agreement."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """A run folder; of a run with several seeds all are tested."""
    data: str = ""
    """NAME:PATH of another data set with the same classes (default: the run's own)."""
    export: Path | None = None
    """FILE.pt2: write the student as a torch.export program, which torch alone loads; FILE.onnx: as ONNX, compared with
    torch; FOLDER: weights, config.json and a model card, as Hugging Face's users know it."""
    preprocess: bool = False
    """The exported program takes images as they are decoded, of any size, not normalised ones."""
    int8: bool = False
    """Quantise FILE.onnx to 8 bits by the training images, and say what that costs."""
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
        check_export(options.export, preprocess=options.preprocess, int8=options.int8)
        find_weights(str(options.run), "student")
    elif options.preprocess or options.int8:
        raise UserError(f"--{'preprocess' if options.preprocess else 'int8'} changes nothing: it goes with --export")
    folders = seed_folders(options.run) or [options.run]
    measured = {folder.name: evaluated(folder, options.data, pick_device(options.device)) for folder in folders}
    if options.json:
        print(json.dumps(measured if len(folders) > 1 else measured[folders[0].name], indent=2))
    else:
        _print(options.run, list(measured.values()))
    if options.export is not None:
        print(f"{options.export}: {_export(options, options.export)}", file=sys.stderr)
    return 0


def _export(options: Options, path: Path) -> str:
    """Writes the student; returns what was written, in words."""
    file = find_weights(str(options.run), "student")
    network, description = open_network(file), describe(file)
    assert description is not None, "else it could not be opened"
    if not path.suffix:
        write_card(path, network, description, open_run(options.run), read_results(file.parent / "results.json"))
        return "the student's weights, config.json and card"
    export_network(path, network, description, preprocess=options.preprocess)
    kind = "an ONNX program" if path.suffix == ".onnx" else "a torch.export program"
    told = f"the student as {kind}, from {takes(description, preprocess=options.preprocess)}"
    if not options.int8:
        return told
    recipe = normalising_as_in_training(open_run(options.run), options.run)
    cost = quantise(path, Job.of(recipe, open_data(recipe, options.run), torch.device("cpu")))
    return f"{told}; {cost.words()}"


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
