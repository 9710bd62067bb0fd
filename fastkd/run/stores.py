"""Where the teachers of a run's stage are stored: one store for each, in a folder of the teacher's name."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from fastkd.data import AUGMENTATION_VERSION, FileSplit
from fastkd.data.order import Order
from fastkd.methods import Method
from fastkd.networks.base import output_shapes
from fastkd.networks.uncut import gives_embedding
from fastkd.recipes.planned import PlannedDistillation, PlannedLoaded, PlannedStage
from fastkd.recipes.recipe import Recipe
from fastkd.run.earlier import Earlier
from fastkd.run.job import Job
from fastkd.stored import Circumstances, Key, RowFormat, Store
from fastkd.stored.key import weights_digest
from fastkd.stored.row import KEPT, Kept
from fastkd.support import environment
from fastkd.support.distributed import world_size
from fastkd.support.errors import UserError
from fastkd.support.plain import to_plain
from fastkd.training.stages import Distill, Stage
from fastkd.training.taught import Shelf


def foreseen_stores(job: Job, planned: PlannedStage, stage: Stage, earlier: Earlier, data_seed: int) -> Iterator[str]:
    """What the store of each of a stage's teachers will take, in words; none where nothing is stored.

    Raises UserError where the stage cannot learn from stored rows, as far as it is known before anything is trained. A
    store that is there is compared with what its teacher would write, but for the weights of one that is not trained.
    """
    if not _is_stored(job.recipe, stage):
        return
    assert isinstance(planned, PlannedDistillation) and isinstance(stage, Distill)
    rows = _row_formats(job, planned, stage, earlier)
    loaded = {other.name for other in job.course if isinstance(other, PlannedLoaded)}
    for place, (name, row) in enumerate(zip(planned.teachers, rows, strict=True)):
        key, epochs = key_of(job, planned, name, earlier, data_seed), _stored_epochs(job, planned, stage, place)
        yield Store.foreseen(_folder(job, name), key, row, epochs, trained=name in loaded)


def _stored_epochs(job: Job, planned: PlannedDistillation, stage: Distill, place: int) -> set[int]:
    """The epochs that are read of the store of the teacher in that place."""
    turns, count = stage.epochs_in_turn, len(planned.teachers)
    epochs = (epoch for epoch in range(planned.training.epochs) if not turns or epoch * count // turns == place)
    distinct = job.recipe.storing.store_epochs
    return {epoch if distinct is None else epoch % distinct for epoch in epochs}


@contextlib.contextmanager
def opened_shelf(
    job: Job, planned: PlannedStage, stage: Stage, earlier: Earlier, *, data_seed: int, unlocked: bool = False
) -> Iterator[Shelf | None]:
    """The stores of a stage's teachers, made where there are none; None where nothing is stored. All ranks call it.

    unlocked: go on where the file system has no locks.
    """
    if not _is_stored(job.recipe, stage):
        yield None
        return
    assert isinstance(planned, PlannedDistillation) and isinstance(stage, Distill)
    with contextlib.ExitStack() as open_stores:
        stores, today = [], circumstances(job, planned, stage)
        how = {"exact": job.recipe.storing.store_exact, "unlocked": unlocked}
        for name, row in zip(planned.teachers, _row_formats(job, planned, stage, earlier), strict=True):
            key = key_of(job, planned, name, earlier, data_seed)
            store = Store.opened(_folder(job, name), key, row, today, **how)
            open_stores.callback(store.close)
            stores.append(store)
        yield _shelf(job, planned, stage, stores)


def side_by_side(job: Job) -> tuple[PlannedDistillation, ...]:
    """The students of one GPU, for all seeds, that are trained at once: those of the same stored teachers."""
    if not job.execution.capture or world_size() > 1 or job.recipe.storing.teacher_outputs is None:
        return ()
    learning = [planned for planned in job.course if type(planned) is PlannedDistillation and not planned.after]
    return tuple(planned for planned in learning if planned.teachers and planned.teachers == learning[0].teachers)


def circumstances(job: Job, planned: PlannedDistillation, stage: Stage) -> Circumstances:
    """What the last bits of rows that are computed here may depend on."""
    share = planned.training.images_at_once(world_size())
    return Circumstances(
        device=environment.device_name(job.device),
        torch=torch.__version__,
        instruction_set=torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
        rows_per_forward=share * stage.views.count,
        tf32=job.device.type == "cuda" and bool(torch.backends.cudnn.allow_tf32),
        compile=job.execution.compile,
    )


def result_of(shelf: Shelf) -> dict[str, Any]:
    """What a stage's result says of the stores that it learned from."""
    row = shelf.rows[0]
    differs = [f"{store.folder.name}: {words}" for store in shelf.stores for words in store.differs]
    return {"store": {"type": row.type, "top": row.top, "epochs": shelf.distinct_epochs, "differs": differs}}


def _is_stored(recipe: Recipe, stage: Stage) -> bool:
    return recipe.storing.teacher_outputs is not None and isinstance(stage, Distill) and bool(stage.teachers)


def _shelf(job: Job, planned: PlannedDistillation, stage: Distill, stores: Sequence[Store]) -> Shelf:
    rows = [store.about.row for store in stores]
    if stage.views.count == 1:
        rows = [row.of_first_view for row in rows]
    if stage.epochs_in_turn and len(set(rows)) > 1:
        raise UserError(f"--teacher-outputs: the stores of {' and '.join(planned.teachers)} do not hold the same")
    views = job.recipe.storing.store_epochs
    used = rows[:1] if stage.epochs_in_turn else rows
    turns = stage.epochs_in_turn
    return Shelf(tuple(stores), tuple(used), planned.training.epochs, epochs_in_turn=turns, distinct_epochs=views)


def _folder(job: Job, teacher: str) -> Path:
    root = job.recipe.storing.teacher_outputs
    assert root is not None
    return root / teacher


def _row_formats(job: Job, planned: PlannedDistillation, stage: Distill, earlier: Earlier) -> list[RowFormat]:
    """What the rows of each teacher have to hold."""
    methods = {name: method for name, method in stage.methods.items() if isinstance(method, Method)}
    for name, method in methods.items():
        if method.teacher_norm == "batch":
            raise UserError(f"--teacher-outputs: {name} normalises the teacher by each batch: leave the option out")
        if not set(KEPT).issuperset(method.reads):
            what = "the teacher's feature maps, which no store holds"
            raise UserError(f"--teacher-outputs: {name} reads {what}: leave the option out")
    _refuse_beside_mixing(job.recipe)
    outputs: tuple[Kept, ...] = tuple(read for read in KEPT if any(read in method.reads for method in methods.values()))
    if not outputs:
        raise UserError(f"--teacher-outputs changes nothing: {planned.method} reads nothing of the teacher")
    storing = job.recipe.storing
    sparse = storing.store_top is not None and "logits" in outputs
    if storing.store_top is not None and not sparse:
        raise UserError(f"--store-top changes nothing: {planned.method} does not read the teacher's logits")
    shapes = (output_shapes(earlier.teacher(name), job.recipe.image_size) for name in planned.teachers)
    return [
        RowFormat(
            outputs=outputs,
            classes=len(job.data.classes),
            embedding=own.embedding.shape[1] if gives_embedding(own) else 1,
            views=stage.views.count,
            quarter_turns=stage.views.quarter_turns,
            strong=stage.views.strong,
            type=storing.store_type,
            top=storing.store_top,
            temperature=_temperature(methods) if sparse else None,
        )
        for own in shapes
    ]


def is_mixed(recipe: Recipe) -> bool:
    """Whether images are mixed with others of their batch, so that a row is one of this batch alone."""
    return bool(recipe.augmentation.mixup or recipe.augmentation.cutmix)


def _refuse_beside_mixing(recipe: Recipe) -> None:
    if not is_mixed(recipe):
        return
    if world_size() > 1:
        raise UserError("--teacher-outputs: beside --mixup and --cutmix a store is filled and read by one process")
    if recipe.storing.store_epochs is not None:
        why = "with --mixup or --cutmix the images of an epoch come in no other: the order decides which are mixed"
        raise UserError(f"--store-epochs: {why}")
    if recipe.storing.store_top is not None:
        why = "with --mixup or --cutmix an image has two labels, and one of them alone is among what is kept"
        raise UserError(f"--store-top: {why}")


def _temperature(methods: dict[str, Method]) -> float:
    """The temperature at which the methods read what is left out of the logits."""
    reading = {name: method for name, method in methods.items() if "logits" in method.reads}
    for name, method in reading.items():
        if not method.takes_sparse or getattr(method.settings, "standardise", False):
            raise UserError(f"--store-top: {name} reads all of the teacher's logits: leave it out")
    found = {method.sparse_temperature for method in reading.values()}
    if len(found) > 1:
        raise UserError(f"--store-top: {' and '.join(reading)} have temperatures of their own: give them the same")
    return found.pop()


def key_of(job: Job, planned: PlannedDistillation, teacher: str, earlier: Earlier, data_seed: int) -> Key:
    """What a teacher's rows mean in a stage of a job."""
    recipe, data = job.recipe, job.data
    network = earlier.teacher(teacher)
    feeding = job.feeding
    return Key(
        network=_network_name(recipe, teacher),
        weights=weights_digest(network.state_dict()),
        folded=job.execution.fold,
        precision="bfloat16" if job.execution.bfloat16 else "float32",
        layout="channels_last" if job.execution.channels_last else "contiguous",
        data=job.fingerprint,
        samples=len(data.train),
        image_size=recipe.image_size,
        mean=feeding.mean or data.mean,
        std=feeding.std or data.std,
        decoder=recipe.reading.loader if isinstance(data.train, FileSplit) else "",
        augmentation=to_plain(recipe.augmentation),
        augmentation_version=AUGMENTATION_VERSION,
        mixing=_mixing(planned, len(data.train)) if is_mixed(recipe) else "",
        data_seed=data_seed,
    )


def _mixing(planned: PlannedDistillation, samples: int) -> str:
    """Which batches images are mixed in: their draws are of a step, whose number depends on how many an epoch has."""
    training = planned.training
    whole = Order(samples, training.batch_size, 0, drop_last=training.drop_last, world_size=world_size())
    return f"in {whole.steps} batches of {training.batch_size} an epoch"


def _network_name(recipe: Recipe, teacher: str) -> str:
    stage = recipe.stage(teacher.partition("@")[0])
    assert stage is not None
    images = stage.images
    return (
        stage.network if images is None else f"{stage.network} of {images.image_size} pixels {images.mean} {images.std}"
    )
