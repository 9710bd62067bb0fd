"""Every setting of a training, its images, its files, its stores and its recipe changes what is built, or says why not.

As tests/methods/test_idle.py does for methods: a setting is looked at beside the defaults and, at night, beside every
other one that is switched off. What it changes is looked at where it acts: weights after a few steps, a loss and its
gradients, the pixels of batches, what is asked of the loader, of the device, of a store, of the trainer.
"""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
from helpers.courses import general_recipe
from helpers.idle import others, replaced, switches
from helpers.image_folders import write_folder
from helpers.stored import fill, recipe_of, trained_teacher
from helpers.synthesised import OF_KIND, batches, tiny_synthesis
from helpers.tiny import CPU, Quiet, built_stages, job_of, tiny_recipe

from fastkd import networks
from fastkd.data import Augmentation, DataSet, Reading, evaluation_source, is_resident, open_dataset, training_source
from fastkd.data.sources import Feeding
from fastkd.losses import SFTNLoss
from fastkd.networks.gtn_nas import Row
from fastkd.networks.supernet import Supernet
from fastkd.options import Options
from fastkd.recipes.choice import Choice
from fastkd.recipes.planned import PlannedTraining
from fastkd.recipes.recipe import GTNSettings, Recipe, SFTNSettings
from fastkd.run import Run, open_data
from fastkd.run.beginnings import Beginnings
from fastkd.run.stores import foreseen_stores
from fastkd.stored import Storing
from fastkd.support.environment import set_threads
from fastkd.support.errors import UserError
from fastkd.support.fields import idle
from fastkd.support.interrupt import Interrupt
from fastkd.support.session import Session
from fastkd.synthesis.pooled import PooledSynthesis
from fastkd.synthesis.settings import SynthesisSettings
from fastkd.training.execution import Execution, resolve
from fastkd.training.optimisation import Training

Trace = Callable[[Any], Iterator[Any]]
"""What settings come to, one thing after another; two of them are compared as far as they are alike."""


def wrongly_declared(settings: Any, trace: Trace, skipped: tuple[str, ...] = ()) -> list[str]:
    """What the declarations of the settings' class say of these settings that is not so."""
    found, before = [], list(trace(settings))
    for name, hint in get_type_hints(type(settings), include_extras=True).items():
        if name in skipped:
            continue
        said = idle(settings, [name])
        values = others(hint, getattr(settings, name))
        allowed = [one for one in values if replaced(settings, **{name: one}) is not None]
        telling = (one for one in allowed if differs(trace, dataclasses.replace(settings, **{name: one}), before))
        first = next(telling, None)
        if allowed and first is None and said is None:
            found.append(f"{name} changes nothing at {allowed}, and does not say so, beside {settings}")
        if first is not None and said is not None:
            found.append(f"{name} = {first} changes something, and says it does not, beside {settings}")
    return found


def differs(trace: Trace, settings: Any, before: list[Any]) -> bool:
    """Whether the settings are refused, or come to something else."""
    try:
        return any(not same(*both) for both in itertools.zip_longest(before, trace(settings)))
    except UserError:
        return True


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    return type(one) is type(other) and one == other


def beside_switches(settings: Any) -> Iterator[Any]:
    """The settings with one of them switched off, or to another way, in turn."""
    hints = get_type_hints(type(settings), include_extras=True)
    for name, hint in hints.items():
        for value in switches(hint, getattr(settings, name)):
            if value != getattr(settings, name) and (changed := replaced(settings, **{name: value})) is not None:
                yield changed


@functools.cache
def ten_digits() -> DataSet:
    return open_data(tiny_recipe(limit_train=10))


def optimised(training: Training) -> Iterator[Any]:
    """The weights, and their average, after each epoch of a few steps."""
    torch.manual_seed(0)
    job = job_of(tiny_recipe(limit_train=10), data=ten_digits())
    planned = dataclasses.replace(job.course[-1], training=training)
    run = Run(job, 0, Path(), Session(Quiet(), Interrupt()))
    trainer = run.trainer(planned, run.builder.stage(planned, run.earlier))
    trainer.stage.train()
    for epoch in range(training.epochs):
        yield len(list(trainer.step.epoch_of(trainer.train_source.loader, epoch)))
        yield from (value.clone() for value in trainer.stage.state_dict().values())
    if trainer.step.average is not None:
        yield from trainer.step.average.network.state_dict().values()


OF_PLACES = ("network", "blocks", "starts", "frozen_epochs")
"""Which branches there are, and when the teacher learns with them: see tests/training/test_general.py."""


def branched(settings: SFTNSettings) -> Iterator[Any]:
    """The loss of a teacher and its branches, and its gradients, for two batches."""
    how = {name: value for name, value in vars(settings).items() if name not in OF_PLACES}
    loss = SFTNLoss(**how)
    for seed in (0, 1):
        teacher, *branches = 2 * torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(seed))
        logits = [one.requires_grad_() for one in (teacher, *branches)]
        total = loss(logits[0], logits[1:], torch.arange(6) % 5).total
        yield total.detach()
        if total.requires_grad:
            yield from torch.autograd.grad(total, logits)


def pathed(settings: GTNSettings) -> Iterator[Any]:
    """A general teacher's branches after each of two steps, and what it says in a test."""
    recipe = general_recipe(**vars(settings))
    builder, stages = built_stages(recipe)
    stage, planned = stages["teacher"], builder.job.course[0]
    assert isinstance(planned, PlannedTraining)
    source, optimizer = builder.train_source(planned), torch.optim.SGD(stage.parameters(), lr=0.1)
    zero = torch.zeros((), dtype=torch.int64)
    for number, raw in zip(range(2), source.loader.epoch(0), strict=False):
        stage.train()
        stage.begin_step(number)
        batch = source.prepare(raw, torch.tensor(number), zero)
        optimizer.zero_grad()
        stage(batch).total.backward()
        optimizer.step()
        yield from (value.clone() for value in stage.state_dict().values())
        yield from stage.eval().predictions(batch.images[0]).values()


@functools.cache
def pictures(folder: Path) -> Any:
    root = write_folder(folder / "pictures", size=(24, 16), per_class=4)
    return open_dataset(f"imagefolder:{root}", image_size=None, resident=False, limit_train=None, threads=1)


def augmented(folder: Path, augmentation: Augmentation) -> Iterator[Any]:
    """The pixels of all batches of two epochs, and of evaluation, out of image files."""
    feeding, data = Feeding(image_size=16), pictures(folder)
    source = training_source(data, feeding, batch_size=4, augmentation=augmentation, seed=0)
    for epoch in (0, 1):
        for step, raw in enumerate(source.loader.epoch(epoch)):
            yield source.prepare(raw, torch.tensor(step), torch.tensor(epoch)).images
    source = evaluation_source(data, feeding, batch_size=4, crop=augmentation.evaluated)
    for raw in source.loader.epoch(0):
        yield source.prepare(raw, torch.tensor(0), torch.tensor(0)).images


def executed(execution: Execution) -> Iterator[Any]:
    for device, processes in ((torch.device("cuda"), 1), (torch.device("cuda"), 2), (CPU, 1)):
        yield resolve(execution, device, processes)


def asked_of_the_reader(folder: Path, reading: Reading) -> Iterator[Any]:
    """What is read of a good folder and of one with files that are no images, and how."""
    for name in ("good", "bad"):
        root = folder / name
        if not root.exists():
            write_folder(root)
            if name == "bad":
                (root / "train" / "ant" / "0.png").write_bytes(b"no image")
        recipe = dataclasses.replace(tiny_recipe(), data=f"imagefolder:{root}", reading=reading, limit_train=None)
        yield is_resident(reading, recipe.augmentation.crop)
        try:
            data = open_dataset(
                recipe.data, image_size=None, resident=False, limit_train=None, threads=1, reading=reading, cache=root
            )
        except UserError as error:
            yield str(error)
            continue
        yield len(data.train.labels), data.classes
        feeding = job_of(recipe, data=data).feeding
        yield feeding.loader, feeding.workers
        yield sorted(path.parent.name for path in folder.rglob("index-*.npz"))
        for path in folder.rglob("index-*.npz"):
            path.unlink()


def stored(weights: Path, storing: Storing) -> Iterator[Any]:
    """What a student asks of its teacher's store, which was made on another machine, and of its images."""
    recipe = dataclasses.replace(recipe_of(weights), storing=storing)
    job = job_of(recipe)
    run = Run(job, 0, Path(), Session(Quiet(), Interrupt()))
    for planned in job.course:
        stage = run.builder.stage(planned, run.earlier)
        run.earlier.add(planned, stage)
    yield list(foreseen_stores(job, planned, stage, run.earlier, 0))
    yield run.builder.train_source(planned).prepare.distinct_epochs
    if storing.teacher_outputs is not None:
        with run.opened_shelf(planned, stage) as shelf:
            yield shelf.distinct_epochs, shelf.rows


def planned(recipe: Recipe) -> Iterator[Any]:
    """What the run of a recipe begins with, what its first batch is, and when it evaluates and saves."""
    job = job_of(recipe)
    seeds = range(recipe.seed, recipe.seed + recipe.seeds)
    yield seeds, len(job.data.train.labels), recipe.image_size, recipe.stages
    before = torch.get_num_threads()
    set_threads(recipe.threads)
    yield torch.get_num_threads()
    set_threads(before)
    run = Run(job, recipe.seed, Path(), Session(Quiet(), Interrupt()))
    first, kept = job.course[0], []
    trainer = run.trainer(first, run.builder.stage(first, run.earlier))
    yield from trainer.stage.state_dict().values()
    yield next(iter(trainer.train_source.loader.epoch(0))).index
    yield [trainer.pace.evaluation_is_due(epoch) for epoch in range(1, 7)]
    run._save_networks = lambda file, *_: kept.append(file)
    for epoch in range(1, 7):
        run.keep(first, trainer.stage, epoch)
    yield kept


TRAINING = Training(epochs=2, batch_size=4, milestones=(1,), clip_norm=0.5, ema=0.5, warmup_epochs=1)
OF_SEVERAL_PROCESSES = ("sync_batchnorm",)
"""See tests/training/test_synchronised.py."""


def test_settings_of_a_training():
    assert not wrongly_declared(TRAINING, optimised, skipped=OF_SEVERAL_PROCESSES)


@pytest.mark.slow
@pytest.mark.parametrize("training", list(beside_switches(TRAINING)), ids=str)
def test_settings_of_a_training_beside_each_other(training):
    with contextlib.suppress(UserError):  # an optimiser that is not installed
        assert not wrongly_declared(training, optimised, skipped=OF_SEVERAL_PROCESSES)


@pytest.mark.parametrize("usual", (SFTNSettings(network="resnet8"), SFTNSettings(network="resnet8", temperature=2.0)))
def test_settings_of_branches(usual):
    for settings in (usual, *beside_switches(usual)):
        assert not wrongly_declared(settings, branched, skipped=OF_PLACES)


@pytest.mark.parametrize("paths", ["uniform", pytest.param("learned", marks=pytest.mark.slow)])
def test_settings_of_paths(paths, monkeypatch):
    rows = (Row(16, 4), Row(4, 4), Row(4, 4, stride=2))
    smallest = functools.partial(Supernet, rows=rows, split=(1, 1, 1))
    monkeypatch.setitem(networks.SUPERNETS, "gtn_supernet_thin", smallest)
    # Masks change no number, by their definition.
    assert not wrongly_declared(GTNSettings(paths=paths), pathed, skipped=("masks",))


def synthesised(settings: SynthesisSettings) -> Iterator[Any]:
    """The images of every batch of two epochs, and the features that are kept of them."""
    synthesis = tiny_synthesis(settings)
    yield from batches(synthesis)
    if isinstance(synthesis, PooledSynthesis) and synthesis.bank is not None:
        yield synthesis.bank.rows


@pytest.mark.slow
@pytest.mark.parametrize("kind", OF_KIND)
def test_settings_of_a_synthesis(kind):
    """The weights' places are held against golden vectors by day: tests/synthesis/test_pooled.py and test_fresh.py."""
    assert not wrongly_declared(OF_KIND[kind], synthesised, skipped=("kind",))


@pytest.mark.parametrize("crop", ("pad", "resized"))
def test_settings_of_images(crop, tmp_path):
    for changes in ({}, {"randaugment": 1}):
        turned = 45.0 if crop == "pad" else 0.0  # a few degrees move no pixel of a small image
        usual = Augmentation(crop=crop, crop_padding=2, rotation=turned, **changes)
        assert not wrongly_declared(usual, functools.partial(augmented, tmp_path))


@pytest.mark.slow
def test_settings_of_images_beside_each_other(tmp_path):
    for settings in beside_switches(Augmentation(crop_padding=2, rotation=45.0, randaugment=1, mixup=0.3)):
        still = () if settings.rotation else ("rotation",)  # a few degrees move no pixel
        assert not wrongly_declared(settings, functools.partial(augmented, tmp_path), skipped=still)


def test_settings_of_execution():
    for settings in (Execution(), *beside_switches(Execution())):
        with contextlib.suppress(UserError):  # what one processor refuses anyway
            assert not wrongly_declared(settings, executed)


def test_settings_of_reading(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    of_others = ("split", "label_column")  # of data in one piece, and in other keeping: tests/data/test_origins.py
    how = functools.partial(asked_of_the_reader, tmp_path)
    assert not wrongly_declared(Reading(resident=False), how, skipped=of_others)


def test_settings_of_a_store(tmp_path, monkeypatch):
    weights = trained_teacher(tiny_recipe(), "plain", tmp_path / "taught")
    store = Storing(teacher_outputs=tmp_path / "store")
    with monkeypatch.context() as patch:
        patch.setattr("fastkd.support.environment.device_name", lambda device: "another")
        list(stored(weights, store))
        fill(dataclasses.replace(recipe_of(weights), storing=store))
    monkeypatch.chdir(tmp_path)
    assert not wrongly_declared(store, functools.partial(stored, weights))


def test_settings_that_all_stages_have_in_common():
    fixed_ones = ("name", "data", "stages", "augmentation", "reading", "execution", "storing")
    printed = ("published_classes", "deviations")  # words of a report, see tests/run/test_figures.py
    recipe = tiny_recipe()
    of_images = ("mean", "std", "validation")  # see tests/test_api.py
    assert not wrongly_declared(recipe, planned, skipped=(*fixed_ones, *printed, *of_images))


def test_every_class_of_settings_is_walked():
    """Those of `fastkd.train`; tests/methods/test_idle.py walks the methods'."""
    groups = {field.type for field in dataclasses.fields(Options) if dataclasses.is_dataclass(field.type)}
    chosen = {Choice, Beginnings}  # which networks, weights and data: each is another training
    assert groups - chosen == {
        Training,
        SFTNSettings,
        GTNSettings,
        SynthesisSettings,
        Augmentation,
        Execution,
        Reading,
        Storing,
        Recipe,
    }
