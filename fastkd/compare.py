"""python -m fastkd.compare: methods side by side, from a standard and from a student-friendly teacher, over seeds."""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from fastkd.data import with_absolute_path
from fastkd.methods import split_methods
from fastkd.methods.at import ATSettings
from fastkd.methods.crd import CRDSettings
from fastkd.methods.ctkd import CTKDSettings
from fastkd.methods.dkd import DKDSettings
from fastkd.methods.kd import KDSettings
from fastkd.methods.rld import RLDSettings
from fastkd.methods.sdd import SDDSettings
from fastkd.methods.simkd import SimKDSettings
from fastkd.recipes import RECIPES
from fastkd.recipes.choice import TeacherTraining, method_settings
from fastkd.recipes.recipe import Recipe, StageRecipe
from fastkd.report import write_report
from fastkd.run import Job, carry_out, check, create_folder, holds_run, open_data, open_run
from fastkd.run.charts import Dot, dot_chart
from fastkd.run.differences import Difference, difference, note
from fastkd.run.figures import mean_and_std
from fastkd.run.page import Html, element, join, table
from fastkd.support.command_line import command, read_options
from fastkd.support.console import new_table, table_console
from fastkd.support.display import Display
from fastkd.support.environment import pick_device
from fastkd.support.errors import UserError
from fastkd.support.files import write_json
from fastkd.support.interrupt import Stopped, interruptible
from fastkd.support.plain import to_plain
from fastkd.support.ranges import Epochs, Images, Threads, whole
from fastkd.support.session import Session
from fastkd.support.words import counted

METHODS = ("kd", "kd+fitnet", "kd+at", "kd+sp", "simkd", "crd")
TEACHERS: tuple[TeacherTraining, ...] = ("standard", "sftn")
ALONE = "no teacher"
_SHORTER_BEGINNINGS = {
    "ctkd": CTKDSettings(epochs_of_rise=1),
    "dkd": DKDSettings(warmup_epochs=2),
    "rld": RLDSettings(warmup_epochs=2),
    "sdd": SDDSettings(warmup_epochs=2),
}
"""Settings for a twelfth of the published epochs: what grows over the first of them does so over as small a part."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Trains a standard and a student-friendly teacher, and from each of them a student by every method; compares
    accuracy, agreement with the teacher and KL. Called again on the same folder it goes on where it stood."""

    data: str = "digits"
    """digits, or cifar100:PATH for a subset of CIFAR-100 (resnet20 to resnet8, meant for a GPU)."""
    methods: str = ",".join(METHODS)
    """A,B+C: the methods to compare, each one or several joined by +."""
    out: Path = Path("runs/compare")
    """Folder of the runs and of report.html."""
    seeds: Annotated[int, whole(1, 10_000)] = 3
    """Repetitions, from which the noise of the differences is known."""
    epochs: Epochs | None = None
    """Epochs of the students; the teachers have half as many again (default: 20)."""
    limit_train: Images | None = None
    """Train on so many images only (default: 10000 of CIFAR-100)."""
    threads: Threads | None = None
    """Threads of the CPU (default: all cores)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it is computed; auto: on a GPU where there is one."""
    unlocked: bool = False
    """Go on where the file system has no locks: see to it yourself that no other process trains in the folder."""


def main(arguments: list[str]) -> int:
    options = read_options(Options, arguments, program="python -m fastkd.compare")
    results = {}
    for kind in TEACHERS:
        trained = _train(recipe_of(options, kind), options.out / kind, options)
        if trained is None:
            return 130
        results[kind] = trained
    measured = measure(results)
    write_json(options.out / "comparison.json", measured)
    folders = [options.out / kind for kind in TEACHERS]
    write_report(folders, options.out / "report.html", above=page(measured))
    console = table_console()
    for title, (heads, rows) in tables(measured).items():
        shown = new_table(*heads, title=title)
        for row in rows:
            shown.add_row(*row)
        console.print(shown)
    console.print(f"{remark(measured)}\nreport   {options.out / 'report.html'}", markup=False, soft_wrap=True)
    return 0


def compared(options: Options) -> tuple[str, ...]:
    """The methods of --methods; raises UserError for one that is not known, or stands there twice."""
    methods = tuple(options.methods.split(","))
    if len(set(methods)) != len(methods):
        raise UserError(f"--methods are methods joined by commas, each once, got {options.methods!r}")
    for method in methods:
        split_methods(method)
    return methods


def recipe_of(options: Options, kind: TeacherTraining) -> Recipe:
    """The recipe of a teacher of that kind, of the student without a teacher, and of the student by every method."""
    methods = compared(options)
    name = options.data.partition(":")[0]
    own: dict[str, Any]
    if name == "digits":
        made = RECIPES["digits"](teacher_training=kind)
        # AT's maps have 1/16 as many pixels as on CIFAR.
        own = {"at": ATSettings(weight=1000 / 16), "crd": CRDSettings(negatives=256)}
    elif name == "cifar100":
        made = RECIPES["cifar100-sftn"](teacher_net="resnet20", student="resnet8", teacher_training=kind, control=True)
        made = replace(made, limit_train=10_000)
        own = {"crd": CRDSettings(negatives=4096)}
    else:
        raise UserError(f"the comparison is of digits or cifar100:PATH, got {options.data!r}")
    teacher, student, control = (
        _shortened(stage, 20 if options.epochs is None else options.epochs) for stage in made.stages
    )
    own["kd"] = KDSettings(ce_weight=1.0, kl_weight=1.0, temperature=4.0)  # as in SFTN's recipe beside other methods
    # SimKD alone has no other loss to set the length of a step, and this run has a hundredth of the paper's steps.
    own["simkd"] = SimKDSettings(weight=10.0)
    own |= _SHORTER_BEGINNINGS
    students = []
    for method in methods:
        given = student.settings if method == "kd" else own
        students.append(replace(student, name=method, method=method, settings=method_settings(method, given)))
    return replace(
        made,
        name=f"compare-{kind}",
        data=with_absolute_path(options.data),
        stages=(teacher, replace(control, name=ALONE), *students),
        seeds=options.seeds,
        limit_train=made.limit_train if options.limit_train is None else options.limit_train,
        threads=options.threads,
        eval_every=5,
        published_classes=None,
        deviations=(),
    )


def _shortened(stage: StageRecipe, epochs: int) -> StageRecipe:
    assert stage.training is not None
    training = replace(stage.training, epochs=max(1, 3 * epochs // 2) if stage.role == "teacher" else epochs)
    cosine = replace(training, schedule="cosine", milestones=(), warmup_epochs=min(1, training.epochs - 1))
    return replace(stage, training=replace(cosine, drop_last=True))


def _train(recipe: Recipe, folder: Path, options: Options) -> list[dict[str, Any]] | None:
    """The results of every seed; None where the run was stopped."""
    job = Job.of(recipe, open_data(recipe), pick_device(options.device))
    check(job)
    if not holds_run(folder):
        create_folder(folder, recipe, unlocked=options.unlocked)
    elif to_plain(open_run(folder)) != to_plain(recipe):
        raise UserError(f"{folder} holds a comparison with other settings: give another --out")
    with Display() as display, interruptible() as interrupt:
        display.note(f"{recipe.name}  {recipe.data}, {counted(recipe.seeds, 'seed')}  ->  {folder}")
        try:
            return carry_out(job, folder, Session(display, interrupt, unlocked=options.unlocked))
        except Stopped as stopped:
            display.note(f"{stopped}; the same command goes on")
            return None


Measured = dict[str, dict[str, dict[str, list[float]]]]
"""{method: {teacher: {"top1", "agreement" (percent), "kl" (nats): a value for each seed}}}; the teachers' own accuracy
stands under the method "teacher"."""

MEASURES = {"top1": ("top-1 %", 2), "agreement": ("same top-1 as teacher %", 2), "kl": ("KL to teacher", 4)}


def measure(results: dict[str, list[dict[str, Any]]]) -> Measured:
    """Collects what is compared; results: those of every seed, by kind of teacher, as in results.json."""
    measured: Measured = {}
    for kind, seeds in results.items():
        for name in seeds[0]["stages"]:
            counts = [seed["stages"][name]["test"][name] for seed in seeds]
            values = {"top1": [100 * count["top1"] / count["samples"] for count in counts]}
            if name != "teacher":
                alike = [seed["similarity"][name] for seed in seeds]
                values["agreement"] = [100 * one["agreement"] for one in alike]
                values["kl"] = [one["kl"] for one in alike]
            measured.setdefault(name, {})[kind] = values
    return measured


def learned(measured: Measured) -> list[str]:
    """The methods by which students learned."""
    return [name for name in measured if name not in ("teacher", ALONE)]


Rows = list[tuple[str, ...]]


def tables(measured: Measured) -> dict[str, tuple[tuple[str, ...], Rows]]:
    """Heads and rows by title: the figures, then the differences."""
    figures: Rows = []
    for name, by_kind in measured.items():
        for kind, values in by_kind.items():
            cells = [
                mean_and_std(values[key]).show(digits) if key in values else "" for key, (_, digits) in MEASURES.items()
            ]
            figures.append((name, kind, *cells))
    digits = (2, 2, *(digits for _, digits in MEASURES.values()))
    compared = {
        name: tuple(each.show(places) for each, places in zip(found, digits, strict=True))
        for name, found in differences(measured).items()
    }
    seeds = len(measured[ALONE]["standard"]["top1"])
    what = f"mean ± std over {seeds} seeds" if seeds > 1 else "one seed"
    measures = tuple(title for title, _ in MEASURES.values())
    heads = (*(f"top-1 - {ALONE}, {kind}" for kind in TEACHERS), *(f"sftn - standard: {title}" for title in measures))
    return {
        f"after the last epoch, {what}": (("method", "teacher", *measures), figures),
        "differences of the means": (("method", *heads), [(name, *cells) for name, cells in compared.items()]),
    }


def differences(measured: Measured) -> dict[str, list[Difference]]:
    """Of each method: to the student without a teacher for each kind of teacher, then between the two kinds."""
    found = {}
    for name in learned(measured):
        own, alone = measured[name], measured[ALONE]
        against = [difference(own[kind]["top1"], alone[kind]["top1"]) for kind in TEACHERS]
        found[name] = [*against, *(difference(own["sftn"][key], own["standard"][key]) for key in MEASURES)]
    return found


def remark(measured: Measured) -> str:
    """What the marks of the differences mean."""
    return note(each for found in differences(measured).values() for each in found)


def page(measured: Measured) -> Html:
    """The HTML that stands above the runs' own report."""
    bars = " In the plots the bars are two standard errors of a mean." if _several_seeds(measured) else ""
    parts = [element("h2", "Methods and teachers"), element("p", remark(measured) + bars)]
    for title, (heads, rows) in tables(measured).items():
        parts += [element("h3", title), table(heads, rows, kind="numbers")]
    charts = [dot_chart(title, list(_dots(measured, key))) for key, (title, _) in MEASURES.items()]
    return join([*parts, element("div", *charts, class_="charts")])


def _several_seeds(measured: Measured) -> bool:
    return len(measured[ALONE]["standard"]["top1"]) > 1


def _dots(measured: Measured, key: str) -> Iterator[Dot]:
    for name in (ALONE, *learned(measured)):
        for kind in TEACHERS:
            values = measured[name][kind][key]
            found = mean_and_std(values)
            yield Dot(name, f"{kind} teacher", found.mean, 2 * (found.std or 0.0) / math.sqrt(len(values)))


if __name__ == "__main__":
    sys.exit(command(main))
