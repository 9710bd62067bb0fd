"""Builds what a planned stage trains: networks, methods, batches."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fastkd import networks
from fastkd.data import ONE_VIEW, DataSet, Format, Source, Views, divided, evaluation_source, training_source
from fastkd.data.order import Order
from fastkd.losses import SFTNLoss
from fastkd.methods import Context, Method, find_method, split_methods
from fastkd.networks.base import Network, output_shapes
from fastkd.networks.checkpoints import Report
from fastkd.networks.folding import frozen_copy, in_bfloat16
from fastkd.networks.grafts import graft
from fastkd.recipes.planned import (
    PlannedDistillation,
    PlannedLoaded,
    PlannedMutual,
    PlannedPrestage,
    PlannedStage,
    PlannedStudentAware,
    PlannedSupervised,
    PlannedTraining,
)
from fastkd.recipes.recipe import StageRecipe
from fastkd.run.description import Deployment, Description, rebuilt
from fastkd.run.earlier import Earlier
from fastkd.run.job import EVALUATION_BATCH, Job
from fastkd.run.purpose import order_of, purpose_of, refuse_other_images, reorder
from fastkd.support import distributed
from fastkd.support.errors import UserError
from fastkd.support.paths import is_file
from fastkd.support.plain import check_fields, to_plain
from fastkd.support.words import counted
from fastkd.training.stages import Distill, Mutual, Prestage, Stage, StudentAware, Supervised


class Builder:
    """Builds the stages of one seed of a job."""

    def __init__(self, job: Job, seed: int):
        self.job, self.seed = job, seed
        self.data_seed = seed if job.recipe.data_seed is None else job.recipe.data_seed
        self.reports: dict[str, Report] = {}
        """What became of the tensors of each file that was loaded, by the stage's name."""
        self.notes: list[str] = []
        """What a user should know of the files that were loaded."""

    def network(self, name: str) -> Network:
        return networks.build(name, num_classes=len(self.job.data.classes))

    def stage(self, planned: PlannedStage, earlier: Earlier) -> Stage:
        """Builds a stage and sets the random numbers that its training begins with, apart for each rank.

        A student and its control begin with the same weights and see the same batches: they differ by the teacher.
        """
        begins_as = planned.name if planned.role == "teacher" else "student"
        torch.manual_seed(zlib.crc32(f"{self.seed}/{begins_as}".encode()))
        stage = BUILDERS[type(planned)](self, planned, earlier)
        if distributed.rank():
            torch.manual_seed(zlib.crc32(f"{self.seed}/{begins_as}/{distributed.rank()}".encode()))
        if isinstance(planned, PlannedTraining) and planned.training.sync_batchnorm:
            stage = self._synchronised(stage)
        return stage.to(self.job.device)

    def description(self, stage: PlannedStage | StageRecipe) -> Description:
        """What the weights file of a stage says of its network."""
        classes, recipe = len(self.job.data.classes), self.job.recipe
        purpose: dict[str, Any] = purpose_of(recipe, self.job.data)
        described = Description(stage.network, classes, recipe.image_size, **purpose)
        file = getattr(stage, "file", "")
        known = self.job.files.describe(Path(file)) if file else None
        if known is not None:  # what it does not say is what it is used for here
            own = {name: value for name, value in known._asdict().items() if value is not None and name != "classes"}
            return described._replace(**own)
        if not isinstance(stage, PlannedDistillation | StageRecipe) or not stage.method:
            return described
        methods = split_methods(stage.method)
        changing = {name: to_plain(stage.settings[name]) for name in methods if find_method(name).changes_network()}
        if not changing:
            return described
        teachers = [recipe.stage(name.partition("@")[0]) for name in stage.teachers]
        of_teachers = tuple(self.description(teacher) for teacher in teachers if teacher is not None)
        return described._replace(deployment=Deployment(changing, of_teachers))

    def train_source(self, planned: PlannedTraining, views: Views = ONE_VIEW) -> Source:
        """The training batches of a stage; views: those that the stage names."""
        job = self.job
        in_half = job.execution.bfloat16 and job.device.type == "cuda"
        dtype = torch.bfloat16 if in_half else torch.float32
        return training_source(
            self._training_data(planned),
            replace(job.feeding, format=Format(dtype=dtype, channels_last=job.execution.channels_last)),
            batch_size=planned.training.batch_size,
            augmentation=job.recipe.augmentation,
            seed=self.data_seed,
            drop_last=planned.training.drop_last,
            views=views,
            distinct_epochs=None if planned.role == "teacher" else job.recipe.storing.store_epochs,
        )

    def held_out_source(self, planned: PlannedTraining) -> Source | None:
        """The images that a stage keeps from its training to weigh its networks by: the same in every process."""
        job, share = self.job, _held_out(planned)
        if not share:
            return None
        alone = replace(job.feeding, rank=0, world_size=1)
        _, data = divided(job.data, share)
        crop = job.recipe.augmentation.evaluated
        source = evaluation_source(data, alone, batch_size=EVALUATION_BATCH, crop=crop)
        source.prepare.to(job.device)
        return source

    def _training_data(self, planned: PlannedTraining) -> DataSet:
        share = _held_out(planned)
        return divided(self.job.data, share)[0] if share else self.job.data

    def _supervised(self, planned: PlannedSupervised, earlier: Earlier) -> Stage:
        return Supervised(self.network(planned.network), planned.name)

    def _loaded(self, planned: PlannedLoaded, earlier: Earlier) -> Stage:
        path = Path(planned.file)
        if not is_file(path):
            raise UserError(f"the file of the {planned.name}, {path}, is gone")
        file = self.job.files.read(path)
        if planned.sha256 and file.sha256 != planned.sha256:
            raise UserError(f"the file of the {planned.name}, {path}, is not the one the run began with")
        order = None
        if (known := file.description) is not None:
            order = order_of(known, self.job.data, path)
            if not planned.any_images:
                ours: dict[str, Any] = purpose_of(self.job.recipe, self.job.data)
                refuse_other_images(known, known._replace(image_size=self.job.recipe.image_size, **ours), path)
        network = rebuilt(self.description(planned))
        self.reports[planned.name] = file.fill(network, planned.prefix)
        if order is not None:
            reorder(network, order, path)
            self.notes.append(f"the classes of {path} are in another order than those of the data: mapped by name")
        return Supervised(network, planned.name)

    def _student_aware(self, planned: PlannedStudentAware, earlier: Earlier) -> Stage:
        teacher, sftn = self.network(planned.network), planned.sftn
        branches = graft(
            teacher,
            self.network(sftn.network),
            self.job.recipe.image_size,
            blocks=sftn.blocks,
            names=(f"the teacher {planned.network}", sftn.network),
        )
        how: dict[str, Any] = {name: value for name, value in vars(sftn).items() if name not in ("network", "blocks")}
        return StudentAware(teacher, branches, SFTNLoss(**how))

    def _distill(self, planned: PlannedDistillation, earlier: Earlier) -> Stage:
        student = self.network(planned.network)
        frozen, methods, in_turn = self._teachers_and_methods(planned, student, earlier)
        epochs = planned.training.epochs if in_turn else 0
        stage = Distill(student, frozen, methods, planned.name, epochs_in_turn=epochs)
        if not any(parameter.requires_grad for parameter in stage.parameters()):
            raise UserError(f"--method {planned.method} trains nothing: join a method with a loss of its own to it")
        return self._begin(stage, planned, earlier)

    def _prestage(self, planned: PlannedPrestage, earlier: Earlier) -> Stage:
        student = self.network(planned.network)
        frozen, methods, _ = self._teachers_and_methods(planned, student, earlier)
        stage = Prestage(student, frozen, methods, planned.name, method=planned.prestage)
        return self._begin(stage, planned, earlier)

    def _mutual(self, planned: PlannedMutual, earlier: Earlier) -> Stage:
        together = {planned.name: self.network(planned.network)}
        for peer in planned.peers:
            torch.manual_seed(zlib.crc32(f"{self.seed}/{peer.name}".encode()))
            together[peer.name] = self.network(peer.network)
        student, *others = together.values()
        method = self._methods(planned, student, others)[planned.method]
        epochs = planned.training.epochs
        for stage in self.job.recipe.stages:
            own = stage.training.epochs if stage.training else 0
            if stage.name in together and (stage.sftn is not None or own not in (0, epochs)):
                how = counted(epochs, "epoch") + (" and no branches" if stage.sftn is not None else "")
                method.notes.append(f"{planned.method}: the {stage.name} learns together with the student: {how}")
        return Mutual(together, method, [1.0, *(peer.lr_factor for peer in planned.peers)])

    def _begin(self, stage: Distill, planned: PlannedDistillation, earlier: Earlier) -> Distill:
        """Loads what earlier stages pass on to this one; returns it."""
        for name in planned.after:
            stage.take_over(earlier.passed_on[name])
        return stage

    def _teachers_and_methods(
        self, planned: PlannedDistillation, student: Network, earlier: Earlier
    ) -> tuple[list[Network], dict[str, Method], bool]:
        """The frozen teachers, the methods, and whether the teachers are waypoints."""
        job = self.job
        teachers = [earlier.teacher(name).to(job.device) for name in planned.teachers]
        in_turn = _in_turn(planned, teachers)
        methods = self._methods(planned, student, teachers[-1:] if in_turn else teachers)
        # Folded, a teacher could not normalise by the statistics of a batch.
        fold = job.execution.fold and all(method.teacher_norm == "running" for method in methods.values())
        frozen = [frozen_copy(teacher, job.recipe.image_size, fold=fold) for teacher in teachers]
        if job.execution.bfloat16 and job.device.type == "cuda":
            frozen = [in_bfloat16(teacher) for teacher in frozen]  # else autocast casts its weights every step
        return frozen, methods, in_turn

    def _methods(
        self, planned: PlannedDistillation | PlannedMutual, student: Network, teachers: Sequence[Network]
    ) -> dict[str, Method]:
        size, data, training = self.job.recipe.image_size, self._training_data(planned), planned.training
        labels, processes = data.train.labels, distributed.world_size()
        whole, drop_last = training.batch_size, training.drop_last
        order = Order(len(labels), whole, self.data_seed, drop_last=drop_last, world_size=processes)
        context = Context(
            student=student,
            teachers=tuple(teachers),
            student_shapes=output_shapes(student, size),
            teacher_shapes=tuple(output_shapes(teacher, size) for teacher in teachers),
            classes=len(data.classes),
            samples=len(labels),
            labels=labels,
            batch_size=training.batch_size // processes // training.accumulate,
            steps_per_epoch=order.steps,
            seed=self.seed,
        )
        return {name: _method(name, planned, context) for name in split_methods(planned.method)}

    def _synchronised(self, stage: Stage) -> Stage:
        if self.job.device.type != "cuda":
            raise UserError("--sync-batchnorm on: torch synchronises BatchNorm on GPUs only")
        converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(stage)
        assert isinstance(converted, Stage)
        return converted


BUILDERS: dict[type[PlannedStage], Callable[[Builder, Any, Earlier], Stage]] = {
    PlannedLoaded: Builder._loaded,
    PlannedSupervised: Builder._supervised,
    PlannedStudentAware: Builder._student_aware,
    PlannedDistillation: Builder._distill,
    PlannedPrestage: Builder._prestage,
    PlannedMutual: Builder._mutual,
}
"""The method that builds each kind of stage."""


def _in_turn(planned: PlannedDistillation, teachers: Sequence[Network]) -> bool:
    """Whether `teachers` are snapshots of one training, to be followed one after the other (RCO)."""
    methods = split_methods(planned.method)
    if len(teachers) < 2 or not any(find_method(name).waypoints(planned.settings[name]) for name in methods):
        return False
    if len({tuple(value.shape for value in teacher.state_dict().values()) for teacher in teachers}) > 1:
        raise UserError(f"{planned.method}: the anchors are one network at several times, not several networks")
    return True


def _held_out(planned: PlannedTraining) -> float:
    """The share of the training images that a stage does not train on."""
    if not isinstance(planned, PlannedMutual):
        return 0.0
    return find_method(planned.method).held_out(planned.settings[planned.method])


def _method(name: str, planned: PlannedDistillation | PlannedMutual, context: Context) -> Method:
    kind, training, count = find_method(name), planned.training, len(context.teachers)
    least, most = kind.teachers_needed
    if count < least or (most is not None and count > most):
        wanted = f"{least}" if most == least else f"at least {least}" if most is None else f"{least} to {most}"
        raise UserError(f"{name} has {wanted} teacher{'s' * ((most or least) != 1)}, got {count}")
    if kind.fixed_batch_size and not training.drop_last and context.samples % training.batch_size:
        raise UserError(f"{name}: every batch has the same size: it needs --drop-last on")
    check_fields(planned.settings[name])  # a method from elsewhere has settings that check nothing
    return kind(planned.settings[name], context)
