"""Carries out a job: its stages in order, in a run folder.

With one seed the folder itself is the run; with several each seed has a run of its own in `seed-N`. With several
processes every rank carries it out and rank 0 writes.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fastkd.networks.base import Network
from fastkd.recipes.course import kept_epochs, passing_on
from fastkd.recipes.planned import (
    Peer,
    PlannedLoaded,
    PlannedMutual,
    PlannedPrestage,
    PlannedStage,
    PlannedTraining,
)
from fastkd.recipes.recipe import StageRecipe
from fastkd.run.builder import Builder
from fastkd.run.earlier import Earlier
from fastkd.run.folder import below, known_digest, read_results
from fastkd.run.identity import stage_identity
from fastkd.run.job import Job
from fastkd.run.outlook import Outlook
from fastkd.run.stores import foreseen_stores, is_mixed, opened_shelf, result_of
from fastkd.run.trial import refuse_image_size, refuse_lacking, try_smallest_pass
from fastkd.run.weights import find_weights, open_network, save_network
from fastkd.support import environment
from fastkd.support.distributed import first_of_all, is_main, on_main, wait_for_all, world_size
from fastkd.support.files import make_folder, read_weights, remove, sha256, write_json, write_weights
from fastkd.support.interrupt import Stopped
from fastkd.support.live import duration
from fastkd.support.log import MetricsLog
from fastkd.support.loggers import LoggerName, check_loggers
from fastkd.support.paths import is_file, is_there
from fastkd.support.session import Session
from fastkd.support.words import counted
from fastkd.training.checkpoint_shares import remove_shares
from fastkd.training.datafree import DataFree, remove_features, seconds_of_rounds
from fastkd.training.dropout import draws_otherwise
from fastkd.training.evaluation import accuracies, similarity
from fastkd.training.identity import Identity
from fastkd.training.stages import Mutual, Stage
from fastkd.training.taught import Shelf
from fastkd.training.trainer import Trainer


def load_network(run: str | Path, name: str) -> Network:
    """The trained network of one stage of a run folder, in eval mode on the CPU."""
    return open_network(find_weights(str(run), name))


def check(job: Job, *, loggers: tuple[LoggerName, ...] = ()) -> None:
    """Builds every stage once and throws it away: what does not fit is found now, not after the teacher's training."""
    builder, earlier = Builder(job.plainly_on_the_cpu(), job.recipe.seed), Earlier(job.course)
    for planned in job.course:
        stage = builder.stage(planned, earlier)
        earlier.add(planned, stage)
        if isinstance(planned, PlannedTraining):
            builder.source_for(planned, stage)
            list(foreseen_stores(job, planned, stage, earlier, builder.data_seed))
            refuse_image_size(planned, stage, job.recipe.image_size)
            try_smallest_pass(planned, stage, job)
            refuse_lacking(planned, stage, job)
    check_loggers(loggers)


class Run:
    """One seed of a job, in its own folder."""

    def __init__(self, job: Job, seed: int, folder: Path, session: Session, outlook: Outlook | None = None):
        self.job, self.seed, self.folder, self.session = job, seed, folder, session
        self.builder, self.earlier = Builder(job, seed), Earlier(job.course)
        self.digests: dict[str, str] = {}
        """{weights file, below the folder: SHA-256 of its bytes}, of those that this call of the program wrote."""
        self.outlook = outlook or Outlook(job.course, seeds=1)
        self.log = MetricsLog(Path("none"))
        self.results: dict[str, Any] = {"seed": self.seed, "stages": {}, "similarity": {}}
        """{"seed", "stages": {name: {"network", "parameters", "epochs", "train", "test", "best", "seconds", …}},
        "similarity": {name: {"kl", "agreement" and mostly "cka"}}}, as it stands in results.json."""

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
            make_folder(self.earlier.snapshots, own=True)
        wait_for_all()
        if is_there(self.folder / "results.json"):
            self.results = read_results(self.folder / "results.json")
        loggers, tell = self.session.loggers if is_main() else (), self.session.display.note
        self.log = MetricsLog(self.folder / "metrics.jsonl", loggers=loggers, tell=tell)

    def finished(self, planned: PlannedStage) -> bool:
        return planned.name in self.results["stages"]

    def dry_run(self) -> list[dict[str, Any]]:
        """Takes a few steps of every stage, with an untrained teacher; returns what they took and writes nothing."""
        rows = []
        for planned in self.job.course:
            stage = self.builder.stage(planned, self.earlier)
            self.earlier.add(planned, stage)
            if isinstance(planned, PlannedTraining):
                for words in foreseen_stores(self.job, planned, stage, self.earlier, self.builder.data_seed):
                    self.session.display.note(f"{self._title(planned)}  {words}")
                rows.append({"stage": planned.name, "network": planned.network} | self._try(planned, stage))
        return rows

    def fill_stores(self) -> None:
        """Computes and writes what is missing in the stores of every stage's teachers; trains and writes nothing else.

        The last, shorter batch of an epoch is among it, so that students with other batches find it; not where images
        are mixed, which makes rows ones of their batches.
        """
        for planned in self.job.course:
            stage = self.builder.stage(planned, self.earlier)
            self.earlier.add(planned, stage)
            if not isinstance(planned, PlannedTraining):
                continue
            with self.opened_shelf(planned, stage) as shelf:
                if shelf is None:
                    continue
                for store in shelf.stores:
                    store.refuse_reading_only()
                if not is_mixed(self.job.recipe):
                    planned = replace(planned, training=replace(planned.training, drop_last=False))
                trainer = self.trainer(planned, stage, shelf)
                with contextlib.closing(trainer.step):
                    trainer.fill_stores()

    @contextlib.contextmanager
    def opened_shelf(self, planned: PlannedTraining, stage: Stage) -> Iterator[Shelf | None]:
        """Where the stage's teachers are stored; says what a user should know of it."""
        how = {"data_seed": self.builder.data_seed, "unlocked": self.session.unlocked}
        with opened_shelf(self.job, planned, stage, self.earlier, **how) as shelf:
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
        trainer.refuse_what_is_not_finite()
        of_rounds = {}
        if isinstance(stage, DataFree):
            rounds = seconds_of_rounds(stage.synthesis)
            of_rounds = {"seconds_per_epoch": rounds + seconds * trainer.steps_per_epoch}
            self.session.display.note(f"{self._title(planned)}  images: {duration(rounds)} an epoch beside its steps")
        return of_rounds | {
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
        self.session.heartbeat.begin(seed=self.seed, stage=planned.name)
        if is_main() and not is_there(self._checkpoint(planned)):
            self._drop_records_of_a_killed_stage()
        stage = self.builder.stage(planned, self.earlier)
        for note in (*stage.notes, *self.builder.notes, *self._notes_of_draws(planned, stage)):
            self.session.display.note(f"{self._title(planned)}  {note}")
        self.builder.notes.clear()
        return stage

    def _notes_of_draws(self, planned: PlannedStage, stage: Stage) -> Iterator[str]:
        """Says which networks of others draw what the number of processes changes: ours draw for dropouts alone."""
        shards = planned.training.shards if isinstance(planned, PlannedTraining) else None
        if (shards or world_size()) == 1 or not isinstance(planned, PlannedTraining):
            return
        for name, network in {planned.network: stage.network, **stage.peers()}.items():
            if network.remake is not None and draws_otherwise(network, self.job.recipe.image_size, self.job.device):
                yield f"{name} draws random numbers that are no dropout's: each process has others"

    def _drop_records_of_a_killed_stage(self) -> None:
        """Cuts the log back to the last finished stage: one that was killed has left no checkpoint to go on from."""
        if damage := self.log.cut(self.results.get("metrics_bytes", 0)):
            self.session.display.note(damage)

    def conclude(self, planned: PlannedStage, stage: Stage, measured: dict[str, Any], tests: dict[str, Any]) -> None:
        """Saves what a finished stage leaves, and stops the run where somebody asked it to."""
        self.earlier.add(planned, stage)
        if planned.name in passing_on(self.job.course):
            on_main(lambda: self._pass_on(planned))
        if not isinstance(planned, PlannedPrestage):
            self._save_networks("{}.safetensors", planned, stage)
            self._compare_with_teacher(planned)
        own = {"network": planned.network, "parameters": count_parameters(stage.deployed)}
        result = own | measured | {"test": tests, "identity": self._identity(planned).plain}
        on_main(lambda: result.update(files=self._digests(planned)))
        self.results["stages"] |= {planned.name: result} | _split_off_peers(planned, stage, result)
        on_main(lambda: self._write_results(self._checkpoint(planned)))
        if isinstance(stage, DataFree):
            on_main(lambda: remove_features(stage.synthesis))
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
        found = {"epochs": progress.epoch, **measured, **of_store}
        if self.job.data.validation is None or not progress.test:
            return found, progress.test
        self.session.heartbeat.beat(doing="evaluating")
        tests = accuracies(trainer.stage.eval().predictions, self.job.test_source(), self.job.device)
        return found | {"validation": progress.test}, dict(tests)

    def _load(self, planned: PlannedLoaded, stage: Stage) -> tuple[dict[str, Any], dict[str, Any]]:
        report = self.builder.reports[planned.name]
        left = f", left over: {', '.join(report.unexpected[:3])} …" if report.unexpected else ""
        self.session.display.note(
            f"{planned.name}  {counted(len(report.mapped), 'tensor')} of {planned.network} from {planned.file}{left}"
        )
        tests = accuracies(stage.eval().predictions, self.job.test_source(), self.job.device)
        return {"file": planned.file, "sha256": planned.sha256}, dict(tests)

    def _write_results(self, checkpoint: Path) -> None:
        self.results["metrics_bytes"] = self.log.size()
        write_json(self.folder / "results.json", self.results)
        remove(checkpoint)
        remove_shares(checkpoint)

    def _compare_with_teacher(self, planned: PlannedStage) -> None:
        teacher, network = self.earlier.networks.get("teacher"), self.earlier.networks[planned.name]
        if teacher is not None and teacher is not network:
            self.session.heartbeat.beat(doing="evaluating")
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
        if isinstance(stage, Mutual):
            stage.held_out = self.builder.held_out_source(planned)
        return Trainer(
            planned.name,
            stage,
            planned.training,
            self.builder.source_for(planned, stage),
            self.job.watching_source(),
            device=self.job.device,
            session=self.session,
            checkpoint=self._checkpoint(planned),
            log=self.log,
            title=self._title(planned),
            eval_every=self.job.recipe.eval_every,
            execution=self.job.execution,
            identity=self._identity(planned),
            seconds_after=lambda per_epoch: self.outlook.seconds_after(planned.name, per_epoch),
            watched="test" if self.job.data.validation is None else "validation",
            shelf=shelf,
        )

    def _identity(self, planned: PlannedStage) -> Identity:
        return stage_identity(self.job.recipe, planned, self.seed, self.job.data)

    def _take_up(self, planned: PlannedStage) -> None:
        """Loads what a finished stage saved: its networks and what it hands on."""
        then = self.results["stages"][planned.name]["identity"]
        self._identity(planned).refuse_changes(then, self.folder / "results.json")
        if planned.name in passing_on(self.job.course):
            file = self._passed_on(planned)
            self.earlier.passed_on[planned.name] = read_weights(file, known_digest(file))
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
        def save() -> None:
            self.digests[name] = save_network(self.folder / name, network, self.builder.description(stage))

        on_main(save)

    def _pass_on(self, planned: PlannedStage) -> None:
        file = self._passed_on(planned)
        self.digests[below(self.folder, file)] = write_weights(file, self.earlier.passed_on[planned.name])

    def _digests(self, planned: PlannedStage) -> dict[str, str]:
        """{file: SHA-256} of what the stage wrote; what an earlier call of the program wrote is read for it."""
        kept = kept_epochs(self.job.course, planned.name) | set(self.job.recipe.keep_epochs)
        files = [f"checkpoints/{planned.name}.safetensors"]
        for name in (planned.name, *(peer.name for peer in _peers(planned))):
            files += [f"{name}.safetensors", f"{name}-ema.safetensors"]
            files += [f"checkpoints/{name}@{epoch}.safetensors" for epoch in sorted(kept)]
        there = [file for file in files if is_file(self.folder / file)]
        return {file: self.digests.get(file) or sha256(self.folder / file) for file in there}


def _peers(planned: PlannedStage) -> tuple[Peer, ...]:
    return planned.peers if isinstance(planned, PlannedMutual) else ()


def _split_off_peers(planned: PlannedStage, stage: Stage, result: dict[str, Any]) -> dict[str, Any]:
    """Takes the tests of the networks that were trained beside the student out of its result; returns their results."""
    found = {}
    for peer in _peers(planned):
        own = {"network": peer.network, "parameters": count_parameters(stage.peers()[peer.name]), "best": {}}
        found[peer.name] = result | own | {"test": {peer.name: result["test"].pop(peer.name)}}
    return found


def count_parameters(network: Network) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
