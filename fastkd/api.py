"""fastkd in a program or a notebook: the commands, with objects in place of names and values in place of tables.

    from fastkd.api import train, evaluate, predict

    results = train("digits", method="kd", epochs=3, run="runs/first")
    results.accuracy("student")            # 0.93
    student = results.network("student")   # its outputs have .logits
    predict(results.folder, ["a.png"])     # for images of any size

A mistake raises `fastkd.support.errors.UserError`, a ValueError of one line.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from fastkd import networks, options
from fastkd.analysis.measured import measure
from fastkd.analysis.opened import Opened
from fastkd.data import give_data, keep_index, with_absolute_path
from fastkd.methods import Method, give_method
from fastkd.networks.base import Network
from fastkd.recipes.published import with_other_classes
from fastkd.recipes.recipe import Recipe
from fastkd.run import (
    Job,
    carry_out,
    check,
    create_folder,
    holds_run,
    load_network,
    open_data,
    open_run,
    read_results,
    seed_folders,
    tell_of,
)
from fastkd.run.figures import Figure, mean_and_std
from fastkd.run.header import header
from fastkd.run.memory import out_of_memory_names_the_knobs
from fastkd.run.prediction import Prediction, images_at, images_of, predictions
from fastkd.run.weights import WeightsFiles, describe, find_weights, open_network
from fastkd.support import distributed
from fastkd.support.callbacks import Callback, StopTraining
from fastkd.support.display import Display
from fastkd.support.environment import pick_device
from fastkd.support.errors import UserError
from fastkd.support.heartbeat import EVERY_SECONDS
from fastkd.support.interrupt import Stopped, interruptible
from fastkd.support.joining import processes
from fastkd.support.log import read_metrics
from fastkd.support.paths import is_file
from fastkd.support.session import Session

__all__ = ["Callback", "Prediction", "Results", "StopTraining", "evaluate", "predict", "train"]


@dataclass(frozen=True)
class Results:
    """What a run has come to: its folder, and what stands in it as plain values."""

    folder: Path
    recipe: Recipe
    seeds: tuple[dict[str, Any], ...]
    """Of each seed {"seed", "stages": {name: {"network", "test": {name: counts}, "best", …}},
    "similarity": {name: {"kl", "cka", "agreement"}}}: the results.json of the run, or of its seeds."""
    stopped: str = ""
    """Why it ended early; `train(…, resume=True)` with the same arguments goes on. Empty: it is done."""

    def accuracies(self, stage: str = "student") -> list[float]:
        """The share of test images that the network of a stage is right about, for each seed that has finished it."""
        found = [seed["stages"][stage]["test"][stage] for seed in self.seeds if stage in seed["stages"]]
        if not found:
            known = sorted({name for seed in self.seeds for name in seed["stages"]})
            raise UserError(f"{self.folder} has no finished stage {stage!r}; it has {', '.join(known) or 'none'}")
        return [test["top1"] / test["samples"] for test in found]

    def accuracy(self, stage: str = "student") -> float:
        """The mean of `accuracies`."""
        return mean_and_std(self.accuracies(stage)).mean

    def figure(self, stage: str = "student") -> Figure:
        """Mean and standard deviation of `accuracies` over the seeds."""
        return mean_and_std(self.accuracies(stage))

    def network(self, stage: str = "student", seed: int | None = None) -> Network:
        """The trained network of a stage, in eval mode on the CPU; seed: which, where there are several."""
        return load_network(self._of_seed(seed), stage)

    def metrics(self, seed: int | None = None) -> list[dict[str, Any]]:
        """The records of metrics.jsonl: one for each epoch, and some inside long ones."""
        return read_metrics(self._of_seed(seed) / "metrics.jsonl")

    def _of_seed(self, seed: int | None) -> Path:
        if self.recipe.seeds == 1 and seed in (None, self.recipe.seed):
            return self.folder
        last = self.recipe.seed + self.recipe.seeds - 1
        if seed is None or not self.recipe.seed <= seed <= last:
            raise UserError(f"{self.folder} has the seeds {self.recipe.seed} to {last}: give one, got {seed}")
        return self.folder / f"seed-{seed}"


def train(
    recipe: str | Recipe = "digits",
    *,
    data: Any = None,
    method: str | type[Method] | None = None,
    run: str | Path | None = None,
    resume: bool = False,
    device: str = "auto",
    callbacks: Sequence[Callback] = (),
    silent: bool = False,
    **settings: Any,
) -> Results:
    """Trains what the recipe says, as `python -m fastkd.train` does, and returns what came out.

    recipe: the name of a recipe, the path of a recipe.json, or a `Recipe`, which is taken as it is.
    data: `NAME:PATH` as on the command line; or an object: a `DataSet`, a torch Dataset of (image, label), a pair
        (train, test) of such, or a pair of pairs (uint8 [n,H,W,3], labels [n]).
    method: a name, several joined by `+`, or a class of yours derived from `fastkd.methods.Method`.
    run: the run's folder (default: runs/RECIPE-DATE).
    resume: take up the run in that folder, where the same arguments began one.
    callbacks: told of epochs and checkpoints as they come, see `Callback`.
    silent: whether nothing is shown. In a notebook progress is shown by plain lines.
    settings: any other option of the command, with `_` for `-`: epochs=3, teacher_net="wrn_16_2", milestones=(2, 3);
        those of methods as {"kd.temperature": 4.0} by `**`. student, teacher_net and branch may be modules (of which
        copies are trained) or what makes one, called with num_classes where it takes that. teacher may be a module that
        is trained already, or several: copies of them teach as they are.

    Raises UserError for a mistake. What was given as an object is not found again by the command line, nor in another
    process: such a run is resumed here, with the same object.
    """
    files = WeightsFiles()
    words = _words(_by_name(settings, files) | _given(data, method))
    if isinstance(recipe, Recipe) and words:
        raise UserError(f"{words[0]} cannot change a Recipe: change it by dataclasses.replace")
    chosen = options.parse([recipe if isinstance(recipe, str) else "digits", *words], program="train()")
    for name in ("list", "dry_run", "trust"):
        if getattr(chosen, name):
            raise UserError(f"train() has no {name}")
    chosen = replace(chosen, run=None if run is None else Path(run), resume=Path("auto") if resume else None)
    with processes(pick_device(device)) as used:
        made = recipe if isinstance(recipe, Recipe) else options.recipe_of(chosen, files)
        return carried_out(chosen, made, used, files, callbacks=callbacks, silent=silent)


def carried_out(
    chosen: options.Options,
    recipe: Recipe,
    device: torch.device,
    files: WeightsFiles,
    *,
    callbacks: Sequence[Callback] = (),
    silent: bool = False,
) -> Results:
    """Carries out a recipe in a new folder, or in the one that the same options began."""
    if options.goes_on_by_itself(chosen) and distributed.from_main(_holds_run(chosen)):
        assert chosen.run is not None
        saved = open_run(chosen.run)
        options.refuse_another_command(saved, recipe, chosen)
        job = Job.of(saved, open_data(saved, chosen.run), device, files)
        return in_folder(job, chosen.run, chosen, callbacks=callbacks, silent=silent)
    now = distributed.from_main(f"{datetime.now():%Y%m%d-%H%M%S}")
    folder = chosen.run or Path("runs") / f"{recipe.name}-{now}"
    data = open_data(recipe)
    job = Job.of(with_other_classes(recipe, len(data.classes)), data, device, files)
    check(job, loggers=chosen.logger)  # a mistake leaves no folder behind
    distributed.on_main(lambda: create_folder(folder, job.recipe, unlocked=chosen.unlocked))
    if recipe.reading.index_cache is None:
        distributed.on_main(lambda: keep_index(data, folder))
    return in_folder(job, folder, chosen, callbacks=callbacks, silent=silent)


def in_folder(
    job: Job, folder: Path, chosen: options.Options, *, callbacks: Sequence[Callback] = (), silent: bool = False
) -> Results:
    """Carries out a job in a run folder that is there."""
    silent = silent or not distributed.is_main()
    with Display(silent=silent) as display, interruptible() as interrupt:
        display.note(header(job, folder))
        tell_of(job.data, display)
        seconds = EVERY_SECONDS if chosen.heartbeat is None else chosen.heartbeat
        session = Session(display, interrupt, chosen.logger, chosen.unlocked, tuple(callbacks), seconds)
        try:
            with out_of_memory_names_the_knobs(job):
                results = carry_out(job, folder, session)
        except Stopped as stopped:
            return Results(folder, job.recipe, _results_of(folder), str(stopped))
    return Results(folder, job.recipe, tuple(results))


def evaluate(run: str | Path, *, data: Any = None, device: str = "auto") -> dict[str, dict[str, Any]]:
    """Tests the networks of a finished run, of one seed: {stage: {"network", "top1", "top5", "samples", "nll",
    "entropy" and, for all but the teacher, "kl", "cka", "agreement" with it}}; top1 and top5 are counts.

    data: another data set with the same classes, as for `train` (default: the run's own). Raises UserError.
    """
    other = _given(data, None).get("data", "")
    return measure(Opened.of(Path(run), pick_device(device), data=other and with_absolute_path(other)))


def predict(
    model: str | Path | Results,
    images: str | Path | Sequence[Any],
    *,
    network: str = "student",
    top: int = 5,
    batch_size: int = 256,
    workers: int = 0,
    device: str = "auto",
) -> list[Prediction]:
    """The likeliest classes of each image, in order; one that cannot be used has an `error` in their place.

    model: a run folder of one seed, a weights file of fastkd's, or what `train` returned; network: the stage.
    images: a folder, paths of files and folders, or images as objects (PIL's, uint8 [H,W,3] or [3,H,W]).
    Raises UserError.
    """
    file = find_weights(str(model.folder if isinstance(model, Results) else model), network)
    description = describe(file)
    if description is None:
        raise UserError(f"{file} is not a weights file of fastkd")
    several = [images] if isinstance(images, str | Path) else list(images)
    records = images_at(several) if all(isinstance(one, str | Path) for one in several) else images_of(several)
    how: dict[str, Any] = {"top": top, "batch_size": batch_size, "workers": workers}
    return list(predictions(open_network(file), description, records, device=pick_device(device), **how))


def _holds_run(chosen: options.Options) -> bool:
    return distributed.is_main() and chosen.run is not None and holds_run(chosen.run)


def _results_of(folder: Path) -> tuple[dict[str, Any], ...]:
    files = [part / "results.json" for part in seed_folders(folder) or [folder]]
    return tuple(read_results(file) for file in files if is_file(file))


def _given(data: Any, method: str | type[Method] | None) -> dict[str, Any]:
    """The names by which data and method are found, whether they were given as names or as objects."""
    found: dict[str, Any] = {}
    if data is not None:
        found["data"] = data if isinstance(data, str) else give_data(data)
    if method is not None:
        found["method"] = method if isinstance(method, str) else give_method(method)
    return found


def _by_name(settings: Mapping[str, Any], files: WeightsFiles) -> dict[str, Any]:
    """The settings with names in place of networks that were given as objects; files: gets the weights of teachers."""
    of_networks = ("student", "teacher_net", "branch")
    given = {name: settings[name] for name in of_networks if not isinstance(settings.get(name, ""), str)}
    found = {**settings, **{name: networks.give(one) for name, one in given.items()}}
    if "teacher" in settings:
        several = settings["teacher"]
        found["teacher"] = [_held(one, files) for one in (several if isinstance(several, tuple | list) else [several])]
    return found


def _held(teacher: Any, files: WeightsFiles) -> str:
    """The words by which a teacher is found: RUN or FILE, or the name of a trained module and of its weights."""
    if isinstance(teacher, str | Path):
        return str(teacher)
    if not isinstance(teacher, torch.nn.Module):
        raise UserError(f"teacher is RUN, FILE or a trained module, got a {type(teacher).__name__}")
    name = networks.give(teacher)
    files.hold(name, teacher)
    return name


def _words(settings: Mapping[str, Any]) -> list[str]:
    """The settings as words of a command line."""
    words: list[str] = []
    for name, value in settings.items():
        option = f"--{name.replace('_', '-')}"
        if name in _FLAGS:
            words += [option] if value else []
        elif name in ("teacher", "logger") and isinstance(value, tuple | list):
            words += [word for one in value for word in (option, str(one))]
        elif isinstance(value, tuple | list):
            words += [option, *map(str, value)]
        else:
            words += [option, ("on" if value else "off") if isinstance(value, bool) else str(value)]
    return words


_FLAGS = {field.name for field in fields(options.Options) if field.default is False}
