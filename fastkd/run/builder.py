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
from fastkd.networks.grafts import aligned, graft
from fastkd.networks.supernet import Candidates
from fastkd.networks.uncut import Lacks
from fastkd.recipes.planned import (
    PlannedDataFree,
    PlannedDistillation,
    PlannedLoaded,
    PlannedMutual,
    PlannedPrestage,
    PlannedStage,
    PlannedStudentAware,
    PlannedSupervised,
    PlannedTraining,
)
from fastkd.recipes.recipe import TEACHING, GTNSettings, StageRecipe
from fastkd.run.description import Deployment, Description, Front, rebuilt
from fastkd.run.earlier import Earlier
from fastkd.run.job import EVALUATION_BATCH, Job
from fastkd.run.purpose import order_of, purpose_of, refuse_other_images, reorder
from fastkd.run.weights import WeightsFile
from fastkd.support import distributed
from fastkd.support.errors import UserError
from fastkd.support.plain import check_fields, to_plain
from fastkd.support.words import counted
from fastkd.synthesis.base import Feed, MadeFor, Synthesis
from fastkd.synthesis.kinds import synthesis_of
from fastkd.training.datafree import DataFree
from fastkd.training.general import GeneralTeacher
from fastkd.training.paths import PathSettings
from fastkd.training.stages import Distill, Mutual, Prestage, Stage, Supervised
from fastkd.training.student_aware import StudentAware
from fastkd.training.synchronised import synchronise


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
        return networks.build(name, num_classes=len(self.job.data.classes), image_size=self.job.recipe.image_size)

    def stage(self, planned: PlannedStage, earlier: Earlier) -> Stage:
        """Builds a stage and sets the random numbers that its training begins with, apart for each rank.

        A student and its control begin with the same weights and see the same batches: they differ by the teacher.
        """
        begins_as = planned.name if planned.role in TEACHING else "student"
        own_seed = zlib.crc32(f"{self.seed}/{begins_as}".encode())
        torch.manual_seed(own_seed)
        stage = BUILDERS[type(planned)](self, planned, earlier)
        stage.dropout_seed = own_seed
        if distributed.rank():
            torch.manual_seed(zlib.crc32(f"{self.seed}/{begins_as}/{distributed.rank()}".encode()))
        if isinstance(planned, PlannedTraining) and planned.training.sync_batchnorm:
            synchronise(stage, self.job.device)
        if isinstance(planned, PlannedTraining) and planned.training.shards:
            _check_shards(planned.training.shards, stage)
        return stage.to(self.job.device)

    def description(self, stage: PlannedStage | StageRecipe) -> Description:
        """What the weights file of a stage says of its network."""
        classes, recipe = len(self.job.data.classes), self.job.recipe
        purpose: dict[str, Any] = purpose_of(recipe, self.job.data)
        described = Description(stage.network, classes, recipe.image_size, **purpose)
        if isinstance(stage, PlannedLoaded) or (isinstance(stage, StageRecipe) and stage.training is None):
            return self._of_file(stage, described)
        if not isinstance(stage, PlannedDistillation | StageRecipe) or not stage.method:
            return described
        methods = split_methods(stage.method)
        changing = {name: to_plain(stage.settings[name]) for name in methods if find_method(name).changes_network()}
        if not changing:
            return described
        teachers = [recipe.stage(name.partition("@")[0]) for name in stage.teachers]
        of_teachers = tuple(self.description(teacher) for teacher in teachers if teacher is not None)
        return described._replace(deployment=Deployment(changing, of_teachers))

    def _of_file(self, stage: PlannedLoaded | StageRecipe, described: Description) -> Description:
        """What is said of a network that is loaded; what its file does not say is what it is used for here."""
        known = self.job.files.describe(Path(stage.file)) if stage.file else None
        if known is not None:
            mapped = ("classes", "num_classes")
            own = {name: value for name, value in known._asdict().items() if value is not None and name not in mapped}
            described = described._replace(**own)
        if stage.images is None:
            return described
        recipe, data, images = self.job.recipe, self.job.data, stage.images
        ours: Any = {"from_mean": recipe.mean or data.mean, "from_std": recipe.std or data.std}
        front = Front(images.image_size, images.mean or ours["from_mean"], images.std or ours["from_std"], **ours)
        return described._replace(
            image_size=recipe.image_size, mean=front.from_mean, std=front.from_std, crop=None, front=front
        )

    def source_for(self, planned: PlannedTraining, stage: Stage) -> Source:
        """The training batches of a stage, of the images that it makes or of the data set's."""
        if not isinstance(stage, DataFree):
            return self.train_source(planned, stage.views)
        return stage.synthesis.source(Feed(self.job.recipe.augmentation, stage.views, self._format()))

    def _format(self) -> Format:
        job = self.job
        in_half = job.execution.bfloat16 and job.device.type == "cuda"
        dtype = torch.bfloat16 if in_half else torch.float32
        return Format(dtype=dtype, channels_last=job.execution.channels_last)

    def train_source(self, planned: PlannedTraining, views: Views = ONE_VIEW) -> Source:
        """The training batches of a stage; views: those that the stage names."""
        job = self.job
        return training_source(
            self._training_data(planned),
            replace(job.feeding, format=self._format()),
            batch_size=planned.training.batch_size,
            augmentation=job.recipe.augmentation,
            seed=self.data_seed,
            drop_last=planned.training.drop_last,
            shards=planned.training.shards,
            views=views,
            distinct_epochs=None if planned.role in TEACHING else job.recipe.storing.store_epochs,
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
        return Supervised(self._beginning(planned, earlier), planned.name)

    def _beginning(self, planned: PlannedTraining, earlier: Earlier) -> Network:
        """The network that is trained, with the weights that its training begins with."""
        network = self.network(planned.network)
        if planned.begins:
            network.load_state_dict(earlier.networks[planned.begins].state_dict())
        elif planned.file:
            report = self._file(planned).begin(network, planned.prefix)
            count = counted(len(report.mapped), "tensor")
            self.notes.append(f"begins with {count} of {planned.file}; {len(report.left)} of the classifier are new")
        return network

    def _file(self, planned: PlannedLoaded | PlannedTraining) -> WeightsFile:
        """The file of a stage, if it is the one that the run began with."""
        path = Path(planned.file)
        if not self.job.files.has(path):
            raise UserError(f"the file of the {planned.name}, {path}, is gone")
        file = self.job.files.read(path)
        if planned.sha256 and file.sha256 != planned.sha256:
            raise UserError(f"the file of the {planned.name}, {path}, is not the one the run began with")
        return file

    def _loaded(self, planned: PlannedLoaded, earlier: Earlier) -> Stage:
        path, file, job = Path(planned.file), self._file(planned), self.job
        about = self._as_it_was_trained(planned, file)
        if file.description is not None and not planned.any_images and planned.images is None:
            ours: dict[str, Any] = purpose_of(job.recipe, job.data)
            refuse_other_images(about, about._replace(image_size=job.recipe.image_size, **ours), path)
        order = order_of(about, job.data, path)
        network = rebuilt(about)
        self.reports[planned.name] = file.fill(network, planned.prefix)
        if order is not None:
            reorder(network, order, path)
            others = "other classes" if about.num_classes != len(order) else "its classes in another order"
            self.notes.append(f"{path} has {others} than the data: mapped by name")
        return Supervised(network, planned.name)

    def _as_it_was_trained(self, planned: PlannedLoaded, file: WeightsFile) -> Description:
        """What a loaded network is, before its classes are mapped to those of the data."""
        about = self.description(planned)
        if (known := file.description) is not None:
            about = about._replace(num_classes=known.num_classes, classes=known.classes)
        if planned.classes:
            about = about._replace(num_classes=len(planned.classes), classes=planned.classes)
        return about

    def _student_aware(self, planned: PlannedStudentAware, earlier: Earlier) -> Stage:
        teacher, sftn, gtn = self._beginning(planned, earlier), planned.sftn, planned.gtn
        branch_network = self.network(sftn.network) if gtn is None else self._supernet(sftn.network, gtn)
        _refuse_uncut(teacher, branch_network)
        blocks, starts = sftn.blocks, sftn.starts
        if gtn is not None and (blocks, starts) == (None, None):
            blocks, starts = aligned(len(teacher.blocks), len(branch_network.blocks))
        branches = graft(
            teacher,
            branch_network,
            self.job.recipe.image_size,
            blocks=blocks,
            starts=starts,
            names=(f"the teacher {planned.network}", sftn.network),
        )
        of_stage = ("network", "blocks", "starts", "frozen_epochs")
        how: dict[str, Any] = {name: value for name, value in vars(sftn).items() if name not in of_stage}
        loss, frozen = SFTNLoss(**how), sftn.frozen_epochs
        if gtn is None:
            return StudentAware(teacher, branches, loss, frozen_epochs=frozen)
        paths = PathSettings(
            learned=gtn.paths == "learned",
            shared=gtn.shared_path,
            tested=gtn.tested,
            baseline_decay=gtn.baseline_decay,
        )
        of_data = {"seed": self.seed, "classes": len(self.job.data.classes)}
        return GeneralTeacher(teacher, branches, loss, paths, masks=gtn.masks, frozen_epochs=frozen, **of_data)

    def _supernet(self, name: str, gtn: GTNSettings) -> Network:
        how = Candidates(identity=gtn.identity, zeros=gtn.zeros, shared_depths=gtn.shared_depths)
        return networks.build_supernet(name, how, num_classes=len(self.job.data.classes))

    def _distill(self, planned: PlannedDistillation, earlier: Earlier) -> Stage:
        student = self._beginning(planned, earlier)
        frozen, methods, in_turn = self._teachers_and_methods(planned, student, earlier)
        epochs = planned.training.epochs if in_turn else 0
        stage = Distill(student, frozen, methods, planned.name, epochs_in_turn=epochs)
        if not any(parameter.requires_grad for parameter in stage.parameters()):
            raise UserError(f"--method {planned.method} trains nothing: join a method with a loss of its own to it")
        return self._begin(stage, planned, earlier)

    def _data_free(self, planned: PlannedDataFree, earlier: Earlier) -> Stage:
        if distributed.world_size() > 1:
            raise UserError(
                f"the images of the {planned.name} are made in one process: start it without torchrun; the trainings "
                "of a table are shared out where `fastkd.reproduce` is started several times"
            )
        job, student = self.job, self._beginning(planned, earlier)
        frozen, methods, _ = self._teachers_and_methods(planned, student, earlier)
        # Of float32 and not folded: the statistics of its BatchNorms are what images are made by.
        teacher = frozen_copy(earlier.teacher(planned.teachers[0]), job.recipe.image_size, fold=False).to(job.device)

        def make(deployed: Network) -> Synthesis:
            made_for = MadeFor(
                teacher=teacher,
                student=deployed,
                mean=job.recipe.mean or job.data.mean,
                std=job.recipe.std or job.data.std,
                image_size=job.recipe.image_size,
                classes=job.data.classes,
                epochs=planned.training.epochs,
                batch_size=planned.training.batch_size,
                seed=self.seed,
                data_seed=self.data_seed,
                device=job.device,
            )
            return synthesis_of(planned.synthesis, made_for)

        return DataFree(student, frozen[0], methods, planned.name, make=make)

    def _prestage(self, planned: PlannedPrestage, earlier: Earlier) -> Stage:
        student = self._beginning(planned, earlier)
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
        labels, steps = self._labels_and_steps(planned, data)
        context = Context(
            student=student,
            teachers=tuple(teachers),
            student_shapes=output_shapes(student, size),
            teacher_shapes=tuple(output_shapes(teacher, size) for teacher in teachers),
            classes=len(data.classes),
            samples=len(labels),
            labels=labels,
            batch_size=training.images_at_once(distributed.world_size()),
            steps_per_epoch=steps,
            seed=self.seed,
        )
        return {name: _method(name, planned, context) for name in split_methods(planned.method)}

    def _labels_and_steps(self, planned: PlannedTraining, data: DataSet) -> tuple[torch.Tensor, int]:
        """The labels of what a stage trains on, and the steps of its epoch. Images that are made have no labels: zeros
        stand for them."""
        training = planned.training
        if isinstance(planned, PlannedDataFree):
            synthesis = planned.synthesis
            return torch.zeros(synthesis.images_at(training.epochs - 1), dtype=torch.int64), synthesis.steps_per_epoch
        labels = data.train.labels
        how = {"drop_last": training.drop_last, "world_size": distributed.world_size()}
        return labels, Order(len(labels), training.batch_size, self.data_seed, **how, shards=training.shards).steps


BUILDERS: dict[type[PlannedStage], Callable[[Builder, Any, Earlier], Stage]] = {
    PlannedLoaded: Builder._loaded,
    PlannedSupervised: Builder._supervised,
    PlannedStudentAware: Builder._student_aware,
    PlannedDistillation: Builder._distill,
    PlannedDataFree: Builder._data_free,
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


def _check_shards(shards: int, stage: Stage) -> None:
    """Raises UserError where the batches of a stage cannot be taken in so many shards by the processes of this run."""
    if shards % distributed.world_size():
        raise UserError(f"--shards {shards} does not divide by {distributed.world_size()} processes")
    if stage.gate is not None:
        raise UserError("--shards: a gate compares gradients of whole batches: leave --shards or the gate out")


def _refuse_uncut(*networks: Network) -> None:
    """Raises UserError where branches cannot be grafted: a network is not cut into blocks."""
    for network in networks:
        try:
            len(network.blocks)
        except Lacks as lacks:
            raise UserError(f"branches (--teacher-training sftn): {lacks}") from lacks


def _method(name: str, planned: PlannedDistillation | PlannedMutual, context: Context) -> Method:
    kind, training, count = find_method(name), planned.training, len(context.teachers)
    least, most = kind.teachers_needed
    if count < least or (most is not None and count > most):
        wanted = f"{least}" if most == least else f"at least {least}" if most is None else f"{least} to {most}"
        raise UserError(f"{name} has {wanted} teacher{'s' * ((most or least) != 1)}, got {count}")
    if kind.fixed_batch_size and not training.drop_last and context.samples % training.batch_size:
        raise UserError(f"{name}: every batch has the same size: it needs --drop-last on")
    parts = training.shards or distributed.world_size()
    if kind.fixed_batch_size and training.batch_size % parts:
        batch, of = counted(training.batch_size, "image"), "shards" if training.shards else "processes"
        raise UserError(f"{name}: every batch has the same size, but {batch} do not divide by {parts} {of}")
    check_fields(planned.settings[name])  # a method from elsewhere has settings that check nothing
    try:
        return kind(planned.settings[name], context)
    except Lacks as lacks:
        raise UserError(f"{name}: {lacks}") from lacks
