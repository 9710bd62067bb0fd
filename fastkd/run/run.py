"""Carries out a job: its stages in order, in a run folder.

With one seed the folder itself is the run; with several each seed has a run of its own in `seed-N`. With several
processes every rank carries it out and rank 0 writes.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fastkd.networks.base import Network
from fastkd.ops import select
from fastkd.recipes.course import kept_epochs, passing_on
from fastkd.recipes.planned import (
    Peer,
    PlannedDistillation,
    PlannedLoaded,
    PlannedMutual,
    PlannedPrestage,
    PlannedStage,
    PlannedTraining,
)
from fastkd.recipes.recipe import Recipe, StageRecipe, read_recipe, recipe_to_plain
from fastkd.run.builder import Builder
from fastkd.run.earlier import Earlier
from fastkd.run.identity import stage_identity
from fastkd.run.job import Job
from fastkd.run.outlook import Outlook
from fastkd.run.stores import opened_shelf, refuse_unstorable, result_of, side_by_side
from fastkd.run.weights import find_weights, open_network, save_network
from fastkd.support import environment
from fastkd.support.distributed import first_of_all, is_main, local_processes, on_main, wait_for_all
from fastkd.support.errors import UserError
from fastkd.support.files import locked, make_folder, read_json, read_weights, write_json, write_weights
from fastkd.support.interrupt import Stopped
from fastkd.support.log import MetricsLog, import_tensorboard
from fastkd.support.session import Session
from fastkd.training.evaluation import accuracies, similarity
from fastkd.training.execution import set_up
from fastkd.training.identity import Identity
from fastkd.training.stages import Stage
from fastkd.training.taught import Shelf
from fastkd.training.together import Together, alike
from fastkd.training.trainer import Trainer


def create_folder(folder: Path, recipe: Recipe) -> None:
    """Makes a run folder with its recipe; one that holds a run already is refused."""
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
    """The folder of each seed of a run with several seeds; else none."""
    return sorted(folder.glob("seed-[0-9]*"), key=lambda path: int(path.name.partition("-")[2]))


def load_network(run: str | Path, name: str) -> Network:
    """The trained network of one stage of a run folder, in eval mode on the CPU."""
    return open_network(find_weights(str(run), name))


def check(job: Job, *, tensorboard: bool = False) -> None:
    """Builds every stage once and throws it away: what does not fit is found now, not after the teacher's training."""
    builder, earlier = Builder(job.plainly_on_the_cpu(), job.recipe.seed), Earlier(job.course)
    for planned in job.course:
        stage = builder.stage(planned, earlier)
        earlier.add(planned, stage)
        if isinstance(planned, PlannedTraining):
            builder.train_source(planned, stage.views)
            refuse_unstorable(job, planned, stage, earlier, builder.data_seed)
    if tensorboard:
        import_tensorboard()


def carry_out(job: Job, folder: Path, session: Session) -> list[dict[str, Any]]:
    """Runs what is left to do in the folder and returns the results of every seed, see `Run.results`."""
    recipe = job.recipe
    environment.set_threads(recipe.threads, local_processes())
    set_up(job.execution, job.device)
    with locked(folder) if is_main() else contextlib.nullcontext():
        if is_main():
            _write_environment(folder, job)
        runs, outlook = [], Outlook(job.course, recipe.seeds)
        for seed in range(recipe.seed, recipe.seed + recipe.seeds):
            own = folder if recipe.seeds == 1 else folder / f"seed-{seed}"
            if is_main() and recipe.seeds > 1:
                make_folder(own)
                write_json(own / "recipe.json", recipe_to_plain(replace(recipe, seed=seed, seeds=1)))
            runs.append(Run(job, seed, own, session, outlook))
        group = side_by_side(job)
        if len(group) * len(runs) < 2:
            return [run.carry_out() for run in runs]
        return _carry_out_together(runs, group)


def _carry_out_together(runs: Sequence["Run"], group: tuple[PlannedDistillation, ...]) -> list[dict[str, Any]]:
    """Carries out the runs stage by stage, with the stages of the group side by side for all of them."""
    for run in runs:
        run.begin()
    for planned in runs[0].job.course:
        if planned is group[0]:
            train_together([(run, one) for run in runs for one in group])
        elif planned not in group:
            for run in runs:
                run.carry_out_stage(planned)
    return [run.results for run in runs]


def train_together(members: Sequence[tuple["Run", PlannedDistillation]]) -> None:
    """Trains students side by side, where they take the same batches; else one after the other."""
    for run, planned in members:
        if run.finished(planned):
            run.carry_out_stage(planned)  # which takes it up
    left = [(run, planned) for run, planned in members if not run.finished(planned)]
    if not left:
        return
    first, stages = left[0][0], [run.build(planned) for run, planned in left]
    with first.opened_shelf(left[0][1], stages[0]) as shelf:
        assert shelf is not None
        built = list(zip(left, stages, strict=True))
        trainers = [run.trainer(planned, stage, shelf) for (run, planned), stage in built]
        side_by_side = alike(trainers)
        if side_by_side:
            keeping = [partial(run.keep, planned, stage) for (run, planned), stage in built]
            with contextlib.closing(trainers[0].step):
                Together(trainers).fit(keeping)
    for ((run, planned), stage), trainer in zip(built, trainers, strict=True):
        if side_by_side:
            run.conclude(planned, stage, *run.measured(planned, trainer, shelf))
        else:
            run.carry_out_stage(planned)


def _write_environment(folder: Path, job: Job) -> None:
    """Writes env.json: what this call of the program runs on, and the calls before it."""
    path = folder / "env.json"
    before = environment.calls(read_json(path)) if path.is_file() else []
    how = {"execution": job.execution._asdict(), "operations": select.choices(job.device.type)}
    write_json(path, environment.this_call() | {"earlier": before} | environment.collect() | how)


class Run:
    """One seed of a job, in its own folder."""

    def __init__(self, job: Job, seed: int, folder: Path, session: Session, outlook: Outlook | None = None):
        self.job, self.seed, self.folder, self.session = job, seed, folder, session
        self.builder, self.earlier = Builder(job, seed), Earlier(job.course)
        self.outlook = outlook or Outlook(job.course, seeds=1)
        self.log = MetricsLog(Path("none"))
        self.results: dict[str, Any] = {"seed": self.seed, "stages": {}, "similarity": {}}
        """{"seed", "stages": {name: {"network", "parameters", "epochs", "train", "test", "best", "seconds", …}},
        "similarity": {name: {"kl", "cka", "agreement"}}}, as it stands in results.json."""

    def carry_out(self) -> dict[str, Any]:
        """Trains every stage that is not finished yet."""
        self.begin()
        for planned in self.job.course:
            self.carry_out_stage(planned)
        return self.results

    def begin(self) -> None:
        """Makes the folders, and reads what is finished."""
        self.earlier.snapshots = self.folder / "checkpoints"
        if is_main():
            make_folder(self.earlier.snapshots)
        wait_for_all()
        if (self.folder / "results.json").exists():
            self.results = read_results(self.folder / "results.json")
        self.log = MetricsLog(self.folder / "metrics.jsonl", tensorboard=self.session.tensorboard and is_main())

    def finished(self, planned: PlannedStage) -> bool:
        return planned.name in self.results["stages"]

    def dry_run(self) -> list[dict[str, Any]]:
        """Takes a few steps of every stage, with an untrained teacher; returns what they took and writes nothing."""
        rows = []
        for planned in self.job.course:
            stage = self.builder.stage(planned, self.earlier)
            self.earlier.add(planned, stage)
            if isinstance(planned, PlannedTraining):
                rows.append({"stage": planned.name, "network": planned.network} | self._try(planned, stage))
        return rows

    def fill_stores(self) -> None:
        """Computes and writes what is missing in the stores of every stage's teachers; trains and writes nothing else.

        The last, shorter batch of an epoch is among it, so that students with other batches find it.
        """
        for planned in self.job.course:
            stage = self.builder.stage(planned, self.earlier)
            self.earlier.add(planned, stage)
            if not isinstance(planned, PlannedTraining):
                continue
            with self.opened_shelf(planned, stage) as shelf:
                if shelf is None:
                    continue
                whole = replace(planned, training=replace(planned.training, drop_last=False))
                trainer = self.trainer(whole, stage, shelf)
                with contextlib.closing(trainer.step):
                    trainer.fill_stores()

    @contextlib.contextmanager
    def opened_shelf(self, planned: PlannedTraining, stage: Stage) -> Iterator[Shelf | None]:
        """Where the stage's teachers are stored; says what a user should know of it."""
        with opened_shelf(self.job, planned, stage, self.earlier, self.builder.data_seed) as shelf:
            for store in shelf.stores if shelf is not None else ():
                for note in store.notes:
                    self.session.display.note(f"{self._title(planned)}  the store {store.folder}: {note}")
            yield shelf

    def _try(self, planned: PlannedTraining, stage: Stage) -> dict[str, Any]:
        """Takes a few steps of a stage; returns their loss, speed and memory."""
        trainer = self.trainer(planned, stage)
        if self.job.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.job.device)
        trainer.warm_up()
        trainer.some_steps()
        started = time.perf_counter()
        loss, steps = trainer.some_steps()
        seconds = (time.perf_counter() - started) / steps
        return {
            "parameters": count_parameters(stage.network),
            "trained_parameters": sum(p.numel() for p in stage.parameters() if p.requires_grad),
            "loss": loss,
            "images_per_second": planned.training.batch_size / seconds,
            "peak_bytes": environment.peak_memory(self.job.device),
        }

    def carry_out_stage(self, planned: PlannedStage) -> None:
        """Trains or loads a stage, or takes up what it left where it is finished."""
        if self.finished(planned):
            self._take_up(planned)
            self._note_finished(planned)
            return
        stage = self.build(planned)
        if isinstance(planned, PlannedTraining):
            measured, tests = self._train(planned, stage)
        else:
            assert isinstance(planned, PlannedLoaded)
            measured, tests = self._load(planned, stage)
        self.conclude(planned, stage, measured, tests)

    def _note_finished(self, planned: PlannedStage) -> None:
        self.outlook.finished(planned.name, self.results["stages"][planned.name].get("seconds", 0.0))

    def build(self, planned: PlannedStage) -> Stage:
        """The stage, ready to be trained."""
        if is_main() and not self._checkpoint(planned).exists():
            self.log.cut(self.results.get("metrics_bytes", 0))  # what a stage wrote that was killed before it had saved
        stage = self.builder.stage(planned, self.earlier)
        for note in stage.notes:
            self.session.display.note(f"{self._title(planned)}  {note}")
        return stage

    def conclude(self, planned: PlannedStage, stage: Stage, measured: dict[str, Any], tests: dict[str, Any]) -> None:
        """Saves what a finished stage leaves, and stops the run where somebody asked it to."""
        self.earlier.add(planned, stage)
        if planned.name in passing_on(self.job.course):
            on_main(lambda: write_weights(self._passed_on(planned), self.earlier.passed_on[planned.name], {}))
        if not isinstance(planned, PlannedPrestage):
            self._save_networks("{}.safetensors", planned, stage)
            self._compare_with_teacher(planned)
        own = {"network": planned.network, "parameters": count_parameters(stage.deployed)}
        result = own | measured | {"test": tests, "identity": self._identity(planned).plain}
        self.results["stages"] |= {planned.name: result} | _split_off_peers(planned, stage, result)
        on_main(lambda: self._write_results(self._checkpoint(planned)))
        self._note_finished(planned)
        interrupt = self.session.interrupt
        interrupt.requested = first_of_all(interrupt.requested)
        if interrupt.requested and planned is not self.job.course[-1]:
            raise Stopped(f"stopped by {interrupt.requested} after {planned.name}")

    def _train(self, planned: PlannedTraining, stage: Stage) -> tuple[dict[str, Any], dict[str, Any]]:
        with self.opened_shelf(planned, stage) as shelf:
            trainer = self.trainer(planned, stage, shelf)
            with contextlib.closing(trainer.step):
                trainer.fit(after_epoch=lambda epoch: self.keep(planned, stage, epoch))
        return self.measured(planned, trainer, shelf)

    def measured(
        self, planned: PlannedTraining, trainer: Trainer, shelf: Shelf | None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """What a training took, and what its networks reach on the test set."""
        progress = trainer.progress
        if trainer.step.average is not None:
            self._save_network(f"{planned.name}-ema.safetensors", planned, trainer.step.average.network)
        measured = {name: getattr(progress, name) for name in ("best", "seconds", "starting_seconds")}
        of_store = {} if shelf is None else result_of(shelf)
        return {"epochs": progress.epoch, **measured, **of_store}, progress.test

    def _load(self, planned: PlannedLoaded, stage: Stage) -> tuple[dict[str, Any], dict[str, Any]]:
        report = self.builder.reports[planned.name]
        left = f", left over: {', '.join(report.unexpected[:3])} …" if report.unexpected else ""
        self.session.display.note(
            f"{planned.name}  {len(report.mapped)} tensors of {planned.network} from {planned.file}{left}"
        )
        tests = accuracies(stage.eval().predictions, self.job.test_source(), self.job.device)
        return {"file": planned.file, "sha256": planned.sha256}, dict(tests)

    def _write_results(self, checkpoint: Path) -> None:
        self.results["metrics_bytes"] = self.log.size()
        write_json(self.folder / "results.json", self.results)
        checkpoint.unlink(missing_ok=True)

    def _compare_with_teacher(self, planned: PlannedStage) -> None:
        teacher, network = self.earlier.networks.get("teacher"), self.earlier.networks[planned.name]
        if teacher is not None and teacher is not network:
            measured = similarity(teacher, network, self.job.test_source(), self.job.device)
            self.results["similarity"][planned.name] = measured

    def _title(self, planned: PlannedStage) -> str:
        return planned.name if self.job.recipe.seeds == 1 else f"seed {self.seed}  {planned.name}"

    def _checkpoint(self, planned: PlannedStage) -> Path:
        return self.folder / "checkpoints" / f"{planned.name}.pt"

    def _passed_on(self, planned: PlannedStage) -> Path:
        return self.folder / "checkpoints" / f"{planned.name}.safetensors"

    def trainer(self, planned: PlannedTraining, stage: Stage, shelf: Shelf | None = None) -> Trainer:
        """The trainer of a stage; shelf: where its teachers are stored."""
        return Trainer(
            planned.name,
            stage,
            planned.training,
            self.builder.train_source(planned, stage.views),
            self.job.test_source(),
            device=self.job.device,
            session=self.session,
            checkpoint=self._checkpoint(planned),
            log=self.log,
            title=self._title(planned),
            eval_every=self.job.recipe.eval_every,
            execution=self.job.execution,
            identity=self._identity(planned),
            seconds_after=lambda per_epoch: self.outlook.seconds_after(planned.name, per_epoch),
            shelf=shelf,
        )

    def _identity(self, planned: PlannedStage) -> Identity:
        return stage_identity(self.job.recipe, planned, self.seed)

    def _take_up(self, planned: PlannedStage) -> None:
        """Loads what a finished stage saved: its networks and what it hands on."""
        then = self.results["stages"][planned.name]["identity"]
        self._identity(planned).refuse_changes(then, self.folder / "results.json")
        if planned.name in passing_on(self.job.course):
            self.earlier.passed_on[planned.name] = read_weights(self._passed_on(planned))
        if not isinstance(planned, PlannedPrestage):
            for name in (planned.name, *(peer.name for peer in _peers(planned))):
                self.earlier.networks[name] = open_network(self.folder / f"{name}.safetensors").to(self.job.device)
        self.session.display.note(f"{planned.name}  finished before")

    def keep(self, planned: PlannedStage, stage: Stage, epoch: int) -> None:
        """Saves the networks that are wanted of this epoch."""
        wanted = epoch in self.job.recipe.keep_epochs and not isinstance(planned, PlannedPrestage)
        if wanted or epoch in kept_epochs(self.job.course, planned.name):
            self._save_networks(f"checkpoints/{{}}@{epoch}.safetensors", planned, stage)

    def _save_networks(self, file: str, planned: PlannedStage, stage: Stage) -> None:
        """Saves the network of the stage and those of its peers; file: a pattern with a place for their names."""
        self._save_network(file.format(planned.name), planned, stage.deployed)
        for name, network in stage.peers().items():
            peer = self.job.recipe.stage(name)
            assert peer is not None
            self._save_network(file.format(name), peer, network)

    def _save_network(self, name: str, stage: PlannedStage | StageRecipe, network: Network) -> None:
        on_main(lambda: save_network(self.folder / name, network, self.builder.description(stage)))


def _peers(planned: PlannedStage) -> tuple[Peer, ...]:
    return planned.peers if isinstance(planned, PlannedMutual) else ()


def _split_off_peers(planned: PlannedStage, stage: Stage, result: dict[str, Any]) -> dict[str, Any]:
    """Takes the tests of the networks that were trained beside the student out of its result; returns their results."""
    found = {}
    for peer in _peers(planned):
        own = {"network": peer.network, "parameters": count_parameters(stage.peers()[peer.name]), "best": {}}
        found[peer.name] = result | own | {"test": {peer.name: result["test"].pop(peer.name)}}
    return found


def read_results(path: Path) -> dict[str, Any]:
    """The results that a run wrote, see `Run.results`."""
    results = read_json(path)
    if not isinstance(results, dict) or not {"seed", "stages", "similarity"} <= results.keys():
        raise UserError(f"{path} is no results file of fastkd: it lacks 'seed', 'stages' or 'similarity'")
    return results


def count_parameters(network: Network) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
