"""Carries out a recipe: its stages in order, in a run folder.

With one seed the folder itself is the run; with several each seed has a run of its own in `seed-N`.
"""

import dataclasses
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fastkd import environment, networks
from fastkd.data import DataSet, Source, evaluation_source, open_dataset, training_source
from fastkd.display import Display
from fastkd.errors import UserError
from fastkd.evaluation import accuracies, similarity
from fastkd.files import locked, read_json, reason, sha256, write_json
from fastkd.interrupt import Interrupt, Stopped
from fastkd.log import MetricsLog
from fastkd.losses import SFTNLoss
from fastkd.methods import Context, Method, find_method, split_methods
from fastkd.networks.base import Network, output_shapes
from fastkd.networks.checkpoints import Report, load_weights
from fastkd.networks.grafts import graft
from fastkd.recipe import Branches, Recipe, StageRecipe, read_recipe, recipe_to_plain
from fastkd.stages import Distill, Stage, StudentAware, Supervised
from fastkd.trainer import Trainer
from fastkd.weights import Description, find_weights, open_network, save_network

EVALUATION_BATCH = 256


def create_folder(folder: Path, recipe: Recipe) -> None:
    """A new run folder with its recipe; one that holds a run already is refused."""
    if (folder / "recipe.json").exists():
        raise UserError(f"{folder} holds a run already: go on with it by --resume {folder}, or give another --run")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create the run folder {folder}: {reason(error)}") from error
    write_json(folder / "recipe.json", recipe_to_plain(recipe))


def check(recipe: Recipe, data: DataSet, display: Display) -> None:
    """Builds every stage once and throws it away: what does not fit is found now, not after the teacher's training."""
    run = Run(recipe, Path(), data, recipe.seed, device=torch.device("cpu"), display=display, interrupt=Interrupt())
    for stage in recipe.stages:
        _, run.trained[stage.name] = run.build(stage)
        if stage.training is not None:
            run.train_source(stage)


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
    torch.set_num_threads(recipe.threads or environment.cores())
    with locked(folder):
        write_json(folder / "env.json", environment.collect())
        results = []
        for seed in range(recipe.seed, recipe.seed + recipe.seeds):
            own = folder
            if recipe.seeds > 1:
                own = folder / f"seed-{seed}"
                own.mkdir(exist_ok=True)
                write_json(own / "recipe.json", recipe_to_plain(dataclasses.replace(recipe, seed=seed, seeds=1)))
            run = Run(recipe, own, data, seed, device=device, display=display, interrupt=interrupt)
            results.append(run.carry_out(tensorboard=tensorboard))
        return results


def open_data(recipe: Recipe) -> DataSet:
    return open_dataset(
        recipe.data,
        image_size=recipe.image_size,
        resident=recipe.augmentation.crop == "pad",
        limit_train=recipe.limit_train,
        threads=environment.cores(),
    )


def load_network(run: str | Path, name: str) -> Network:
    """The trained network of one stage of a run folder, in eval mode on the CPU."""
    return open_network(find_weights(str(run), name))


class Run:
    """One seed of a recipe, in its own folder."""

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        data: DataSet,
        seed: int,
        *,
        device: torch.device,
        display: Display,
        interrupt: Interrupt,
    ):
        self.recipe, self.folder, self.data, self.seed = recipe, folder, data, seed
        self.device, self.display, self.interrupt = device, display, interrupt
        self.trained: dict[str, Network] = {}
        self.reports: dict[str, Report] = {}
        """Of the networks that were loaded instead of trained."""
        self.results: dict[str, Any] = {"seed": seed, "stages": {}, "similarity": {}}
        """{"seed", "stages": {name: {"network", "parameters", "epochs", "train", "test", "best", "seconds"}},
        "similarity": {name: {"kl", "cka", "agreement"}}}, as it stands in results.json."""

    def carry_out(self, *, tensorboard: bool = False) -> dict[str, Any]:
        """Trains every stage that is not finished yet."""
        (self.folder / "checkpoints").mkdir(exist_ok=True)
        if (self.folder / "results.json").exists():
            self.results = read_json(self.folder / "results.json")
        log = MetricsLog(self.folder / "metrics.jsonl", tensorboard=tensorboard)
        for stage in self.recipe.stages:
            if stage.name in self.results["stages"]:
                self.trained[stage.name] = self._finished_network(stage)
            else:
                self._carry_out_stage(stage, log)
        return self.results

    def dry_run(self) -> list[dict[str, Any]]:
        """One step of every stage with an untrained teacher; nothing is written."""
        rows = []
        for recipe in self.recipe.stages:
            stage, network = self.build(recipe)
            self.trained[recipe.name] = network
            if recipe.training is None:
                continue
            trainer = self._trainer(recipe, stage, MetricsLog(Path("none")))
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self.device)
            trainer.one_step()
            started = time.perf_counter()
            loss = trainer.one_step().total.item()
            seconds = time.perf_counter() - started
            rows.append(
                {
                    "stage": recipe.name,
                    "network": recipe.network,
                    "parameters": count_parameters(network),
                    "trained_parameters": sum(p.numel() for p in stage.parameters() if p.requires_grad),
                    "loss": loss,
                    "images_per_second": recipe.training.batch_size / seconds,
                    "peak_bytes": environment.peak_memory(self.device),
                }
            )
        return rows

    def _carry_out_stage(self, recipe: StageRecipe, log: MetricsLog) -> None:
        checkpoint = self.folder / "checkpoints" / f"{recipe.name}.pt"
        if not checkpoint.exists():
            log.cut(self.results.get("metrics_bytes", 0))  # what a stage wrote that was killed before its checkpoint
        stage, network = self.build(recipe)
        result: dict[str, Any] = {"network": recipe.network, "parameters": count_parameters(network)}
        if recipe.training is None:
            self._note_report(recipe)
            result |= {"file": recipe.file, "sha256": recipe.sha256, "test": self._evaluate(network, recipe.name)}
        else:
            trainer = self._trainer(recipe, stage, log)
            progress = trainer.fit(after_epoch=lambda epoch: self._keep(recipe, network, epoch))
            result |= {
                "epochs": progress.epoch,
                "test": progress.test,
                "best": progress.best,
                "seconds": progress.seconds,
            }
        self._save_network(self.folder / f"{recipe.name}.safetensors", recipe, network)
        self.trained[recipe.name] = network.eval()
        if recipe.name != "teacher" and "teacher" in self.trained:
            measured = similarity(self.trained["teacher"], network, self._test_source(), self.device)
            self.results["similarity"][recipe.name] = measured
        self.results["stages"][recipe.name] = result
        self.results["metrics_bytes"] = log.size()
        write_json(self.folder / "results.json", self.results)
        checkpoint.unlink(missing_ok=True)
        if self.interrupt.requested and recipe is not self.recipe.stages[-1]:
            raise Stopped(f"stopped by {self.interrupt.requested} after {recipe.name}")

    def build(self, recipe: StageRecipe) -> tuple[Stage, Network]:
        """The stage, and the network in it that is to be kept.

        A student and its control begin with the same weights and see the same batches: they differ by the teacher.
        """
        role = "teacher" if recipe.name == "teacher" else "student"
        torch.manual_seed(zlib.crc32(f"{self.seed}/{role}".encode()))
        network = self._build_network(recipe.network)
        if recipe.kind == "loaded":
            self._load(network, recipe)
            stage: Stage = Supervised(network, recipe.name)
        elif recipe.kind == "supervised":
            stage = Supervised(network, recipe.name)
        elif recipe.kind == "student_aware":
            assert recipe.branches is not None
            stage = self._student_aware(network, recipe.network, recipe.branches)
        else:
            teachers = tuple(self.trained[name] for name in recipe.teachers)
            stage = Distill(network, teachers, self._methods(recipe, network, teachers), recipe.name)
        return stage.to(self.device), network

    def _build_network(self, name: str) -> Network:
        return networks.build(name, num_classes=len(self.data.classes))

    def _student_aware(self, teacher: Network, name: str, branches: Branches) -> StudentAware:
        grafts = graft(
            teacher,
            self._build_network(branches.network),
            self.recipe.image_size,
            blocks=branches.blocks,
            names=(f"the teacher {name}", branches.network),
        )
        loss = SFTNLoss(
            temperature=branches.temperature,
            teacher_weight=branches.teacher_weight,
            kl_weight=branches.kl_weight,
            ce_weight=branches.ce_weight,
            kl=branches.kl,
            detach_teacher=branches.detach_teacher,
            ce_temperature=branches.ce_temperature,
            tau_squared=branches.tau_squared,
        )
        return StudentAware(teacher, grafts, loss)

    def _methods(self, recipe: StageRecipe, student: Network, teachers: Sequence[Network]) -> dict[str, Method]:
        assert recipe.training is not None
        size = self.recipe.image_size
        labels = self.data.train.labels
        context = Context(
            student=student,
            teachers=tuple(teachers),
            student_shapes=output_shapes(student, size),
            teacher_shapes=tuple(output_shapes(teacher, size) for teacher in teachers),
            classes=len(self.data.classes),
            samples=len(labels),
            labels=labels,
            batch_size=recipe.training.batch_size,
            steps_per_epoch=self.train_source(recipe).loader.steps,
            seed=self.seed,
        )
        return {name: find_method(name)(recipe.settings[name], context) for name in split_methods(recipe.method)}

    def _trainer(self, recipe: StageRecipe, stage: Stage, log: MetricsLog) -> Trainer:
        assert recipe.training is not None
        title = recipe.name if self.recipe.seeds == 1 else f"seed {self.seed}  {recipe.name}"
        return Trainer(
            recipe.name,
            stage,
            recipe.training,
            self.train_source(recipe),
            self._test_source(),
            device=self.device,
            display=self.display,
            checkpoint=self.folder / "checkpoints" / f"{recipe.name}.pt",
            log=log,
            interrupt=self.interrupt,
            title=title,
            eval_every=self.recipe.eval_every,
        )

    def train_source(self, recipe: StageRecipe) -> Source:
        assert recipe.training is not None
        return training_source(
            self.data,
            image_size=self.recipe.image_size,
            batch_size=recipe.training.batch_size,
            augmentation=self.recipe.augmentation,
            seed=self.seed,
            drop_last=recipe.training.drop_last,
            workers=environment.cores(),
            mean=self.recipe.mean,
            std=self.recipe.std,
        )

    def _test_source(self) -> Source:
        source = evaluation_source(
            self.data,
            image_size=self.recipe.image_size,
            batch_size=EVALUATION_BATCH,
            workers=environment.cores(),
            mean=self.recipe.mean,
            std=self.recipe.std,
        )
        source.prepare.to(self.device)
        return source

    def _evaluate(self, network: Network, name: str) -> dict[str, Any]:
        network.eval()
        return accuracies(lambda images: {name: network(images).logits}, self._test_source(), self.device)

    def _load(self, network: Network, recipe: StageRecipe) -> None:
        path = Path(recipe.file)
        if not path.is_file():
            raise UserError(f"the file of the {recipe.name}, {path}, is gone")
        if recipe.sha256 and sha256(path) != recipe.sha256:
            raise UserError(f"the file of the {recipe.name}, {path}, is not the one the run began with")
        self.reports[recipe.name] = load_weights(network, path)

    def _note_report(self, recipe: StageRecipe) -> None:
        report = self.reports[recipe.name]
        left = f", left over: {', '.join(report.unexpected[:3])} …" if report.unexpected else ""
        self.display.note(f"{recipe.name}  {len(report.mapped)} tensors of {recipe.network} from {recipe.file}{left}")

    def _finished_network(self, recipe: StageRecipe) -> Network:
        network = self._build_network(recipe.network)
        load_weights(network, self.folder / f"{recipe.name}.safetensors")
        self.display.note(f"{recipe.name}  finished before")
        return network.to(self.device).eval()

    def _keep(self, recipe: StageRecipe, network: Network, epoch: int) -> None:
        if epoch in self.recipe.keep_epochs:
            self._save_network(self.folder / "checkpoints" / f"{recipe.name}@{epoch}.safetensors", recipe, network)

    def _save_network(self, path: Path, recipe: StageRecipe, network: Network) -> None:
        save_network(path, network, Description(recipe.network, len(self.data.classes), self.recipe.image_size))


def open_run(folder: Path) -> Recipe:
    """The recipe of a run folder."""
    if not folder.is_dir():
        raise UserError(f"no run folder {folder}")
    if not (folder / "recipe.json").is_file():
        raise UserError(f"{folder} is no run folder: it has no recipe.json")
    return read_recipe(folder / "recipe.json")


def count_parameters(network: Network) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
