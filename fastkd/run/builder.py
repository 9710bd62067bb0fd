"""From a recipe to what is trained: networks, stages, batches."""

import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fastkd import networks
from fastkd.data import (
    ONE_VIEW,
    DataSet,
    Format,
    Source,
    Views,
    evaluation_source,
    is_resident,
    open_dataset,
    training_source,
)
from fastkd.data.order import Order
from fastkd.losses import SFTNLoss
from fastkd.methods import Context, Method, find_method, split_methods
from fastkd.networks.base import Network, output_shapes
from fastkd.networks.checkpoints import Report, load_weights
from fastkd.networks.folding import frozen_copy, in_bfloat16
from fastkd.networks.grafts import graft
from fastkd.recipes.course import course
from fastkd.recipes.recipe import Branches, Recipe, StageRecipe
from fastkd.run.weights import Deployment, Description, describe, open_network, rebuilt
from fastkd.support import distributed, environment
from fastkd.support.errors import UserError
from fastkd.support.files import sha256
from fastkd.support.plain import to_plain
from fastkd.training.execution import Resolved
from fastkd.training.stages import Distill, Mutual, Prestage, Stage, StudentAware, Supervised

EVALUATION_BATCH = 256


def open_data(recipe: Recipe, folder: Path | None = None) -> DataSet:
    """folder: of the run, if there is one: it keeps what the scan of an image folder found."""
    return open_dataset(
        recipe.data,
        image_size=recipe.image_size,
        resident=is_resident(recipe.reading, recipe.augmentation.crop),
        limit_train=recipe.limit_train,
        threads=environment.cores(),
        reading=recipe.reading,
        cache=folder,
    )


def workers(recipe: Recipe) -> int:
    """Of this process, to decode images."""
    return recipe.reading.workers or max(1, environment.cores() // distributed.local_processes())


def _epochs(stage: StageRecipe) -> int:
    return stage.training.epochs if stage.training is not None else 0


def _in_turn(recipe: StageRecipe, teachers: Sequence[Network]) -> bool:
    """Whether they are anchors (RCO): one network at several times, used one after the other."""
    methods = split_methods(recipe.method)
    if len(teachers) < 2 or not any(find_method(name).anchors(recipe.settings[name]) for name in methods):
        return False
    if len({tuple(value.shape for value in teacher.state_dict().values()) for teacher in teachers}) > 1:
        raise UserError(f"{recipe.method}: the anchors are one network at several times, not several networks")
    return True


class Builder:
    """Builds the stages of one seed. `trained` holds the networks of earlier stages, by name; the caller fills it."""

    def __init__(self, recipe: Recipe, data: DataSet, seed: int, device: torch.device, execution: Resolved):
        self.recipe, self.data, self.seed, self.device, self.execution = recipe, data, seed, device, execution
        self.trained: dict[str, Network] = {}
        self.passed_on: dict[str, dict[str, Tensor]] = {}
        """What earlier trainings of a student leave to the later ones, by the stage's name; the caller fills it."""
        self.kept: Path | None = None
        """Where the weights of a teacher's epochs are; None: its last ones will do, as nothing is trained for good."""
        self.reports: dict[str, Report] = {}
        """Of the networks that were loaded instead of trained."""
        self.passing_on = {earlier for stage in course(recipe) for earlier in stage.after}
        """Stages of the course whose trained part a later one begins with."""

    def network(self, name: str) -> Network:
        return networks.build(name, num_classes=len(self.data.classes))

    def stage(self, recipe: StageRecipe) -> Stage:
        """A student and its control begin with the same weights and see the same batches: they differ by the teacher.

        The random numbers of the training begin here too, apart for each rank.
        """
        role = recipe.name if recipe.name.startswith("teacher") else "student"
        torch.manual_seed(zlib.crc32(f"{self.seed}/{role}".encode()))
        network = self.network(recipe.network)
        if recipe.kind == "student_aware":
            assert recipe.branches is not None
            stage: Stage = self._student_aware(network, recipe.network, recipe.branches)
        elif recipe.kind in ("distill", "prestage"):
            stage = self._distill(recipe, network)
            for earlier in recipe.after:
                stage.take_over(self.passed_on[earlier])
        elif recipe.kind == "mutual":
            stage = self._mutual(recipe, network)
        elif recipe.kind == "loaded":
            stage = Supervised(self._loaded(recipe), recipe.name)
        else:
            stage = Supervised(network, recipe.name)
        if distributed.rank():
            torch.manual_seed(zlib.crc32(f"{self.seed}/{role}/{distributed.rank()}".encode()))
        if recipe.training is not None and recipe.training.sync_batchnorm:
            stage = self._synchronised(stage)
        return stage.to(self.device)

    def keep(self, recipe: StageRecipe, stage: Stage) -> None:
        """What a stage leaves to those that follow."""
        if recipe.name in self.passing_on:
            assert isinstance(stage, Distill)
            self.passed_on[recipe.name] = stage.passed_on()
        if recipe.kind != "prestage":
            self.trained[recipe.name] = stage.deployed.eval()
        self.trained |= {name: network.eval() for name, network in stage.peers().items()}

    def description(self, recipe: StageRecipe) -> Description:
        """What the weights file of a stage says of its network."""
        if recipe.kind == "loaded" and (known := describe(Path(recipe.file))) is not None:
            return known._replace(num_classes=len(self.data.classes))
        found = Description(recipe.network, len(self.data.classes), self.recipe.image_size)
        methods = split_methods(recipe.method) if recipe.kind == "distill" else ()
        changing = {name: to_plain(recipe.settings[name]) for name in methods if find_method(name).changes_network()}
        if not changing:
            return found
        stages = {stage.name: stage for stage in self.recipe.stages}
        teachers = tuple(self.description(stages[name.partition("@")[0]]) for name in recipe.teachers)
        return found._replace(deployment=Deployment(changing, teachers))

    def train_source(self, recipe: StageRecipe, views: Views = ONE_VIEW) -> Source:
        """views: as the stage names them."""
        assert recipe.training is not None
        on_bfloat16 = self.execution.bfloat16 and self.device.type == "cuda"
        return training_source(
            self.data,
            image_size=self.recipe.image_size,
            batch_size=recipe.training.batch_size,
            augmentation=self.recipe.augmentation,
            seed=self.seed,
            drop_last=recipe.training.drop_last,
            views=views,
            format=Format(
                dtype=torch.bfloat16 if on_bfloat16 else torch.float32, channels_last=self.execution.channels_last
            ),
            workers=workers(self.recipe),
            loader=self.recipe.reading.loader,
            device=self.device,
            mean=self.recipe.mean,
            std=self.recipe.std,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
        )

    def test_source(self) -> Source:
        source = evaluation_source(
            self.data,
            image_size=self.recipe.image_size,
            batch_size=EVALUATION_BATCH,
            crop=self.recipe.augmentation.crop,
            format=Format(channels_last=self.execution.channels_last),
            workers=workers(self.recipe),
            loader=self.recipe.reading.loader,
            device=self.device,
            mean=self.recipe.mean,
            std=self.recipe.std,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
        )
        source.prepare.to(self.device)
        return source

    def _student_aware(self, teacher: Network, name: str, branches: Branches) -> StudentAware:
        grafts = graft(
            teacher,
            self.network(branches.network),
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

    def _mutual(self, recipe: StageRecipe, student: Network) -> Mutual:
        networks = {recipe.name: student}
        for peer in recipe.peers:
            torch.manual_seed(zlib.crc32(f"{self.seed}/{peer.name}".encode()))
            networks[peer.name] = self.network(peer.network)
        method = self._methods(recipe, student, [networks[peer.name] for peer in recipe.peers])[recipe.method]
        for stage in self.recipe.stages:
            if stage.name in networks and (stage.branches is not None or _epochs(stage) not in (0, _epochs(recipe))):
                how = f"{_epochs(recipe)} epochs" + (" and no branches" if stage.branches is not None else "")
                method.notes.append(f"{recipe.method}: the {stage.name} learns together with the student: {how}")
        return Mutual(networks, method, [1.0, *(peer.lr_factor for peer in recipe.peers)])

    def _teacher(self, name: str) -> Network:
        stage, at, _ = name.partition("@")
        if not at or self.kept is None:
            return self.trained[stage]
        return open_network(self.kept / f"{name}.safetensors").to(self.device)

    def _distill(self, recipe: StageRecipe, student: Network) -> Distill:
        teachers = tuple(self._teacher(name) for name in recipe.teachers)
        in_turn = _in_turn(recipe, teachers)
        methods = self._methods(recipe, student, teachers[-1:] if in_turn else teachers)
        # Folded, a teacher could not normalise by the statistics of a batch.
        fold = self.execution.fold and all(method.teacher_norm == "running" for method in methods.values())
        frozen = [frozen_copy(teacher, self.recipe.image_size, fold=fold) for teacher in teachers]
        if self.execution.bfloat16 and self.device.type == "cuda":
            frozen = [in_bfloat16(teacher) for teacher in frozen]  # else autocast casts its weights every step
        if recipe.kind == "prestage":
            return Prestage(student, frozen, methods, recipe.name, method=recipe.prestage)
        assert recipe.training is not None
        epochs = recipe.training.epochs if in_turn else 0
        stage = Distill(student, frozen, methods, recipe.name, epochs_in_turn=epochs)
        if not any(parameter.requires_grad for parameter in stage.parameters()):
            raise UserError(f"--method {recipe.method} trains nothing: join a method with a loss of its own to it")
        return stage

    def _methods(self, recipe: StageRecipe, student: Network, teachers: Sequence[Network]) -> dict[str, Method]:
        assert recipe.training is not None
        size = self.recipe.image_size
        labels, training = self.data.train.labels, recipe.training
        processes = distributed.world_size()
        order = Order(len(labels), training.batch_size, self.seed, drop_last=training.drop_last, world_size=processes)
        context = Context(
            student=student,
            teachers=tuple(teachers),
            student_shapes=output_shapes(student, size),
            teacher_shapes=tuple(output_shapes(teacher, size) for teacher in teachers),
            classes=len(self.data.classes),
            samples=len(labels),
            labels=labels,
            batch_size=training.batch_size // processes // training.accumulate,
            steps_per_epoch=order.steps,
            seed=self.seed,
        )
        return {name: self._method(name, recipe, context) for name in split_methods(recipe.method)}

    def _method(self, name: str, recipe: StageRecipe, context: Context) -> Method:
        kind, training, count = find_method(name), recipe.training, len(context.teachers)
        assert training is not None
        least, most = kind.teachers_needed
        if count < least or (most is not None and count > most):
            wanted = f"{least}" if most == least else f"at least {least}" if most is None else f"{least} to {most}"
            raise UserError(f"{name} has {wanted} teacher{'s' * (wanted != '1')}, got {count}")
        if kind.fixed_batch_size and not training.drop_last and context.samples % training.batch_size:
            raise UserError(f"{name}: every batch has the same size: it needs --drop-last on")
        return kind(recipe.settings[name], context)

    def _synchronised(self, stage: Stage) -> Stage:
        if self.device.type != "cuda":
            raise UserError("--sync-batchnorm on: torch synchronises BatchNorm on GPUs only")
        converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(stage)
        assert isinstance(converted, Stage)
        return converted

    def _loaded(self, recipe: StageRecipe) -> Network:
        path = Path(recipe.file)
        if not path.is_file():
            raise UserError(f"the file of the {recipe.name}, {path}, is gone")
        if recipe.sha256 and sha256(path) != recipe.sha256:
            raise UserError(f"the file of the {recipe.name}, {path}, is not the one the run began with")
        network = rebuilt(self.description(recipe))
        self.reports[recipe.name] = load_weights(network, path)
        return network
