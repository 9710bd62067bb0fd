"""From a recipe to what is trained: networks, stages, batches."""

import zlib
from collections.abc import Sequence
from pathlib import Path

import torch

from fastkd import distributed, environment, networks
from fastkd.data import DataSet, Source, evaluation_source, is_resident, open_dataset, training_source
from fastkd.errors import UserError
from fastkd.execution import Resolved
from fastkd.files import sha256
from fastkd.losses import SFTNLoss
from fastkd.methods import Context, Method, find_method, split_methods
from fastkd.networks.base import Network, output_shapes
from fastkd.networks.checkpoints import Report, load_weights
from fastkd.networks.folding import frozen_copy
from fastkd.networks.grafts import graft
from fastkd.recipe import Branches, Recipe, StageRecipe
from fastkd.stages import Distill, Stage, StudentAware, Supervised

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


class Builder:
    """Builds the stages of one seed. `trained` holds the networks of earlier stages, by name; the caller fills it."""

    def __init__(self, recipe: Recipe, data: DataSet, seed: int, device: torch.device, execution: Resolved):
        self.recipe, self.data, self.seed, self.device, self.execution = recipe, data, seed, device, execution
        self.trained: dict[str, Network] = {}
        self.reports: dict[str, Report] = {}
        """Of the networks that were loaded instead of trained."""

    def network(self, name: str) -> Network:
        return networks.build(name, num_classes=len(self.data.classes))

    def stage(self, recipe: StageRecipe) -> Stage:
        """A student and its control begin with the same weights and see the same batches: they differ by the teacher.

        The random numbers of the training begin here too, apart for each rank.
        """
        role = "teacher" if recipe.name == "teacher" else "student"
        torch.manual_seed(zlib.crc32(f"{self.seed}/{role}".encode()))
        network = self.network(recipe.network)
        if recipe.kind == "student_aware":
            assert recipe.branches is not None
            stage: Stage = self._student_aware(network, recipe.network, recipe.branches)
        elif recipe.kind == "distill":
            stage = self._distill(recipe, network)
        else:
            if recipe.kind == "loaded":
                self._load(network, recipe)
            stage = Supervised(network, recipe.name)
        if distributed.rank():
            torch.manual_seed(zlib.crc32(f"{self.seed}/{role}/{distributed.rank()}".encode()))
        if recipe.training is not None and recipe.training.sync_batchnorm:
            stage = self._synchronised(stage)
        return stage.to(self.device)

    def train_source(self, recipe: StageRecipe) -> Source:
        assert recipe.training is not None
        return training_source(
            self.data,
            image_size=self.recipe.image_size,
            batch_size=recipe.training.batch_size,
            augmentation=self.recipe.augmentation,
            seed=self.seed,
            drop_last=recipe.training.drop_last,
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

    def _distill(self, recipe: StageRecipe, student: Network) -> Distill:
        teachers = tuple(self.trained[name] for name in recipe.teachers)
        methods = self._methods(recipe, student, teachers)
        frozen = [frozen_copy(teacher, self.recipe.image_size, fold=self.execution.fold) for teacher in teachers]
        if self.execution.bfloat16 and self.device.type == "cuda":
            frozen = [teacher.to(torch.bfloat16) for teacher in frozen]  # else autocast casts its weights every step
        return Distill(student, frozen, methods, recipe.name)

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
            batch_size=recipe.training.batch_size // distributed.world_size() // recipe.training.accumulate,
            steps_per_epoch=self.train_source(recipe).loader.steps,
            seed=self.seed,
        )
        return {name: find_method(name)(recipe.settings[name], context) for name in split_methods(recipe.method)}

    def _synchronised(self, stage: Stage) -> Stage:
        if self.device.type != "cuda":
            raise UserError("--sync-batchnorm on: torch synchronises BatchNorm on GPUs only")
        converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(stage)
        assert isinstance(converted, Stage)
        return converted

    def _load(self, network: Network, recipe: StageRecipe) -> None:
        path = Path(recipe.file)
        if not path.is_file():
            raise UserError(f"the file of the {recipe.name}, {path}, is gone")
        if recipe.sha256 and sha256(path) != recipe.sha256:
            raise UserError(f"the file of the {recipe.name}, {path}, is not the one the run began with")
        self.reports[recipe.name] = load_weights(network, path)
