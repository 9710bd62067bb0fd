"""python -m fastkd.probe RUN [--data …]: a linear classifier on the frozen features of a run's network."""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fastkd.analysis.opened import normalising_as_in_training, open_resized
from fastkd.analysis.probe import Probe
from fastkd.data import DataSet, with_absolute_path
from fastkd.recipes.findings import ProbeSettings
from fastkd.recipes.recipe import Recipe
from fastkd.run import load_network, open_data, open_run, seed_folders
from fastkd.run.figures import mean_and_std
from fastkd.support import environment
from fastkd.support.command_line import command, read_options
from fastkd.support.console import new_table, table_console
from fastkd.support.environment import pick_device
from fastkd.support.errors import UserError
from fastkd.support.fields import given, group, idle
from fastkd.support.ranges import Images

PROGRAM = "python -m fastkd.probe"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Trains a linear classifier on the frozen features of a network of a finished run, and tests it.

    Other data have classes of their own; their images are resized to the network's pixels and normalised as those that
    it was trained on. Nothing is written into the run.

    Examples:
      python -m fastkd.probe RUN --data stl10:PATH
      python -m fastkd.probe RUN --features encoder --augment crop --epochs 240 --lr 0.05 --weight-decay 5e-4
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """A run folder; of a run with several seeds all are probed."""
    data: str = ""
    """NAME:PATH of the data that the classifier learns (default: the run's own)."""
    stage: str = "student"
    """Whose network: student, teacher, control …"""
    limit_train: Images | None = None
    """Train on so many images only."""
    settings: ProbeSettings = group()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it is computed; auto: on a GPU where there is one."""
    json: bool = False
    """Print JSON instead of a table."""


def main(arguments: list[str]) -> int:
    options = read_options(Options, arguments, program=PROGRAM, values={"settings": ProbeSettings()})
    settings = _settings(options)
    folders = seed_folders(options.run) or [options.run]
    measured = {folder.name: _probe(folder, options, settings) for folder in folders}
    if options.json:
        print(json.dumps(measured if len(folders) > 1 else measured[folders[0].name], indent=2))
    else:
        _print(options, list(measured.values()))
    return 0


def _settings(options: Options) -> ProbeSettings:
    wanted = given(options.settings)
    settings = ProbeSettings().changed(wanted)
    if (found := idle(settings, wanted)) is not None:
        raise UserError(f"--{found[0].replace('_', '-')} changes nothing: it goes with {found[1].words()}")
    return settings


def _probe(folder: Path, options: Options, settings: ProbeSettings) -> dict[str, Any]:
    recipe = normalising_as_in_training(open_run(folder), folder)
    environment.set_threads(recipe.threads)
    network, device = load_network(folder, options.stage), pick_device(options.device)
    data = _data(recipe, folder, options)
    found = Probe(network.to(device), recipe, data, device, settings).run(lambda line: print(line, file=sys.stderr))
    stage = recipe.stage(options.stage)
    return {"stage": options.stage, "network": stage.network if stage else "", "data": data.name} | found


def _data(recipe: Recipe, folder: Path, options: Options) -> DataSet:
    if options.data:
        return open_resized(recipe, with_absolute_path(options.data), limit_train=options.limit_train)
    return open_data(replace(recipe, limit_train=options.limit_train or recipe.limit_train), folder)


def _print(options: Options, seeds: list[dict[str, Any]]) -> None:
    first = seeds[0]
    several = f", mean ± std over {len(seeds)} seeds" if len(seeds) > 1 else ""
    table = new_table("", "network", right=("features", "classes", "top-1 %", "top-5 %", "NLL", "best top-1 %"))
    shares = [
        mean_and_std([100 * seed[key] / seed["samples"] for seed in seeds]).show() for key in ("top1", "top5", "best")
    ]
    likelihood = mean_and_std([seed["nll"] for seed in seeds]).show(4)
    sizes = (str(first["features"]), str(first["classes"]))
    table.add_row(options.stage, first["network"], *sizes, *shares[:2], likelihood, shares[2])
    console = table_console()
    title = (
        f"{options.run}: a linear classifier of {first['data']} on frozen features, {first['samples']:,} test images"
    )
    console.print(f"{title}{several}", markup=False, soft_wrap=True)
    console.print(table)


if __name__ == "__main__":
    sys.exit(command(main))
