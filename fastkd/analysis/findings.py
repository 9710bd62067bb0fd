"""What tables want to know of finished trainings: each kind of `Finding` and how it is measured."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fastkd.analysis.corruptions import Right, by_level, grand_mean, means_by_level
from fastkd.analysis.opened import Opened, normalising_as_in_training, open_resized
from fastkd.analysis.probe import Probe
from fastkd.data import DataSet
from fastkd.losses.features import mean_squared_error
from fastkd.methods.reused import Projections
from fastkd.networks.base import Output
from fastkd.recipes.findings import Aligned, Corrupted, Finding, Logged, Probed, Said
from fastkd.recipes.recipe import Recipe
from fastkd.run import load_network, open_data, open_run
from fastkd.support.errors import UserError
from fastkd.support.log import read_metrics
from fastkd.support.pooling import pooled_to
from fastkd.training.likelihood import Likelihood

Found = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """The network of a finished training, and where data lie."""

    folder: Path
    """Of its run."""
    stage: str
    data: Mapping[str, str]
    """`NAME:PATH` of every data set at hand, by its name."""
    device: torch.device
    tell: Callable[[str], None] = lambda line: None

    def spec(self, name: str) -> str:
        """Where a data set lies; empty for one that needs no path."""
        if name not in self.data:
            raise UserError(f"no --data {name}=PATH was given")
        return self.data[name]

    def opened(self, *names: str, **how: Any) -> Opened:
        """Networks of the run, by default the one alone, on its own data."""
        own = open_run(self.folder).data.partition(":")[0]
        return Opened.of(self.folder, self.device, data=self.data.get(own, own), names=names or (self.stage,), **how)


def measured(finding: Finding, subject: Subject) -> Found:
    """What a finding finds, in plain types. Raises UserError where it cannot be measured."""
    return FINDERS[type(finding)](finding, subject)


def _probed(finding: Probed, subject: Subject) -> Found:
    recipe = normalising_as_in_training(open_run(subject.folder), subject.folder)
    network = load_network(subject.folder, subject.stage).to(subject.device)
    data = _data_of(finding, recipe, subject)
    batch = min(finding.settings.batch_size, len(data.train))  # of a set that --limit-train made smaller
    settings = replace(finding.settings, batch_size=batch)
    return Probe(network, recipe, data, subject.device, settings).run(subject.tell)


def _data_of(finding: Probed, recipe: Recipe, subject: Subject) -> DataSet:
    """What the classifier learns; --limit-train holds for it, too."""
    if finding.data:
        return open_resized(recipe, subject.spec(finding.data), limit_train=recipe.limit_train)
    own = recipe.data.partition(":")[0]
    return open_data(replace(recipe, data=subject.data.get(own, own)), subject.folder)


def _corrupted(finding: Corrupted, subject: Subject) -> Found:
    """{"table": `ByLevel`, "means": at each severity, "mean": of these}."""
    opened = Opened.of(subject.folder, subject.device, data=subject.spec(finding.data), names=(subject.stage,))
    if not opened.data.parts:
        raise UserError(f"{subject.spec(finding.data)}: its rows are not five severities of as many images")
    right = Right(len(opened.data.test.labels))
    for batch in opened.batches():
        right.add(opened.networks[subject.stage](batch.images[0]).logits, batch)
    table = by_level(right.of_image, opened.data.parts)
    return {"table": table, "means": means_by_level(table), "mean": grand_mean(table)}


def _said(finding: Said, subject: Subject) -> Found:
    opened, found = subject.opened(split=finding.split), Likelihood(subject.device)
    for batch in opened.batches():
        found.add(opened.networks[subject.stage](batch.images[0]).logits, batch.labels)
    return found.read()


def _aligned(finding: Aligned, subject: Subject) -> Found:
    """{"loss": the mean over the test images of the mean squared error between what the reused classifier reads and
    what it was trained on: maps, or embeddings where the projector is one of these}."""
    opened = subject.opened("teacher", subject.stage)
    teacher, student = opened.networks["teacher"], opened.networks[subject.stage]
    total, count = torch.zeros((), dtype=torch.float64, device=subject.device), 0
    of_vectors = any(isinstance(part, Projections) for part in student.head.pool.modules())
    for batch in opened.batches():
        ours, theirs = student(batch.images[0]), teacher(batch.images[0])
        pair = (ours.embedding, theirs.embedding) if of_vectors else _maps(ours, theirs)
        total += mean_squared_error(*(x.double() for x in pair)) * len(batch.labels)
        count += len(batch.labels)
    return {"loss": (total / count).item()}


def _maps(student: Output, teacher: Output) -> tuple[torch.Tensor, torch.Tensor]:
    """The maps of both at the student's size, to which the teacher's is pooled where it is larger."""
    if student.final_map.shape[1] != teacher.final_map.shape[1]:
        raise UserError("the student's map has other channels than the teacher's: no projector stands behind it")
    return student.final_map, pooled_to(teacher.final_map, student.final_map.shape[2:])


def _logged(finding: Logged, subject: Subject) -> Found:
    """{"epoch", "top1", "best" in percent, "train": the terms of the loss in that epoch}."""
    name = finding.network or subject.stage
    log = read_metrics(subject.folder / "metrics.jsonl")
    records = [record for record in log if record.get("stage") == subject.stage and "test" in record]
    last = max((record["epoch"] for record in records), default=0)
    tested = [record for record in records if name in record["test"]]
    until = [record for record in tested if record["epoch"] <= max(1, round(last * finding.share))] or tested[:1]
    if not until:
        raise UserError(f"{subject.folder} has no test of {name!r} in its log")
    shares = [100 * record["test"][name]["top1"] / record["test"][name]["samples"] for record in until]
    return {"epoch": until[-1]["epoch"], "top1": shares[-1], "best": max(shares), "train": until[-1]["train"]}


FINDERS: dict[type[Finding], Callable[[Any, Subject], Found]] = {
    Probed: _probed,
    Corrupted: _corrupted,
    Said: _said,
    Aligned: _aligned,
    Logged: _logged,
}
"""How each kind is measured; `Pruned` needs no training, see `pruning_of`."""
