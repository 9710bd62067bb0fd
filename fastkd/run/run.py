"""Carries out a job: its stages in order, in a run folder.

With one seed the folder itself is the run; with several each seed has a run of its own in `seed-N`. With several
processes every rank carries it out and rank 0 writes.
"""

import contextlib
import dataclasses
import time
from pathlib import Path
from typing import Any

import torch

from fastkd.networks.base import Network
from fastkd.ops import select
from fastkd.recipes.course import kept_epochs, passing_on
from fastkd.recipes.planned import (
    Peer,
    PlannedLoaded,
    PlannedMutual,
    PlannedPrestage,
    PlannedStage,
    PlannedTraining,
)
from fastkd.recipes.recipe import StageRecipe, recipe_to_plain
from fastkd.run.builder import Builder
from fastkd.run.earlier import Earlier
from fastkd.run.folder import below, held, known_digest, read_results
from fastkd.run.identity import stage_identity
from fastkd.run.job import Job
from fastkd.run.outlook import Outlook
from fastkd.run.trial import refuse_image_size, try_smallest_pass
from fastkd.run.weights import find_weights, open_network, save_network
from fastkd.support import environment
from fastkd.support.distributed import first_of_all, is_main, local_processes, on_main, wait_for_all
from fastkd.support.errors import UserError
from fastkd.support.files import make_folder, read_json, read_weights, remove, sha256, write_json, write_weights
from fastkd.support.interrupt import Stopped
from fastkd.support.log import MetricsLog, import_tensorboard
from fastkd.support.paths import is_file, is_there
from fastkd.support.session import Session
from fastkd.training.evaluation import accuracies, similarity
from fastkd.training.execution import set_up
from fastkd.training.identity import Identity
from fastkd.training.stages import Stage
from fastkd.training.trainer import Trainer


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
            refuse_image_size(planned, stage, job.recipe.image_size)
            try_smallest_pass(planned, stage, job)
    if tensorboard:
        import_tensorboard()


def carry_out(job: Job, folder: Path, session: Session) -> list[dict[str, Any]]:
    """Runs what is left to do in the folder and returns the results of every seed, see `Run.results`."""
    recipe = job.recipe
    environment.set_threads(recipe.threads, local_processes())
    set_up(job.execution, job.device)
    seeds = range(recipe.seed, recipe.seed + recipe.seeds)
    folders = [folder if recipe.seeds == 1 else folder / f"seed-{seed}" for seed in seeds]
    with held([folder, *folders], unlocked=session.unlocked):
        if is_main():
            _write_environment(folder, job)
        results, outlook = [], Outlook(job.course, recipe.seeds)
        for seed, own in zip(seeds, folders, strict=True):
            if is_main() and recipe.seeds > 1:
                write_json(own / "recipe.json", recipe_to_plain(dataclasses.replace(recipe, seed=seed, seeds=1)))
            results.append(Run(job, seed, own, session, outlook).carry_out())
        return results


def _write_environment(folder: Path, job: Job) -> None:
    """Writes env.json: what this call of the program runs on, and the calls before it."""
    path = folder / "env.json"
    before = []
    if is_there(path):
        with contextlib.suppress(UserError):  # what it tells is no reason not to go on
            before = environment.calls(read_json(path))
    how = {"execution": job.execution._asdict(), "operations": select.choices(job.device.type)}
    write_json(path, environment.this_call() | {"earlier": before} | environment.collect() | how)


class Run:
    """One seed of a job, in its own folder."""

    def __init__(self, job: Job, seed: int, folder: Path, session: Session, outlook: Outlook | None = None):
        self.job, self.seed, self.folder, self.session = job, seed, folder, session
        self.builder, self.earlier = Builder(job, seed), Earlier(job.course)
        self.digests: dict[str, str] = {}
        """{weights file, below the folder: SHA-256 of its bytes}, of those that this call of the program wrote."""
        self.outlook = outlook or Outlook(job.course, seeds=1)
        self.results: dict[str, Any] = {"seed": self.seed, "stages": {}, "similarity": {}}
        """{"seed", "stages": {name: {"network", "parameters", "epochs", "train", "test", "best", "seconds", …}},
        "similarity": {name: {"kl", "cka", "agreement"}}}, as it stands in results.json."""

    def carry_out(self) -> dict[str, Any]:
        """Trains every stage that is not finished yet."""
        self.earlier.snapshots = self.folder / "checkpoints"
        if is_main():
            make_folder(self.earlier.snapshots, own=True)
        wait_for_all()
        if is_there(self.folder / "results.json"):
            self.results = read_results(self.folder / "results.json")
        log = MetricsLog(self.folder / "metrics.jsonl", tensorboard=self.session.tensorboard and is_main())
        for planned in self.job.course:
            if planned.name in self.results["stages"]:
                self._take_up(planned)
            else:
                self._carry_out_stage(planned, log)
            self.outlook.finished(planned.name, self.results["stages"][planned.name].get("seconds", 0.0))
        return self.results

    def dry_run(self) -> list[dict[str, Any]]:
        """Takes a few steps of every stage, with an untrained teacher; returns what they took and writes nothing."""
        rows = []
        for planned in self.job.course:
            stage = self.builder.stage(planned, self.earlier)
            self.earlier.add(planned, stage)
            if isinstance(planned, PlannedTraining):
                rows.append({"stage": planned.name, "network": planned.network} | self._try(planned, stage))
        return rows

    def _try(self, planned: PlannedTraining, stage: Stage) -> dict[str, Any]:
        """Takes a few steps of a stage; returns their loss, speed and memory."""
        trainer = self._trainer(planned, stage, MetricsLog(Path("none")))
        if self.job.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.job.device)
        trainer.warm_up()
        trainer.some_steps()
        started = time.perf_counter()
        loss, steps = trainer.some_steps()
        seconds = (time.perf_counter() - started) / steps
        trainer.refuse_what_is_not_finite()
        return {
            "parameters": count_parameters(stage.network),
            "trained_parameters": sum(p.numel() for p in stage.parameters() if p.requires_grad),
            "loss": loss,
            "images_per_second": planned.training.batch_size / seconds,
            "peak_bytes": environment.peak_memory(self.job.device),
        }

    def _carry_out_stage(self, planned: PlannedStage, log: MetricsLog) -> None:
        checkpoint = self._checkpoint(planned)
        if is_main() and not is_there(checkpoint):
            self._drop_records_of_a_killed_stage(log)
        stage = self.builder.stage(planned, self.earlier)
        for note in (*stage.notes, *self.builder.notes):
            self.session.display.note(f"{self._title(planned)}  {note}")
        self.builder.notes.clear()
        if isinstance(planned, PlannedTraining):
            measured, tests = self._train(planned, stage, log)
        else:
            assert isinstance(planned, PlannedLoaded)
            measured, tests = self._load(planned, stage)
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
        on_main(lambda: self._write_results(log, checkpoint))
        interrupt = self.session.interrupt
        interrupt.requested = first_of_all(interrupt.requested)
        if interrupt.requested and planned is not self.job.course[-1]:
            raise Stopped(f"stopped by {interrupt.requested} after {planned.name}")

    def _drop_records_of_a_killed_stage(self, log: MetricsLog) -> None:
        """Cuts the log back to the last finished stage: one that was killed has left no checkpoint to go on from."""
        if damage := log.cut(self.results.get("metrics_bytes", 0)):
            self.session.display.note(damage)

    def _train(self, planned: PlannedTraining, stage: Stage, log: MetricsLog) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the training took, and what its networks reach on the test set."""
        trainer = self._trainer(planned, stage, log)
        progress = trainer.fit(after_epoch=lambda epoch: self._keep(planned, stage, epoch))
        if trainer.step.average is not None:
            self._save_network(f"{planned.name}-ema.safetensors", planned, trainer.step.average.network)
        names = ("best", "seconds", "starting_seconds")
        return {"epochs": progress.epoch, **{name: getattr(progress, name) for name in names}}, progress.test

    def _load(self, planned: PlannedLoaded, stage: Stage) -> tuple[dict[str, Any], dict[str, Any]]:
        report = self.builder.reports[planned.name]
        left = f", left over: {', '.join(report.unexpected[:3])} …" if report.unexpected else ""
        self.session.display.note(
            f"{planned.name}  {len(report.mapped)} tensors of {planned.network} from {planned.file}{left}"
        )
        tests = accuracies(stage.eval().predictions, self.job.test_source(), self.job.device)
        return {"file": planned.file, "sha256": planned.sha256}, dict(tests)

    def _write_results(self, log: MetricsLog, checkpoint: Path) -> None:
        self.results["metrics_bytes"] = log.size()
        write_json(self.folder / "results.json", self.results)
        remove(checkpoint)

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

    def _trainer(self, planned: PlannedTraining, stage: Stage, log: MetricsLog) -> Trainer:
        return Trainer(
            planned.name,
            stage,
            planned.training,
            self.builder.train_source(planned, stage.views),
            self.job.test_source(),
            device=self.job.device,
            session=self.session,
            checkpoint=self._checkpoint(planned),
            log=log,
            title=self._title(planned),
            eval_every=self.job.recipe.eval_every,
            execution=self.job.execution,
            identity=self._identity(planned),
            seconds_after=lambda per_epoch: self.outlook.seconds_after(planned.name, per_epoch),
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

    def _keep(self, planned: PlannedStage, stage: Stage, epoch: int) -> None:
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
