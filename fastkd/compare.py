"""python -m fastkd.compare: methods side by side, from a standard and from a student-friendly teacher, over seeds."""

import html
import math
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rich.table import Table

from fastkd.methods.at import ATSettings
from fastkd.methods.crd import CRDSettings
from fastkd.methods.kd import KDSettings
from fastkd.methods.simkd import SimKDSettings
from fastkd.options import with_absolute_path
from fastkd.recipes import RECIPES
from fastkd.recipes.choice import TeacherTraining, method_settings
from fastkd.recipes.recipe import Recipe, StageRecipe
from fastkd.report import write_report
from fastkd.run import Job, carry_out, check, create_folder, open_data, open_run
from fastkd.run.charts import Dot, dot_chart
from fastkd.run.figures import mean_and_std
from fastkd.support.command_line import command, read_options
from fastkd.support.console import table_console
from fastkd.support.display import Display
from fastkd.support.environment import pick_device
from fastkd.support.errors import UserError
from fastkd.support.files import write_json
from fastkd.support.interrupt import Stopped, interruptible
from fastkd.support.plain import to_plain
from fastkd.support.session import Session

METHODS = ("kd", "kd+fitnet", "kd+at", "kd+sp", "simkd", "crd")
TEACHERS: tuple[TeacherTraining, ...] = ("standard", "sftn")
ALONE = "no teacher"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Trains a standard and a student-friendly teacher, and from each of them a student by every method; compares
    accuracy, agreement with the teacher and KL. Called again on the same folder it goes on where it stood."""

    data: str = "digits"
    """digits, or cifar100:PATH for a subset of CIFAR-100 (resnet20 to resnet8, meant for a GPU)."""
    out: Path = Path("runs/compare")
    """Folder of the runs and of report.html."""
    seeds: int = 3
    epochs: int | None = None
    """Epochs of the students; the teachers have half as many again (default: 20)."""
    limit_train: int | None = None
    """Train on so many images only (default: 10000 of CIFAR-100)."""
    threads: int | None = None
    """Threads of the CPU (default: all cores)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"


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
        table = Table(*heads, title=title, title_justify="left")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    console.print(f"{NOTE}\nreport   {options.out / 'report.html'}", markup=False, soft_wrap=True)
    return 0


def recipe_of(options: Options, kind: TeacherTraining) -> Recipe:
    """The recipe of a teacher of that kind, of the student without a teacher, and of the student by every method."""
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
    teacher, student, control = (_shortened(stage, options.epochs or 20) for stage in made.stages)
    own["kd"] = KDSettings(ce_weight=1.0, kl_weight=1.0, temperature=4.0)  # as in SFTN's recipe beside other methods
    # SimKD alone has no other loss to set the length of a step, and this run has a hundredth of the paper's steps.
    own["simkd"] = SimKDSettings(weight=10.0)
    students = []
    for method in METHODS:
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
    if not (folder / "recipe.json").exists():
        create_folder(folder, recipe)
    elif to_plain(open_run(folder)) != to_plain(recipe):
        raise UserError(f"{folder} holds a comparison with other settings: give another --out")
    with Display() as display, interruptible() as interrupt:
        display.note(f"{recipe.name}  {recipe.data}, {recipe.seeds} seeds  ->  {folder}")
        try:
            return carry_out(job, folder, Session(display, interrupt))
        except Stopped as stopped:
            display.note(f"{stopped}; the same command goes on")
            return None


Measured = dict[str, dict[str, dict[str, list[float]]]]
"""{method: {teacher: {"top1", "agreement" (percent), "kl" (nats): a value for each seed}}}; the teachers' own accuracy
stands under the method "teacher"."""

MEASURES = {"top1": ("top-1 %", 2), "agreement": ("same top-1 as teacher %", 2), "kl": ("KL to teacher", 4)}
NOTE = "≈ marks a difference under two standard errors, √(s₁²/n + s₂²/n): seeds alone may make as much."


def measure(results: dict[str, list[dict[str, Any]]]) -> Measured:
    """Collects what is compared; results: those of every seed, by kind of teacher, as in results.json."""
    measured: Measured = {}
    for kind, seeds in results.items():
        for name in ("teacher", ALONE, *METHODS):
            counts = [seed["stages"][name]["test"][name] for seed in seeds]
            values = {"top1": [100 * count["top1"] / count["samples"] for count in counts]}
            if name != "teacher":
                alike = [seed["similarity"][name] for seed in seeds]
                values["agreement"] = [100 * one["agreement"] for one in alike]
                values["kl"] = [one["kl"] for one in alike]
            measured.setdefault(name, {})[kind] = values
    return measured


class Difference(NamedTuple):
    mean: float
    error: float | None
    """Standard error of the mean; None for a single seed."""

    @property
    def clear(self) -> bool:
        """Whether the difference is at least two standard errors."""
        return self.error is not None and abs(self.mean) >= 2 * self.error and self.mean != 0

    def show(self, digits: int) -> str:
        return f"{'' if self.clear else '≈ '}{self.mean:+.{digits}f}"


def difference(one: Sequence[float], other: Sequence[float]) -> Difference:
    """The difference of the means, one - other, with the standard error of two independent samples."""
    mean = statistics.fmean(one) - statistics.fmean(other)
    if min(len(one), len(other)) < 2:
        return Difference(mean, None)
    return Difference(mean, math.sqrt(sum(statistics.variance(values) / len(values) for values in (one, other))))


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
    differences: Rows = []
    for name in METHODS:
        own, alone = measured[name], measured[ALONE]
        against = [difference(own[kind]["top1"], alone[kind]["top1"]).show(2) for kind in TEACHERS]
        between = [
            difference(own["sftn"][key], own["standard"][key]).show(digits) for key, (_, digits) in MEASURES.items()
        ]
        differences.append((name, *against, *between))
    seeds = len(measured[ALONE]["standard"]["top1"])
    what = f"mean ± std over {seeds} seeds" if seeds > 1 else "one seed"
    measures = tuple(title for title, _ in MEASURES.values())
    heads = (*(f"top-1 - {ALONE}, {kind}" for kind in TEACHERS), *(f"sftn - standard: {title}" for title in measures))
    return {
        f"after the last epoch, {what}": (("method", "teacher", *measures), figures),
        "differences of the means": (("method", *heads), differences),
    }


def page(measured: Measured) -> str:
    """The HTML that stands above the runs' own report."""
    parts = [f"<h2>Comparison</h2><p>{html.escape(NOTE)} In the plots the bars are two standard errors of a mean.</p>"]
    for title, (heads, rows) in tables(measured).items():
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in heads)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        parts.append(f"<h3>{html.escape(title)}</h3><table><tr>{head}</tr>{body}</table>")
    charts = [dot_chart(title, list(_dots(measured, key))) for key, (title, _) in MEASURES.items()]
    return "".join(parts) + f'<div class="charts">{"".join(charts)}</div>'


def _dots(measured: Measured, key: str) -> Iterator[Dot]:
    for name in (ALONE, *METHODS):
        for kind in TEACHERS:
            values = measured[name][kind][key]
            error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
            yield Dot(name, f"{kind} teacher", statistics.fmean(values), 2 * error)


if __name__ == "__main__":
    sys.exit(command(main))
