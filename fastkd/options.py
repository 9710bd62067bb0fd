"""The command line of `python -m fastkd.train`, and the recipe it means."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import tyro

from fastkd import networks
from fastkd.data import DATASETS, settled
from fastkd.methods import METHODS, find_method, split_methods
from fastkd.recipes import RECIPES, Choice, listing
from fastkd.recipes.course import learning_together
from fastkd.recipes.published import beside_the_paper, choice_of, spoken
from fastkd.recipes.recipe import Recipe, StageRecipe, read_recipe, recipe_to_plain
from fastkd.run.teachers import with_loaded_teacher, with_more_teachers
from fastkd.support.command_line import command_line_class, read_options
from fastkd.support.errors import UserError, nearest
from fastkd.support.plain import differences
from fastkd.training.optimisation import Training


@dataclass(frozen=True, kw_only=True)
class SFTNOptions:
    """The loss of a student-friendly teacher; what is not given is the recipe's."""

    temperature: float | None = None
    """τ, of KL."""
    teacher_weight: float | None = None
    """λ_T, of the teacher's cross-entropy."""
    kl_weight: float | None = None
    """λ_KL, of KL between teacher and branches."""
    ce_weight: float | None = None
    """λ_CE, of the branches' cross-entropy."""
    kl: Literal["forward", "reverse"] | None = None
    """forward: KL(teacher ‖ branch); reverse: KL(branch ‖ teacher), as the paper prints it."""
    detach_teacher: bool | None = None
    """KL sends no gradient to the teacher."""
    ce_temperature: float | None = None
    """Of the cross-entropies, which the paper prints at τ."""
    tau_squared: bool | None = None
    """Multiply KL by τ²."""


_TEACHER = tyro.conf.arg(metavar="NAME", help_behavior_hint="")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is not given is the recipe's."""

    recipe: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RECIPE")] = "digits"
    """The name of a recipe, or the recipe.json of a run."""

    # What is trained
    data: str | None = None
    """NAME or NAME:PATH, e.g. cifar100:/data/cifar-100-binary, imagefolder:/data/imagenet."""
    teacher_net: str | None = None
    """Network of the teacher; several joined by + are teachers of one student, as --method aveg wants them."""
    student: str | None = None
    """Network of the student."""
    pair: str | None = None
    """TEACHER/STUDENT: both in one."""
    branch: str | None = None
    """Network of the branches grafted on the teacher (default: the student's)."""
    branch_blocks: tuple[int, ...] | None = None
    """Teacher blocks, from 1, that carry a branch (default: all but the last)."""
    teacher_training: Literal["standard", "sftn"] | None = None
    """Train the teacher alone, or together with its branches."""
    teacher: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, _TEACHER] = ()
    """RUN, RUN@EPOCH or FILE: take this teacher instead of training one; once more for each further teacher."""
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
    """Of SGD."""
    nesterov: bool | None = None
    """Nesterov's momentum."""
    weight_decay: float | None = None
    """Of every parameter."""
    schedule: Literal["multistep", "cosine", "constant"] | None = None
    """Of the learning rate."""
    milestones: tuple[int, ...] | None = None
    """Epochs from which on it is multiplied by --factor once more."""
    factor: float | None = None
    """Of the learning rate at each milestone."""
    warmup_epochs: int | None = None
    """Epochs of a linear rise of the learning rate."""
    warmup_by: Literal["epoch", "iteration"] | None = None
    """One level an epoch, or one a step."""
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
    """Pixels on each side, of --crop pad."""
    flip: bool | None = None
    """Horizontally, every second image."""
    rotation: float | None = None
    """Random rotation by at most so many degrees."""

    # Image files
    loader: Literal["auto", "dali", "torchvision"] | None = None
    """Who decodes them (default: DALI where it is installed)."""
    resident: bool | None = None
    """Decode all of them once and keep them on the device (default: with --crop pad)."""
    max_bad_images: int | None = None
    """Leave out so many files that cannot be used; one more is an error (default: 0)."""
    class_list: Path | None = None
    """Lines FOLDER [NAME]: the classes in the order of their labels (default: PATH/classes.txt, else the folders)."""
    workers: int | None = None
    """Processes or threads that decode (default: all cores)."""
    index_cache: Path | None = None
    """Folder for what the scan of a data set finds (default: the run's)."""

    # The run
    run: Path | None = None
    """Folder of the run (default: runs/RECIPE-DATE)."""
    resume: Path | None = None
    """Go on with the run in this folder."""
    seed: int | None = None
    """Of weights, order, augmentation and negatives."""
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
    capture: Literal["auto", "on", "off"] | None = None
    """Record the whole step as one CUDA graph and replay it (default: on one GPU)."""
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
    """A few steps of every stage, with their memory and speed; writes nothing."""
    list: bool = False
    """Show the papers' tables; with a RECIPE, and --pair or --method, its lines, each of which can be run."""


def parse(arguments: list[str]) -> Options:
    """Reads the command line; prints the help or the mistake and exits as command lines do."""
    method = _value_of(arguments, "--method") or "kd"
    extra: list[tuple[str, Any, Any]] = []
    names = split_methods(method)
    if names[0] == "ce" and "ce" not in method.split("+"):
        names = ("kd", *names)  # a paper's recipe may join KD to it
    nested: dict[str, type[Any]] = {}
    for name in names:
        settings = command_line_class(find_method(name).Settings, all_optional=True)
        prefix = (name.partition(":")[2] or name).lower()
        option = tyro.conf.arg(name=prefix, help=f"Settings of the method {name}.")
        nested[prefix] = settings
        extra.append((_field_name(name), Annotated[settings, option], dataclasses.field(default_factory=settings)))
    sftn = command_line_class(SFTNOptions)
    extra.append(("sftn", sftn, dataclasses.field(default_factory=sftn)))
    for argument in arguments:
        owner = argument.removeprefix("--").partition(".")[0]
        if argument.startswith("--") and owner in METHODS and owner not in nested:
            raise UserError(f"{argument.partition('=')[0]} is a setting of the method {owner}, --method is {method}")
    kind = command_line_class(Options, extra)
    program, description = "python -m fastkd.train", _description()
    options = read_options(kind, arguments, program=program, description=description, nested=nested | {"sftn": sftn})
    return options if options.pair is None else _with_pair(options, options.pair)


def _with_pair(options: Options, pair: str) -> Options:
    teacher, slash, student = pair.partition("/")
    if not slash or not teacher or not student:
        raise UserError(f"--pair is TEACHER/STUDENT, as in wrn_40_2/wrn_16_2, got {pair!r}")
    if options.teacher_net is not None or options.student is not None:
        raise UserError("--pair stands for --teacher-net and --student: give the one or the others")
    return replace(options, teacher_net=teacher, student=student, pair=None)


CHOICE = tuple(field.name for field in dataclasses.fields(Choice))
"""The options that a recipe's function takes: what is trained, not how."""


def recipe_of(options: Options) -> Recipe:
    """The recipe that the options mean: the named one, with what was given in place of its own settings."""
    resolved = _overridden(_base(options), options)
    if options.teacher:
        if all(stage.name != "teacher" for stage in resolved.stages):
            _idle("teacher", "the student's method has none")
        resolved = with_loaded_teacher(resolved, options.teacher[0], options.teacher_net)
    _refuse_idle(options, resolved)
    return with_more_teachers(beside_the_paper(resolved), options.teacher[1:], options.teacher_net)


def listed(options: Options) -> Iterator[str]:
    """The papers' tables, or the lines of the one recipe that is named."""
    if options.recipe == Options.recipe:
        return listing.overview()
    _refuse_unknown(options)
    return listing.lines(
        options.recipe,
        teacher=options.teacher_net or "",
        student=options.student or "",
        method=options.method or "",
        training=options.teacher_training or "",
    )


def refuse_other_recipe(saved: Recipe, options: Options) -> None:
    """A resumed run goes on with its own recipe: an option that says otherwise is an error."""
    for name in ("run", "dry_run", "teacher"):
        if getattr(options, name):
            raise UserError(f"--{name.replace('_', '-')} does not go together with --resume")
    if options.recipe not in (Options.recipe, saved.name):
        raise UserError(f"--resume {options.resume}: that run is of the recipe {saved.name}, not {options.recipe}")
    given, chosen = _given(options, *CHOICE), choice_of(saved)
    if "data" in given:
        given["data"] = with_absolute_path(given["data"])
    if saved.name in RECIPES:  # which may spell the method out
        given = {
            name: value for name, value in choice_of(RECIPES[saved.name](**chosen | given)).items() if name in given
        }
    found = [(name, chosen[name], value) for name, value in given.items() if chosen[name] != value]
    found += differences(recipe_to_plain(saved), recipe_to_plain(_overridden(saved, options)))
    if found:
        place, before, after = found[0]
        raise UserError(
            f"--resume {options.resume}: the run was begun with {spoken(place, saved)} = {before!r}, the command says "
            f"{after!r}; leave the option out, or start another run"
        )


def _refuse_idle(options: Options, recipe: Recipe) -> None:
    """An option that would change nothing is an error, so that nobody believes it did."""
    stages = {stage.name: stage for stage in recipe.stages}
    teacher = stages.get("teacher")
    of_branches = [f"sftn.{name}" for name, value in vars(options.sftn).items() if value is not None]
    of_branches += _given(options, "branch", "branch_blocks")
    of_teacher = [*_given(options, "teacher_training", "teacher_epochs", "teacher_net"), *of_branches]
    if teacher is None and of_teacher:
        _idle(of_teacher[0], f"the method {stages['student'].method} has no teacher")
    if teacher is not None and teacher.branches is None and of_branches:
        _idle(of_branches[0], "the teacher is not trained with branches")
    for name in _given(options, "teacher_training", "teacher_epochs"):
        if teacher is not None and teacher.training is None:
            _idle(name, "the teacher is loaded, not trained")
        if learning_together(recipe):
            _idle(name, "the teacher learns together with the student")
    for name, found in vars(options).items():
        method = name.removeprefix(_SETTINGS)
        given = [key for key, value in vars(found).items() if value is not None] if name != method else []
        learns = stages["student"].method if "student" in stages else ""
        if given and all(name != _field_name(own) for stage in recipe.stages for own in stage.settings):
            _idle(f"{method}.{given[0]}", f"the student learns by {learns}")
    if options.milestones is not None and any(s.training and s.training.schedule != "multistep" for s in recipe.stages):
        raise UserError("--milestones changes nothing: they belong to --schedule multistep")
    if recipe.name == "digits" and recipe.data != "digits" and options.image_size is None:
        raise UserError("the recipe digits trains on 8 pixels: give --image-size, or take another recipe")


def _idle(option: str, why: str) -> NoReturn:
    raise UserError(f"--{option.replace('_', '-')} changes nothing: {why}")


def _base(options: Options) -> Recipe:
    if options.recipe.endswith(".json"):
        if given := _given(options, *CHOICE):
            raise UserError(f"--{next(iter(given)).replace('_', '-')} cannot change {options.recipe}: edit the file")
        return read_recipe(Path(options.recipe))
    _refuse_unknown(options)
    given = _given(options, *CHOICE)
    if "data" in given:
        given["data"] = with_absolute_path(given["data"])
    return RECIPES[options.recipe](**given)


def _refuse_unknown(options: Options) -> None:
    if options.recipe not in RECIPES:
        raise UserError(f"no recipe {options.recipe!r}{nearest(options.recipe, RECIPES)}")
    for network in (*(options.teacher_net or "").split("+"), options.student, options.branch):
        if network and network not in networks.NETWORKS:
            raise UserError(f"no network {network!r}{nearest(network, networks.NETWORKS)}")


def with_absolute_path(data: str) -> str:
    name, colon, path = data.partition(":")
    if name not in DATASETS:
        raise UserError(f"no data set {name!r}{nearest(name, DATASETS)}")
    return f"{name}:{Path(path).absolute()}" if colon and path else data


def _overridden(recipe: Recipe, options: Options) -> Recipe:
    own = _given(options, "image_size", "limit_train", "seed", "seeds", "eval_every", "keep_epochs", "threads")
    image = _given(options, "crop", "crop_padding", "flip", "rotation")
    speed = _given(options, "compile", "capture", "precision", "channels_last", "fold", "deterministic")
    stages = tuple(_overridden_stage(stage, options) for stage in recipe.stages)
    files = _given(options, "loader", "resident", "max_bad_images", "class_list", "workers", "index_cache")
    for name in ("class_list", "index_cache"):
        if name in files:
            files[name] = str(files[name].absolute())
    augmentation, reading = replace(recipe.augmentation, **image), replace(recipe.reading, **files)
    return replace(
        recipe,
        **own,
        stages=stages,
        augmentation=augmentation,
        reading=settled(reading, recipe.data, augmentation.crop),
        execution=replace(recipe.execution, **speed),
    )


def _overridden_stage(stage: StageRecipe, options: Options) -> StageRecipe:
    shortened = 1.0
    if stage.training is not None:
        training = _overridden_training(stage.training, stage.name, options)
        shortened, stage = training.epochs / stage.training.epochs, replace(stage, training=training)
    if stage.branches is not None:
        given = {name: value for name, value in vars(options.sftn).items() if value is not None}
        stage = replace(stage, branches=replace(stage.branches, **given))
    if stage.kind == "distill":
        settings = dict(stage.settings)
        for name in settings:
            own = getattr(options, _field_name(name), None)
            given = {} if own is None else {key: value for key, value in vars(own).items() if value is not None}
            settings[name] = replace(settings[name], **(_shortened_prestage(settings[name], shortened) | given))
        stage = replace(stage, settings=settings)
    return stage


def _overridden_training(training: Training, stage: str, options: Options) -> Training:
    names = ("batch_size", "optimizer", "lr", "momentum", "nesterov", "weight_decay", "schedule", "factor")
    given = _given(options, *names, "milestones", "warmup_epochs", "warmup_by", "drop_last", "accumulate")
    given |= _given(options, "clip_norm", "ema", "sync_batchnorm")
    epochs = options.epochs
    if stage.startswith("teacher") and options.teacher_epochs is not None:
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


def _shortened_prestage(settings: Any, factor: float) -> dict[str, Any]:
    """The epochs of a training that comes before move in proportion to the student's own."""
    if not getattr(settings, "epochs", 0) or factor == 1:
        return {}
    epochs = max(1, round(settings.epochs * factor))
    if not hasattr(settings, "milestones"):
        return {"epochs": epochs}
    moved = {max(1, round(milestone * factor)) for milestone in settings.milestones}
    return {"epochs": epochs, "milestones": tuple(sorted(milestone for milestone in moved if milestone < epochs))}


def _given(options: Options, *names: str) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(options, name)) is not None}


_SETTINGS = "settings_of_"


def _field_name(method: str) -> str:
    return _SETTINGS + "".join(letter if letter.isalnum() else "_" for letter in method)


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
