"""The command line of `python -m fastkd.train`, and the recipe it means.

Its options are the fields of the dataclasses that they override, which declare name, type and help once.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import tyro

from fastkd import networks
from fastkd.data import Augmentation, Reading, settled, with_absolute_path
from fastkd.methods import METHODS, find_method, import_method, is_known, outside, short_name, split_methods
from fastkd.recipes import RECIPES, listing
from fastkd.recipes.choice import Choice, admit_networks, joined_with_kd, with_features
from fastkd.recipes.course import learning_together
from fastkd.recipes.help import described, values
from fastkd.recipes.idle import idle_reading, idle_storing, idle_with_made_images
from fastkd.recipes.printed import as_printed
from fastkd.recipes.published import beside_the_paper, choice_of, spoken
from fastkd.recipes.recipe import GTNSettings, Recipe, SFTNSettings, StageRecipe, read_recipe, recipe_to_plain
from fastkd.recipes.several import joined, with_one_data_seed
from fastkd.recipes.shortened import shortened_prestage, shortened_training
from fastkd.run.beginnings import Beginnings, begun
from fastkd.run.teachers import with_loaded_teacher, with_more_teachers
from fastkd.run.weights import WeightsFiles
from fastkd.stored import Storing
from fastkd.support.command_line import of_group, read_options, refuse_empty
from fastkd.support.distributed import restarts
from fastkd.support.errors import ChangesNothing, UserError, nearest
from fastkd.support.fields import fixed, given, group, idle, rare
from fastkd.support.loggers import LoggerName
from fastkd.support.plain import differences
from fastkd.support.ranges import Epochs, NotNegative, Positive
from fastkd.support.words import counted
from fastkd.synthesis.settings import SynthesisSettings
from fastkd.training.execution import Execution
from fastkd.training.optimisation import OF_BEGINNING, Training

_NAME = tyro.conf.arg(metavar="NAME", help_behavior_hint="")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a training. One that is not given leaves the recipe's value as it is."""

    recipe: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RECIPE")] = "digits"
    """The name of a recipe, or the recipe.json of a run."""
    run: Path | None = None
    """Folder of the run (default: runs/RECIPE-DATE; in a job of SLURM's one of its own, which it takes up again)."""
    resume: Path | None = None
    """Go on with the run in this folder; auto: with the one in --run, which begins where there is none yet."""
    unlocked: bool = rare(False)
    """Go on where the file system has no locks: see to it yourself that no other process trains in the folder."""
    trust: Path | None = rare(None)
    """Import the code outside of fastkd that this run (or weights file) names, and say what; else none is."""
    pair: str | None = None
    """TEACHER/STUDENT: stands for --teacher-net and --student."""
    teacher: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, _NAME] = ()
    """RUN, RUN@EPOCH or FILE: take this teacher instead of training one; once more for each further teacher."""
    teacher_prefix: str = rare("")
    """What stands in front of the network's names in the file of --teacher, where several networks in it fit."""
    any_images: bool = rare(False)
    """Take a teacher that was trained on images of another size, normalisation or crop."""
    teacher_features: str = rare("")
    """A,B,C: the modules of a --teacher-net of others whose outputs are its features."""
    student_features: str = rare("")
    """A,B,C: the modules of a --student of others whose outputs are its features."""
    students: str | None = None
    """A,B,C: train each of these students, one after the other, from the same teachers."""
    teacher_epochs: Epochs | None = None
    """Epochs of the teacher, where they differ."""
    teacher_lr: Positive | None = None
    """Learning rate of the teacher, where it differs."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it is computed; auto: on a GPU where there is one."""
    as_printed: bool = rare(False)
    """Take what the paper prints, where its authors' code has something else, and the recipe with it."""
    logger: Annotated[tuple[LoggerName, ...], tyro.conf.UseAppendAction, _NAME] = ()
    """Also write records there: csv (metrics.csv), tensorboard, wandb, mlflow; once more for each further one."""
    heartbeat: NotNegative | None = rare(None)
    """Seconds between signs of life in the run's heartbeat.json, 0 for none (default: 10)."""
    dry_run: bool = False
    """Take a few steps of every stage and show their memory and speed; writes nothing."""
    list: bool = False
    """Show the papers' tables; with a RECIPE, and --pair or --method, its lines, each of which can be run."""

    choice: Choice = group()
    """What is trained."""
    training: Training = group()
    """How it is trained."""
    sftn: SFTNSettings = group("sftn", rare=True)
    """The loss of a student-friendly teacher."""
    synthesis: SynthesisSettings = group("synthesis", rare=True)
    """What makes images where a student has no data."""
    gtn: GTNSettings = group("gtn", rare=True)
    """The paths of a general teacher's branches."""
    augmentation: Augmentation = group(rare=True)
    """What happens to training images."""
    reading: Reading = group(rare=True)
    """How image files are read."""
    common: Recipe = group()
    """What holds for every stage."""
    beginnings: Beginnings = group(rare=True)
    """What trainings begin with, and what a teacher is for."""
    storing: Storing = group(rare=True)
    """How the teacher's outputs are stored."""
    execution: Execution = group(rare=True)
    """What makes a step fast."""
    methods: Mapping[str, Any] = fixed(None)
    """The settings of each method, by its name: classes of their own, which --method decides on."""


def parse(arguments: list[str], *, program: str = "python -m fastkd.train", description: str | None = None) -> Options:
    """Reads the command line. Raises UserError for a mistake; --help prints the help and ends the program."""
    refuse_empty(arguments)
    method = _value_of(arguments, "--method") or "kd"
    for name in outside(method):
        if not is_known(name):
            import_method(name)
    groups = {short_name(name): name for name in split_methods(joined_with_kd(method))}
    for argument in arguments:
        owner = argument.removeprefix("--").partition(".")[0]
        if argument.startswith("--") and owner in METHODS and owner not in groups:
            raise UserError(f"{argument.partition('=')[0]} is a setting of the method {owner}, --method is {method}")
    options = read_options(
        Options,
        arguments,
        program=program,
        description=description or described(whole="--help-all" in arguments),
        groups={prefix: find_method(name).Settings for prefix, name in groups.items()},
        values=values(arguments[0] if arguments else "", groups.values()),
    )
    options = replace(options, methods={name: of_group(options, prefix) for prefix, name in groups.items()})
    if options.pair is not None:
        options = _with_pair(options, options.pair)
    choice = with_features(options.choice, options.teacher_features, options.student_features)
    admit_networks(choice, options.students)
    return replace(options, choice=choice)


def _with_pair(options: Options, pair: str) -> Options:
    teacher, slash, student = pair.partition("/")
    if not slash or not teacher or not student:
        raise UserError(f"--pair is TEACHER/STUDENT, as in wrn_40_2/wrn_16_2, got {pair!r}")
    if {"teacher_net", "student"} & given(options.choice).keys():
        raise UserError("--pair stands for --teacher-net and --student: give the one or the others")
    return replace(options, choice=replace(options.choice, teacher_net=teacher, student=student), pair=None)


def recipe_of(options: Options, files: WeightsFiles | None = None) -> Recipe:
    """The recipe that the options mean: the named one, with what was given in place of its own settings. files: reads
    the files of --teacher, each of them once."""
    files = files or WeightsFiles()
    if options.students is None:
        return with_one_data_seed(_recipe_of(options, files))
    choices = [replace(options.choice, student=name) for name in _student_names(options)]
    several = [_recipe_of(replace(options, choice=choice), files) for choice in choices]
    return with_one_data_seed(joined(several))


def _student_names(options: Options) -> tuple[str, ...]:
    """The networks of --students."""
    assert options.students is not None
    if options.pair is not None or given(options.choice).get("student") is not None:
        raise UserError("--students stands for --student: give the one or the other")
    if options.recipe.endswith(".json"):
        raise UserError(f"--students cannot change {options.recipe}: edit the file")
    names = tuple(options.students.split(","))
    if len(set(names)) < len(names) or not all(names):
        raise UserError(f"--students are networks joined by commas, each once, got {options.students!r}")
    return names


def _recipe_of(options: Options, files: WeightsFiles) -> Recipe:
    network = given(options.choice).get("teacher_net")
    recipe = _overridden(_base(options), options)
    if options.as_printed:
        recipe = _as_printed(recipe, options)
    if options.teacher:
        if recipe.stage("teacher") is None:
            _refuse("teacher", "the student's method has none")
        how = {"prefix": options.teacher_prefix, "any_images": options.any_images}
        recipe = with_loaded_teacher(recipe, options.teacher[0], network, files, **how)
    else:
        for name in ("teacher_prefix", "any_images"):
            if getattr(options, name):
                _refuse(name, "no teacher is loaded")
    _refuse_idle(options, recipe)
    how = {"any_images": options.any_images}
    recipe = with_more_teachers(beside_the_paper(recipe), options.teacher[1:], network, files, **how)
    return begun(recipe, Beginnings(**given(options.beginnings)), files)


def _as_printed(recipe: Recipe, options: Options) -> Recipe:
    """The recipe with what its paper prints; an option that is given itself counts more."""
    if options.recipe.endswith(".json"):
        raise UserError(f"--as-printed cannot change {options.recipe}: edit the file")
    printed = as_printed(recipe)
    if printed == recipe:
        _refuse("as_printed", f"what the paper prints of it is the recipe {recipe.name}")
    return _overridden(printed, options)


def listed(options: Options) -> Iterator[str]:
    """The papers' tables, or the lines of the one recipe that is named."""
    wanted = given(options.choice)
    _refuse_unknown(options)
    _refuse_beside_a_list(options, wanted)
    if options.recipe == Options.recipe:
        return listing.overview()
    return listing.lines(
        options.recipe,
        teacher=wanted.get("teacher_net", ""),
        student=wanted.get("student", ""),
        method=wanted.get("method", ""),
        training=wanted.get("teacher_training", ""),
    )


def _refuse_beside_a_list(options: Options, wanted: dict[str, Any]) -> None:
    """A list is of a recipe's lines; what would change a training does not change it."""
    groups = (options.training, options.augmentation, options.reading, options.common, options.storing)
    others = [name for group in (*groups, options.beginnings, options.execution) for name in given(group)]
    others += [f"sftn.{name}" for name in given(options.sftn)] + [f"gtn.{name}" for name in given(options.gtn)]
    others += [f"synthesis.{name}" for name in given(options.synthesis)]
    others += [f"{short_name(name)}.{one}" for name, settings in options.methods.items() for one in given(settings)]
    of_a_run = ("run", "resume", "teacher", "students", "as_printed", "logger", "dry_run")
    others += [name for name in of_a_run if getattr(options, name)]
    others += [name for name in ("teacher_epochs", "teacher_lr", "heartbeat") if getattr(options, name) is not None]
    narrowing = ("teacher_net", "student", "method", "teacher_training")
    others += [name for name in wanted if name not in narrowing or options.recipe == Options.recipe]
    if others:
        of_one = "name a recipe" if others[0] in narrowing else "nothing is trained"
        _refuse(others[0], f"--list shows the papers' tables; {of_one}")


def refuse_other_recipe(saved: Recipe, options: Options) -> None:
    """A resumed run goes on with its own recipe: an option that says otherwise is an error."""
    for name in ("run", "dry_run", "teacher", "students", "as_printed", *given(options.beginnings)):
        if getattr(options, name, True):
            raise UserError(f"--{name.replace('_', '-')} does not go together with --resume")
    if options.recipe not in (Options.recipe, saved.name):
        raise UserError(f"--resume {options.resume}: that run is of the recipe {saved.name}, not {options.recipe}")
    wanted, chosen = _choice(options), choice_of(saved)
    if saved.name in RECIPES:  # the recipe's function may spell the method out
        spelled_out = choice_of(RECIPES[saved.name](**chosen | wanted))
        wanted = {name: value for name, value in spelled_out.items() if name in wanted}
    found = [(name, chosen[name], value) for name, value in wanted.items() if chosen[name] != value]
    found += differences(recipe_to_plain(saved), recipe_to_plain(_overridden(saved, options)))
    if found:
        place, before, after = found[0]
        raise UserError(
            f"--resume {options.resume}: the run was begun with {spoken(place, saved)} = {before!r}, the command says "
            f"{after!r}; leave the option out, or start another run"
        )


def goes_on_by_itself(options: Options) -> bool:
    """Whether a run that the same command began is taken up: asked for, or torchrun may start processes anew.

    It does not count as restarts those that it does because nodes come and go.
    """
    most = restarts()[1]
    if str(options.resume) == "auto" or (most and options.run is not None and options.resume is None):
        for name, given_too in (("dry-run", options.dry_run), ("run", options.run is None)):
            if given_too:
                raise UserError(f"--resume auto {'needs' if name == 'run' else 'does not go together with'} --{name}")
        return True
    if most and options.run is None and options.resume is None and not options.dry_run:
        raise UserError("torchrun --max-restarts needs --run: processes that are started anew have to find their run")
    return False


def refuse_another_command(saved: Recipe, recipe: Recipe, options: Options) -> None:
    """`--resume auto` goes on with what the same command began: another recipe than that is an error."""
    idle = {"deviations", *(() if options.reading.loader is not None else ("reading.loader",))}
    for place, before, after in differences(recipe_to_plain(saved), recipe_to_plain(recipe)):
        if place not in idle and not place.partition(".")[2].startswith("published"):
            raise UserError(
                f"--resume auto: the run in {options.run} was begun with {spoken(place, saved)} = {before!r}, the "
                f"command says {after!r}; give the same command, or another --run"
            )


def refuse_beside_a_dry_run(options: Options) -> None:
    """A dry run writes nothing: where and how is no matter."""
    for name in ("run", "logger", "heartbeat"):
        if getattr(options, name) not in (None, ()):
            _refuse(name, "--dry-run writes nothing")


def _refuse_idle(options: Options, recipe: Recipe) -> None:
    """An option that would change nothing is an error, so that nobody believes it did."""
    teacher, student, wanted = recipe.stage("teacher"), recipe.stage("student"), given(options.choice)
    learns = student.method if student is not None else ""
    of_branches = [f"sftn.{name}" for name in given(options.sftn)]
    of_branches += [name for name in ("branch", "branch_blocks", "branch_starts") if name in wanted]
    of_paths = [f"gtn.{name}" for name in given(options.gtn)]
    of_training = ["teacher_training"] * ("teacher_training" in wanted)
    of_training += [name for name in ("teacher_epochs", "teacher_lr") if getattr(options, name) is not None]
    of_teacher = [*of_training, *["teacher_net"] * ("teacher_net" in wanted), *of_branches]
    if teacher is None and of_teacher:
        _refuse(of_teacher[0], f"the method {learns} has no teacher")
    if learning_together(recipe) and (of_nothing := [*of_training, *of_branches]):
        _refuse(of_nothing[0], "the teacher learns together with the student")
    if teacher is not None and teacher.sftn is None and of_branches:
        _refuse(of_branches[0], "the teacher is not trained with branches")
    if of_paths and (teacher is None or teacher.gtn is None):
        _refuse(of_paths[0], "the teacher is not trained with paths of a supernet: --teacher-training gtn")
    if teacher is not None and teacher.training is None and of_training:
        _refuse(of_training[0], "the teacher is loaded, not trained")
    for method, settings in options.methods.items():
        changed, prefix = list(given(settings)), f"{short_name(method)}."
        learning = [stage for stage in recipe.stages if method in stage.settings]
        if changed and not learning:
            _refuse(prefix + changed[0], f"the student learns by {learns}")
        most = max((len(stage.teachers) for stage in learning), default=1)
        _refuse_idle_settings(changed, [stage.settings[method] for stage in learning], prefix, most)
    _refuse_idle_settings(given(options.sftn), [stage.sftn for stage in recipe.stages if stage.sftn], "sftn.")
    of_synthesis = [stage.synthesis for stage in recipe.stages if stage.synthesis]
    _refuse_idle_settings(given(options.synthesis), of_synthesis, "synthesis.")
    _refuse_idle_settings(given(options.gtn), [stage.gtn for stage in recipe.stages if stage.gtn], "gtn.")
    _refuse_idle_training(options, [stage.training for stage in recipe.stages if stage.training])
    _refuse_idle_settings(given(options.augmentation), [recipe.augmentation])
    if "fold" in given(options.execution) and (teacher is None or learning_together(recipe)):
        _refuse("fold", "no teacher is frozen")
    made = {name: given(getattr(options, name)) for name in ("synthesis", "common", "augmentation")}
    found = idle_with_made_images(recipe, **made) or idle_reading(recipe, given(options.reading))
    if found := found or idle_storing(recipe, given(options.storing)):
        _refuse(*found)
    if recipe.name == "digits" and recipe.data != "digits" and options.common.image_size is None:
        raise UserError("the recipe digits trains on 8 pixels: give --image-size, or take another recipe")


def _refuse_idle_settings(names: Iterable[str], own: Sequence[Any], prefix: str = "", teachers: int = 1) -> None:
    """Refuses an option that none of the settings takes any notice of. prefix: that of the options' names."""
    for name in names:
        unmet = [found[1] for one in own if (found := idle(one, [name], teachers)) is not None]
        if own and len(unmet) == len(own):
            _refuse(prefix + name, f"it goes with {unmet[0].words(prefix)}")


def _refuse_idle_training(options: Options, own: Sequence[Training]) -> None:
    wanted = given(options.training)
    for name in OF_BEGINNING:
        if name in wanted and all(getattr(training, name) != wanted[name] for training in own):
            _refuse(name, "no training begins with weights: --init, --teacher-init")
    _refuse_idle_settings(wanted, own)
    longest = max((training.epochs for training in own), default=0)
    if late := [milestone for milestone in wanted.get("milestones", ()) if milestone >= longest]:
        raise UserError(f"--milestones {late[0]} changes nothing: the longest stage has {counted(longest, 'epoch')}")


def _refuse(option: str, why: str) -> NoReturn:
    raise ChangesNothing(option.replace("_", "-"), why)


def _base(options: Options) -> Recipe:
    wanted = _choice(options)
    if options.recipe.endswith(".json"):
        if wanted:
            raise UserError(f"--{next(iter(wanted)).replace('_', '-')} cannot change {options.recipe}: edit the file")
        return read_recipe(Path(options.recipe))
    _refuse_unknown(options)
    return RECIPES[options.recipe](**wanted)


def _choice(options: Options) -> dict[str, Any]:
    """What was given of the `Choice` that a recipe's function takes."""
    wanted = given(options.choice)
    return wanted | ({"data": with_absolute_path(wanted["data"])} if "data" in wanted else {})


def _refuse_unknown(options: Options) -> None:
    if options.recipe not in RECIPES:
        raise UserError(f"no recipe {options.recipe!r}{nearest(options.recipe, RECIPES)}")
    wanted = given(options.choice)
    for network in (*wanted.get("teacher_net", "").split("+"), wanted.get("student")):
        if network and network not in networks.NETWORKS and not networks.is_outside(network):
            raise UserError(f"no network {network!r}{nearest(network, networks.NETWORKS)}")
    if branch := wanted.get("branch"):
        table = networks.SUPERNETS if wanted.get("teacher_training") == "gtn" else networks.NETWORKS
        if branch not in table | (networks.SUPERNETS if "teacher_training" not in wanted else {}):
            raise UserError(f"no network {branch!r} for branches{nearest(branch, table)}")


def _overridden(recipe: Recipe, options: Options) -> Recipe:
    augmentation = replace(recipe.augmentation, **given(options.augmentation))
    reading = replace(recipe.reading, **_absolute(given(options.reading)))
    return replace(
        recipe,
        **given(options.common),
        stages=tuple(_overridden_stage(stage, options) for stage in recipe.stages),
        augmentation=augmentation,
        reading=settled(reading, recipe.data, augmentation.crop),
        execution=replace(recipe.execution, **given(options.execution)),
        storing=replace(recipe.storing, **_absolute(given(options.storing))),
    )


def _absolute(given: dict[str, Any]) -> dict[str, Any]:
    """The options with absolute paths."""
    return {name: value.absolute() if isinstance(value, Path) else value for name, value in given.items()}


def _overridden_stage(stage: StageRecipe, options: Options) -> StageRecipe:
    shortened = 1.0
    if stage.training is not None:
        training = _overridden_training(stage.training, stage, options)
        shortened, stage = training.epochs / stage.training.epochs, replace(stage, training=training)
    if stage.sftn is not None:
        frozen = {"frozen_epochs": round(stage.sftn.frozen_epochs * shortened)}
        stage = replace(stage, sftn=replace(stage.sftn, **frozen | given(options.sftn)))
    if stage.gtn is not None:
        stage = replace(stage, gtn=replace(stage.gtn, **given(options.gtn)))
    if stage.synthesis is not None:
        stage = replace(stage, synthesis=replace(stage.synthesis, **given(options.synthesis)))
    if not stage.method:
        return stage
    split_methods(stage.method)  # refuses code that only a file names: its settings are no dataclass
    settings = dict(stage.settings)
    for name, own in settings.items():
        changed = given(options.methods[name]) if name in options.methods else {}
        settings[name] = replace(own, **(shortened_prestage(own, shortened) | changed))
    return replace(stage, settings=settings)


def _overridden_training(training: Training, stage: StageRecipe, options: Options) -> Training:
    changed = given(options.training)
    begins = stage.file or given(options.beginnings).get("teacher_init" if stage.role == "teacher" else "init")
    if not begins:
        changed = {name: value for name, value in changed.items() if name not in OF_BEGINNING}
    if stage.role == "teacher" and options.teacher_epochs is not None:
        changed["epochs"] = options.teacher_epochs
    if stage.role == "teacher" and options.teacher_lr is not None:
        changed["lr"] = options.teacher_lr
    return shortened_training(training, changed)


def _value_of(arguments: list[str], option: str) -> str | None:
    for place, argument in enumerate(arguments):
        if argument == option and place + 1 < len(arguments):
            return arguments[place + 1]
        if argument.startswith(option + "="):
            return argument.partition("=")[2]
    return None
