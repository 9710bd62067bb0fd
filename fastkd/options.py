"""The command line of `python -m fastkd.train`, and the recipe it means."""

import dataclasses
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fastkd import networks
from fastkd.data import DATASETS
from fastkd.errors import UserError, nearest
from fastkd.files import sha256
from fastkd.given import command_line_class
from fastkd.methods import METHODS, find_method, split_methods
from fastkd.optimisation import Training
from fastkd.plain import differences
from fastkd.recipe import Recipe, StageRecipe, read_recipe, recipe_to_plain
from fastkd.recipes import RECIPES
from fastkd.weights import describe, find_weights


@dataclass(frozen=True, kw_only=True)
class SFTNOptions:
    """The loss of a student-friendly teacher; what is not given is the recipe's."""

    temperature: float | None = None
    teacher_weight: float | None = None
    """λ_T, of the teacher's cross-entropy."""
    kl_weight: float | None = None
    """λ_KL, of KL between teacher and branches."""
    ce_weight: float | None = None
    """λ_CE, of the branches' cross-entropy."""
    kl: Literal["forward", "reverse"] | None = None
    """forward: KL(teacher ‖ branch); reverse: KL(branch ‖ teacher), as the paper prints it."""
    detach_teacher: bool | None = None
    ce_temperature: float | None = None
    tau_squared: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is not given is the recipe's."""

    recipe: tyro.conf.Positional[str] = "digits"
    """The name of a recipe, or the recipe.json of a run."""

    # What is trained
    data: str | None = None
    """NAME or NAME:PATH, e.g. cifar100:/data/cifar-100-binary, imagefolder:/data/imagenet."""
    teacher_net: str | None = None
    student: str | None = None
    branch: str | None = None
    """Network of the branches grafted on the teacher (default: the student's)."""
    branch_blocks: tuple[int, ...] | None = None
    """Teacher blocks, from 1, that carry a branch (default: all but the last)."""
    teacher_training: Literal["standard", "sftn"] | None = None
    """Train the teacher alone, or together with its branches."""
    teacher: str | None = None
    """RUN, RUN@EPOCH or FILE: take this teacher instead of training one."""
    method: str | None = None
    """What the student learns: a method, or several joined by +; their settings are --METHOD.NAME."""
    control: bool | None = None
    """Also train the student without a teacher."""
    sftn: SFTNOptions = SFTNOptions()

    # How it is trained
    epochs: int | None = None
    """Of every stage; milestones move in proportion."""
    teacher_epochs: int | None = None
    """Of the teacher, where it differs."""
    batch_size: int | None = None
    """Over all processes."""
    optimizer: Literal["sgd", "adam"] | None = None
    lr: float | None = None
    """Learning rate of every stage, for the whole batch."""
    momentum: float | None = None
    nesterov: bool | None = None
    weight_decay: float | None = None
    schedule: Literal["multistep", "cosine", "constant"] | None = None
    milestones: tuple[int, ...] | None = None
    factor: float | None = None
    """Of the learning rate at each milestone."""
    warmup_epochs: int | None = None
    warmup_by: Literal["epoch", "iteration"] | None = None
    drop_last: bool | None = None
    """Leave out the last, shorter batch of an epoch."""
    accumulate: int | None = None
    """Take each batch in so many parts, to save memory."""
    clip_norm: float | None = None
    """Largest norm of the gradient."""
    ema: float | None = None
    """Also average the weights, with this decay."""
    sync_batchnorm: bool | None = None
    """BatchNorm over all processes (GPUs only)."""

    # Images
    image_size: int | None = None
    """Pixels."""
    limit_train: int | None = None
    """Train on so many images only."""
    crop: Literal["pad", "resized"] | None = None
    """Random window of the padded image, or random area and aspect ratio."""
    crop_padding: int | None = None
    flip: bool | None = None
    rotation: float | None = None
    """Random rotation by at most so many degrees."""

    # The run
    run: Path | None = None
    """Folder of the run (default: runs/RECIPE-DATE)."""
    resume: Path | None = None
    """Go on with the run in this folder."""
    seed: int | None = None
    seeds: int | None = None
    """Train so many times, with the seeds SEED, SEED+1, …"""
    eval_every: int | None = None
    """Epochs between evaluations."""
    keep_epochs: tuple[int, ...] | None = None
    """Keep the weights after these epochs, for --teacher RUN@EPOCH."""
    threads: int | None = None
    """Of the CPU (default: all cores)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    compile: Literal["auto", "blocks", "whole", "off"] | None = None
    """torch.compile, block by block or the whole stage (default: blocks on a GPU)."""
    precision: Literal["auto", "float32", "bfloat16"] | None = None
    """Of convolutions and matrix products (default: bfloat16 on a GPU)."""
    channels_last: Literal["auto", "on", "off"] | None = None
    """Memory layout (default: on a GPU)."""
    fold: Literal["auto", "on", "off"] | None = None
    """Fold a frozen teacher's BatchNorm into its convolutions (default: on a GPU)."""
    deterministic: bool | None = None
    """Bit-equal runs on a GPU, at some cost."""
    tensorboard: bool = False
    """Also write TensorBoard files."""
    dry_run: bool = False
    """One step of every stage, with its memory and speed; writes nothing."""


def parse(arguments: list[str]) -> Options:
    """Reads the command line; prints the help or the mistake and exits as command lines do."""
    method = _value_of(arguments, "--method") or "kd"
    extra: list[tuple[str, Any, Any]] = []
    for name in split_methods(method):
        settings = command_line_class(find_method(name).Settings, all_optional=True)
        option = tyro.conf.arg(name=(name.partition(":")[2] or name).lower(), help=f"Settings of the method {name}.")
        extra.append((_field_name(name), Annotated[settings, option], dataclasses.field(default_factory=settings)))
    sftn = command_line_class(SFTNOptions)
    extra.append(("sftn", sftn, dataclasses.field(default_factory=sftn)))
    kind = command_line_class(Options, extra)
    return tyro.cli(kind, args=arguments, prog="python -m fastkd.train", description=_description())


def recipe_of(options: Options) -> Recipe:
    """The recipe that the options mean: the named one, with what was given in place of its own settings."""
    base = _base(options)
    resolved = _overridden(base, options)
    if options.teacher is not None:
        resolved = _with_loaded_teacher(resolved, options.teacher, options.teacher_net)
    return replace(resolved, deviations=tuple(_deviations(base, resolved)))


def refuse_other_recipe(saved: Recipe, options: Options, arguments: list[str]) -> None:
    """A resumed run goes on with its own recipe; options that say otherwise are an error."""
    given = [a for a in arguments if a.startswith("-") and a.split("=")[0] not in ("--resume", "--device")]
    if not given and options.recipe == Options.recipe:
        return
    said = recipe_of(replace(options, resume=None))
    found = differences(recipe_to_plain(saved), recipe_to_plain(said))
    if found:
        place, before, after = found[0]
        raise UserError(
            f"--resume {options.resume}: the run was begun with {place} = {before!r}, the command says {after!r}; "
            "leave the option out, or start another run"
        )


def _deviations(base: Recipe, resolved: Recipe) -> list[str]:
    """In what a recipe differs from the paper's, in words."""
    free = {"data", "seed", "seeds", "threads", "eval_every", "keep_epochs", "execution"}
    words = []
    for place, before, after in differences(recipe_to_plain(base), recipe_to_plain(resolved)):
        if place.split(".")[0] not in free and not place.endswith((".file", ".sha256", ".published")):
            words.append(f"{_spoken(place, base)} {after} instead of {before}")
    return words


def _spoken(place: str, recipe: Recipe) -> str:
    """`stages[1].training.lr` as `student lr`."""
    if not place.startswith("stages["):
        return place
    number, _, rest = place.removeprefix("stages[").partition("].")
    return f"{recipe.stages[int(number)].name} {rest.removeprefix('training.')}"


def _base(options: Options) -> Recipe:
    if options.recipe.endswith(".json"):
        return read_recipe(Path(options.recipe))
    if options.recipe not in RECIPES:
        raise UserError(f"no recipe {options.recipe!r}{nearest(options.recipe, RECIPES)}")
    for network in (options.teacher_net, options.student, options.branch):
        if network is not None and network not in networks.NETWORKS:
            raise UserError(f"no network {network!r}{nearest(network, networks.NETWORKS)}")
    names = ("data", "teacher_net", "student", "branch", "branch_blocks", "teacher_training", "method", "control")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    if "data" in given:
        given["data"] = with_absolute_path(given["data"])
    return RECIPES[options.recipe](**given)


def with_absolute_path(data: str) -> str:
    name, colon, path = data.partition(":")
    if name not in DATASETS:
        raise UserError(f"no data set {name!r}{nearest(name, DATASETS)}")
    return f"{name}:{Path(path).absolute()}" if colon and path else data


def _overridden(recipe: Recipe, options: Options) -> Recipe:
    own = _given(options, "image_size", "limit_train", "seed", "seeds", "eval_every", "keep_epochs", "threads")
    image = _given(options, "crop", "crop_padding", "flip", "rotation")
    speed = _given(options, "compile", "precision", "channels_last", "fold", "deterministic")
    stages = tuple(_overridden_stage(stage, options) for stage in recipe.stages)
    return replace(
        recipe,
        **own,
        stages=stages,
        augmentation=replace(recipe.augmentation, **image),
        execution=replace(recipe.execution, **speed),
    )


def _overridden_stage(stage: StageRecipe, options: Options) -> StageRecipe:
    if stage.training is not None:
        stage = replace(stage, training=_overridden_training(stage.training, stage.name, options))
    if stage.branches is not None:
        given = {name: value for name, value in vars(options.sftn).items() if value is not None}
        stage = replace(stage, branches=replace(stage.branches, **given))
    if stage.kind == "distill":
        settings = dict(stage.settings)
        for name in settings:
            own = getattr(options, _field_name(name), None)
            given = {} if own is None else {key: value for key, value in vars(own).items() if value is not None}
            settings[name] = replace(settings[name], **given)
        stage = replace(stage, settings=settings)
    return stage


def _overridden_training(training: Training, stage: str, options: Options) -> Training:
    names = ("batch_size", "optimizer", "lr", "momentum", "nesterov", "weight_decay", "schedule", "factor")
    given = _given(options, *names, "milestones", "warmup_epochs", "warmup_by", "drop_last", "accumulate")
    given |= _given(options, "clip_norm", "ema", "sync_batchnorm")
    epochs = options.epochs
    if stage == "teacher" and options.teacher_epochs is not None:
        epochs = options.teacher_epochs
    if epochs is not None:
        if epochs < 1:
            raise UserError(f"epochs is at least 1, got {epochs}")
        moved = (max(1, round(milestone * epochs / training.epochs)) for milestone in training.milestones)
        shortened = {
            "epochs": epochs,
            "milestones": tuple(sorted({milestone for milestone in moved if milestone < epochs})),
            "warmup_epochs": min(training.warmup_epochs, epochs),
        }
        given = shortened | given
    return replace(training, **given)


def _with_loaded_teacher(recipe: Recipe, spec: str, network: str | None) -> Recipe:
    file = find_weights(spec).absolute()
    description = describe(file)
    if description is not None:
        if network not in (None, description.network):
            raise UserError(f"{file} holds a {description.network}, --teacher-net says {network}")
        network = description.network
    elif network is None:
        raise UserError(f"{file} does not say which network it holds: give --teacher-net")
    teacher = StageRecipe(name="teacher", kind="loaded", network=network, file=str(file), sha256=sha256(file))
    return replace(recipe, stages=tuple(teacher if stage.name == "teacher" else stage for stage in recipe.stages))


def _given(options: Options, *names: str) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def _field_name(method: str) -> str:
    return "settings_of_" + "".join(letter if letter.isalnum() else "_" for letter in method)


def _value_of(arguments: list[str], option: str) -> str | None:
    for place, argument in enumerate(arguments):
        if argument == option and place + 1 < len(arguments):
            return arguments[place + 1]
        if argument.startswith(option + "="):
            return argument.partition("=")[2]
    return None


def _description() -> str:
    recipes = "\n".join(f"  {name}: {(make.__doc__ or '').strip().splitlines()[0]}" for name, make in RECIPES.items())
    return (
        "Trains a teacher, by default a student-friendly one, and distils a student from it.\n\n"
        f"Recipes:\n{recipes}\n\n"
        f"Data sets: {', '.join(DATASETS)}\n\n"
        f"Methods: {', '.join(METHODS)}\n\n"
        f"Networks: {', '.join(networks.NETWORKS)}"
    )
