"""Carries out a recipe: its stages in order, in a run folder.

With one seed the folder itself is the run; with several each seed has a run of its own in `seed-N`. With several
processes every rank carries it out and rank 0 writes.
"""

import contextlib
import dataclasses
import time
from pathlib import Path
from typing import Any

import torch

from fastkd.data import DataSet
from fastkd.networks.base import Network
from fastkd.ops import select
from fastkd.recipes.course import course, kept_epochs
from fastkd.recipes.recipe import Recipe, StageRecipe, read_recipe, recipe_to_plain
from fastkd.run.builder import Builder
from fastkd.run.weights import find_weights, open_network, save_network
from fastkd.support import environment
from fastkd.support.display import Display
from fastkd.support.distributed import first_of_all, is_main, local_processes, on_main, wait_for_all, world_size
from fastkd.support.errors import UserError
from fastkd.support.files import locked, make_folder, read_json, read_weights, write_json, write_weights
from fastkd.support.interrupt import Interrupt, Stopped
from fastkd.support.log import MetricsLog, import_tensorboard
from fastkd.support.plain import to_plain
from fastkd.training.evaluation import accuracies, similarity
from fastkd.training.execution import resolve, set_up
from fastkd.training.stages import Stage
from fastkd.training.step import PLAIN
from fastkd.training.trainer import Trainer, refuse_changes


def create_folder(folder: Path, recipe: Recipe) -> None:
    """A new run folder with its recipe; one that holds a run already is refused."""
    if (folder / "recipe.json").exists():
        raise UserError(f"{folder} holds a run already: go on with it by --resume {folder}, or give another --run")
    make_folder(folder)
    write_json(folder / "recipe.json", recipe_to_plain(recipe))


def open_run(folder: Path) -> Recipe:
    """The recipe of a run folder."""
    if not folder.is_dir():
        raise UserError(f"no run folder {folder}")
    if not (folder / "recipe.json").is_file():
        raise UserError(f"{folder} is no run folder: it has no recipe.json")
    return read_recipe(folder / "recipe.json")


def seed_folders(folder: Path) -> list[Path]:
    """Of a run with several seeds the folder of each; else none."""
    return sorted(folder.glob("seed-[0-9]*"), key=lambda path: int(path.name.partition("-")[2]))


def load_network(run: str | Path, name: str) -> Network:
    """The trained network of one stage of a run folder, in eval mode on the CPU."""
    return open_network(find_weights(str(run), name))


def check(recipe: Recipe, data: DataSet, *, tensorboard: bool = False) -> None:
    """Builds every stage once and throws it away: what does not fit is found now, not after the teacher's training."""
    builder = Builder(recipe, data, recipe.seed, torch.device("cpu"), PLAIN)
    for planned in course(recipe):
        stage = builder.stage(planned)
        builder.keep(planned, stage)
        if planned.training is not None:
            builder.train_source(planned, stage.views)
    if tensorboard:
        import_tensorboard()


def carry_out(
    recipe: Recipe,
    folder: Path,
    data: DataSet,
    *,
    device: torch.device,
    display: Display,
    interrupt: Interrupt,
    tensorboard: bool = False,
) -> list[dict[str, Any]]:
    """Runs what is left to do in the folder and returns the results of every seed, see `Run.results`."""
    environment.set_threads(recipe.threads, local_processes())
    execution, _ = resolve(recipe.execution, device, world_size())
    set_up(execution, device)
    with locked(folder) if is_main() else contextlib.nullcontext():
        if is_main():
            how = {"execution": execution._asdict(), "operations": select.choices(device.type)}
            write_json(folder / "env.json", environment.collect() | how)
        results = []
        for seed in range(recipe.seed, recipe.seed + recipe.seeds):
            own = folder if recipe.seeds == 1 else folder / f"seed-{seed}"
            if is_main() and recipe.seeds > 1:
                make_folder(own)
                write_json(own / "recipe.json", recipe_to_plain(dataclasses.replace(recipe, seed=seed, seeds=1)))
            builder = Builder(recipe, data, seed, device, execution)
            run = Run(builder, own, display=display, interrupt=interrupt)
            results.append(run.carry_out(tensorboard=tensorboard))
        return results


class Run:
    """One seed of a recipe, in its own folder."""

    def __init__(self, builder: Builder, folder: Path, *, display: Display, interrupt: Interrupt):
        self.builder, self.recipe, self.seed, self.device = builder, builder.recipe, builder.seed, builder.device
        self.folder, self.display, self.interrupt = folder, display, interrupt
        self.course = course(self.recipe)
        self.results: dict[str, Any] = {"seed": self.seed, "stages": {}, "similarity": {}}
        """{"seed", "stages": {name: {"network", "parameters", "epochs", "train", "test", "best", "seconds", …}},
        "similarity": {name: {"kl", "cka", "agreement"}}}, as it stands in results.json."""

    def carry_out(self, *, tensorboard: bool = False) -> dict[str, Any]:
        """Trains every stage that is not finished yet."""
        if is_main():
            make_folder(self.folder / "checkpoints")
        wait_for_all()
        if (self.folder / "results.json").exists():
            self.results = read_results(self.folder / "results.json")
        self.builder.kept = self.folder / "checkpoints"
        log = MetricsLog(self.folder / "metrics.jsonl", tensorboard=tensorboard and is_main())
        for stage in self.course:
            if stage.name in self.results["stages"]:
                self._take_up(stage)
            else:
                self._carry_out_stage(stage, log)
        return self.results

    def dry_run(self) -> list[dict[str, Any]]:
        """A few steps of every stage with an untrained teacher; nothing is written."""
        rows = []
        for recipe in self.course:
            stage = self.builder.stage(recipe)
            self.builder.keep(recipe, stage)
            if recipe.training is None:
                continue
            trainer = self._trainer(recipe, stage, MetricsLog(Path("none")))
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self.device)
            trainer.warm_up()
            trainer.some_steps()
            started = time.perf_counter()
            loss, steps = trainer.some_steps()
            seconds = (time.perf_counter() - started) / steps
            rows.append(
                {
                    "stage": recipe.name,
                    "network": recipe.network,
                    "parameters": count_parameters(stage.network),
                    "trained_parameters": sum(p.numel() for p in stage.parameters() if p.requires_grad),
                    "loss": loss,
                    "images_per_second": recipe.training.batch_size / seconds,
                    "peak_bytes": environment.peak_memory(self.device),
                }
            )
        return rows

    def _carry_out_stage(self, recipe: StageRecipe, log: MetricsLog) -> None:
        checkpoint = self.folder / "checkpoints" / f"{recipe.name}.pt"
        if is_main() and not checkpoint.exists():
            log.cut(self.results.get("metrics_bytes", 0))  # what a stage wrote that was killed before its checkpoint
        stage = self.builder.stage(recipe)
        for note in stage.notes:
            self.display.note(f"{self._title(recipe)}  {note}")
        result: dict[str, Any] = {"network": recipe.network, "parameters": count_parameters(stage.deployed)}
        if recipe.training is None:
            self._note_report(recipe)
            result |= {"file": recipe.file, "sha256": recipe.sha256, "test": self._evaluate(stage)}
        else:
            trainer = self._trainer(recipe, stage, log)
            progress = trainer.fit(after_epoch=lambda epoch: self._keep(recipe, stage, epoch))
            result |= {
                "epochs": progress.epoch,
                "test": {name: counts for name, counts in progress.test.items() if name not in stage.peers()},
                "best": progress.best,
                "seconds": progress.seconds,
                "starting_seconds": progress.starting_seconds,
            }
            if trainer.step.average is not None:
                self._save_network(f"{recipe.name}-ema.safetensors", recipe, trainer.step.average.network)
        self.builder.keep(recipe, stage)
        if recipe.name in self.builder.passing_on:
            on_main(lambda: write_weights(self._passed_on(recipe), self.builder.passed_on[recipe.name], {}))
        if recipe.kind != "prestage":
            self._save_networks("{}.safetensors", recipe, stage)
            self._compare_with_teacher(recipe)
        result["identity"] = self._identity(recipe)
        self.results["stages"][recipe.name] = result
        for peer in recipe.peers:
            own = {"network": peer.network, "parameters": count_parameters(stage.peers()[peer.name])}
            self.results["stages"][peer.name] = (
                result | own | {"test": {peer.name: progress.test[peer.name]}, "best": {}}
            )
        on_main(lambda: self._write_results(log, checkpoint))
        self.interrupt.requested = first_of_all(self.interrupt.requested)
        if self.interrupt.requested and recipe is not self.course[-1]:
            raise Stopped(f"stopped by {self.interrupt.requested} after {recipe.name}")

    def _write_results(self, log: MetricsLog, checkpoint: Path) -> None:
        self.results["metrics_bytes"] = log.size()
        write_json(self.folder / "results.json", self.results)
        checkpoint.unlink(missing_ok=True)

    def _compare_with_teacher(self, recipe: StageRecipe) -> None:
        teacher, network = self.builder.trained.get("teacher"), self.builder.trained[recipe.name]
        if teacher is not None and teacher is not network:
            measured = similarity(teacher, network, self.builder.test_source(), self.device)
            self.results["similarity"][recipe.name] = measured

    def _title(self, recipe: StageRecipe) -> str:
        return recipe.name if self.recipe.seeds == 1 else f"seed {self.seed}  {recipe.name}"

    def _passed_on(self, recipe: StageRecipe) -> Path:
        return self.folder / "checkpoints" / f"{recipe.name}.safetensors"

    def _trainer(self, recipe: StageRecipe, stage: Stage, log: MetricsLog) -> Trainer:
        assert recipe.training is not None
        return Trainer(
            recipe.name,
            stage,
            recipe.training,
            self.builder.train_source(recipe, stage.views),
            self.builder.test_source(),
            device=self.device,
            display=self.display,
            checkpoint=self.folder / "checkpoints" / f"{recipe.name}.pt",
            log=log,
            interrupt=self.interrupt,
            title=self._title(recipe),
            eval_every=self.recipe.eval_every,
            execution=self.builder.execution,
            identity=self._identity(recipe),
        )

    def _identity(self, recipe: StageRecipe) -> dict[str, Any]:
        """All that a stage's numbers depend on."""
        whole = self.recipe
        data = (whole.data, whole.image_size, whole.augmentation, whole.mean, whole.std, whole.limit_train)
        return {"stage": to_plain(recipe), "data": to_plain(data), "seed": self.seed}

    def _evaluate(self, stage: Stage) -> dict[str, Any]:
        return accuracies(stage.eval().predictions, self.builder.test_source(), self.device)

    def _note_report(self, recipe: StageRecipe) -> None:
        report = self.builder.reports[recipe.name]
        left = f", left over: {', '.join(report.unexpected[:3])} …" if report.unexpected else ""
        self.display.note(f"{recipe.name}  {len(report.mapped)} tensors of {recipe.network} from {recipe.file}{left}")

    def _take_up(self, recipe: StageRecipe) -> None:
        """What a stage left that was finished before."""
        refuse_changes(
            self._identity(recipe), self.results["stages"][recipe.name]["identity"], self.folder / "results.json"
        )
        if recipe.name in self.builder.passing_on:
            self.builder.passed_on[recipe.name] = read_weights(self._passed_on(recipe))
        if recipe.kind != "prestage":
            for name in (recipe.name, *(peer.name for peer in recipe.peers)):
                self.builder.trained[name] = open_network(self.folder / f"{name}.safetensors").to(self.device)
        self.display.note(f"{recipe.name}  finished before")

    def _keep(self, recipe: StageRecipe, stage: Stage, epoch: int) -> None:
        wanted = epoch in self.recipe.keep_epochs and recipe.kind != "prestage"
        if wanted or epoch in kept_epochs(self.course, recipe.name):
            self._save_networks(f"checkpoints/{{}}@{epoch}.safetensors", recipe, stage)

    def _save_networks(self, file: str, recipe: StageRecipe, stage: Stage) -> None:
        """What the stage is there for, and its peers; file: with a place for their names."""
        self._save_network(file.format(recipe.name), recipe, stage.deployed)
        stages = {other.name: other for other in self.recipe.stages}
        for name, network in stage.peers().items():
            self._save_network(file.format(name), stages[name], network)

    def _save_network(self, name: str, recipe: StageRecipe, network: Network) -> None:
        on_main(lambda: save_network(self.folder / name, network, self.builder.description(recipe)))


def read_results(path: Path) -> dict[str, Any]:
    """What `Run.results` wrote."""
    results = read_json(path)
    if not isinstance(results, dict) or not {"seed", "stages", "similarity"} <= results.keys():
        raise UserError(f"{path} is no results file of fastkd: it lacks 'seed', 'stages' or 'similarity'")
    return results


def count_parameters(network: Network) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
