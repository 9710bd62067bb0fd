"""python -m fastkd.evaluate RUN [--data …]: accuracy of teacher and student, and how alike they are."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from fastkd.analysis.corruptions import ByLevel, means_by_level
from fastkd.analysis.features import chosen_classes, drawn, embeddings_of, require_scikit_learn, write_features
from fastkd.analysis.measured import measure
from fastkd.analysis.opened import Opened, SplitName, normalising_as_in_training
from fastkd.data import with_absolute_path
from fastkd.run import Job, open_data, open_run, read_results, seed_folders
from fastkd.run.card import write_card
from fastkd.run.export import check_export, export_network, takes
from fastkd.run.figures import mean_and_std
from fastkd.run.quantised import quantise
from fastkd.run.scatter import standalone
from fastkd.run.trust import trust
from fastkd.run.weights import describe, find_weights, open_network
from fastkd.support.command_line import command, read_options
from fastkd.support.console import new_table, table_console
from fastkd.support.environment import pick_device
from fastkd.support.errors import UserError
from fastkd.support.files import write_text
from fastkd.support.paths import is_folder


@dataclass(frozen=True, kw_only=True)
class Options:
    """Tests the networks of a finished run: accuracy, likelihood, entropy, and how alike teacher and student are.

    Of CIFAR-100-C there is also a table of top-1 by corruption and severity, for each network.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """A run folder; of a run with several seeds all are tested."""
    data: str = ""
    """NAME:PATH of another data set with the same classes (default: the run's own)."""
    split: SplitName = "test"
    """The images that are looked at; train: those that the run learned from, without augmentation."""
    stages: tuple[str, ...] = ()
    """Look at these networks alone, as in --stages teacher student (default: all)."""
    features: Path | None = None
    """FILE.npz: write the embeddings of every image, an array for each network, and the labels."""
    tsne: Path | None = None
    """FILE.svg: draw the embeddings of all networks in one plane by t-SNE (pip install scikit-learn)."""
    classes: tuple[str, ...] = ()
    """Draw the images of these classes alone; of up to ten each has a colour."""
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
    _refuse_files(options, folders)
    opened = (_opened(folder, options) for folder in folders)
    measured = {}
    for tested in opened:  # one seed's networks at a time
        measured[tested.folder.name] = measure(tested)
        _write_features(tested, options)
    if options.json:
        print(json.dumps(measured if len(folders) > 1 else measured[folders[0].name], indent=2))
    else:
        _print(options, list(measured.values()))
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


def _refuse_files(options: Options, folders: Sequence[Path]) -> None:
    """Refuses what could not be written before anything is measured."""
    for name, suffix in (("features", ".npz"), ("tsne", ".svg")):
        file: Path | None = getattr(options, name)
        if file is None:
            continue
        if file.suffix != suffix:
            raise UserError(f"--{name} writes a file that ends in {suffix}, got {file}")
        if not is_folder(file.parent):
            raise UserError(f"--{name} {file}: there is no folder {file.parent}")
        if len(folders) > 1:
            raise UserError(f"--{name} is of one seed: name its folder, as in {folders[0]}")
    if options.tsne is not None:
        require_scikit_learn()
    elif options.classes:
        raise UserError("--classes changes nothing: it goes with --tsne")


def _opened(folder: Path, options: Options) -> Opened:
    known = [stage.name for stage in open_run(folder).stages]
    if unknown := [name for name in options.stages if name not in known]:
        raise UserError(f"--stages: {folder} has no stage {unknown[0]!r}, it has {', '.join(known)}")
    data = with_absolute_path(options.data) if options.data else ""
    how = {"data": data, "names": options.stages, "split": options.split}
    return Opened.of(folder, pick_device(options.device), **how)


def _write_features(tested: Opened, options: Options) -> None:
    if options.features is None and options.tsne is None:
        return
    features, labels = embeddings_of(tested)
    if options.features is not None:
        write_features(options.features, features, labels, tested.data.classes)
        print(f"{options.features}: embeddings of {len(labels):,} images", file=sys.stderr)
    if options.tsne is not None:
        own = chosen_classes(options.classes, tested.data.classes)
        title = f"t-SNE: {' and '.join(features)}"
        write_text(options.tsne, standalone(drawn(title, features, labels, tested.data.classes, own)))
        print(f"{options.tsne}: {title}", file=sys.stderr)


COLUMNS = (
    ("top-1 %", "top1", 100, 2),
    ("top-5 %", "top5", 100, 2),
    ("NLL", "nll", 1, 4),
    ("entropy", "entropy", 1, 4),
    ("KL to teacher", "kl", 1, 4),
    ("CKA", "cka", 1, 3),
    ("same top-1 %", "agreement", 100, 2),
    ("parameters", "parameters", 1, 0),
    ("pruned %", "pruned", 1, 2),
)


def _print(options: Options, seeds: Sequence[dict[str, dict[str, Any]]]) -> None:
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
    kind = "test" if options.split == "test" else "training"
    console.print(f"{options.run}: {samples:,} {kind} images{several}", markup=False, soft_wrap=True)
    console.print(table)
    for name, first in seeds[0].items():
        if "corruptions" in first:
            _print_corruptions(name, [seed[name]["corruptions"] for seed in seeds])


def _print_corruptions(name: str, seeds: Sequence[ByLevel]) -> None:
    """A row for each corruption, a column for each severity, and the means over the corruptions below."""
    levels = range(len(next(iter(seeds[0].values()))))
    right = [f"severity {level + 1}" for level in levels]
    table = new_table("", right=[*right, "mean"], title=f"{name}: top-1 % by corruption")
    rows = {one: [table[one] for table in seeds] for one in seeds[0]}
    rows |= {"mean": [means_by_level(table) for table in seeds]}
    for corruption, values in rows.items():
        cells = [mean_and_std([row[level] for row in values]) for level in levels]
        mean = mean_and_std([sum(row) / len(row) for row in values])
        table.add_row(corruption, *(cell.show() for cell in (*cells, mean)))
    table_console().print(table)


if __name__ == "__main__":
    sys.exit(command(main))
