"""The table at the end of a run, and the figures in it."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fastkd.recipes.recipe import Published, Recipe, StageRecipe
from fastkd.recipes.several import shared_teachers
from fastkd.run.job import Job
from fastkd.support.console import new_table, table_console


class Figure(NamedTuple):
    """A mean over seeds; `std` is the sample standard deviation, None for a single seed."""

    mean: float
    std: float | None
    values: tuple[float, ...] = ()
    """One for each seed."""

    def show(self, digits: int = 2, unit: str = "") -> str:
        spread = "" if self.std is None else f" ± {self.std:.{digits}f}"
        return f"{self.mean:.{digits}f}{unit}{spread}"


class Row(NamedTuple):
    name: str
    network: str
    top1: Figure
    """Percent, after the last epoch."""
    best: Figure | None
    """Percent, of the best epoch on the images that the training was watched by: as papers print, never the result."""
    published: Published | None
    similarity: dict[str, Figure]
    """Similarity to the teacher: kl (nats), agreement (percent) and, where both have an embedding, cka."""


def rows(recipe: Recipe, results: Sequence[dict[str, Any]]) -> list[Row]:
    """One row for each evaluated network of the finished stages, the means over the seeds that finished them.

    A teacher that one seed trained for all of them is that seed's alone.
    """
    found = []
    for stage in recipe.stages:
        finished = [result for result in results if _is_own(stage, result["stages"].get(stage.name))]
        if not finished:
            continue
        stages = [result["stages"][stage.name] for result in finished]
        for name in stages[0]["test"]:
            own = name == stage.name
            network = stage.network if own or stage.sftn is None else stage.sftn.network
            top1 = mean_and_std([100 * part["test"][name]["top1"] / part["test"][name]["samples"] for part in stages])
            bests = [100 * part["best"]["top1"] for part in stages if own and part.get("best")]
            alike = [
                result["similarity"][stage.name] for result in finished if own and stage.name in result["similarity"]
            ]
            similarity = {
                key: mean_and_std([(100 if key == "agreement" else 1) * one[key] for one in alike])
                for key in ("kl", "cka", "agreement")
                if alike and all(key in one for one in alike)
            }
            published = stage.published if own else None
            found.append(Row(name, network, top1, mean_and_std(bests) if bests else None, published, similarity))
    return found


def best_epoch(results: Sequence[dict[str, Any]]) -> str:
    """The heading of the best epochs, which says by which images they were chosen if not by those of the test."""
    validated = any("validation" in stage for result in results for stage in result["stages"].values())
    return "best epoch, validation" if validated else "best epoch"


def _is_own(stage: StageRecipe, result: dict[str, Any] | None) -> bool:
    """Whether a seed finished a stage itself, and did not load what another has trained."""
    return result is not None and (stage.training is None or "file" not in result)


def print_table(recipe: Recipe, results: Sequence[dict[str, Any]], folder: Path) -> None:
    """Prints teacher, branches, student and control, with the paper's figures where there are any, and the paths."""
    console = table_console()
    seeds = f", mean ± std over {len(results)} seeds" if len(results) > 1 else ""
    columns = rows(recipe, results)
    with_paper = any(row.published for row in columns)
    numbers = (
        "top-1",
        *(("paper",) if with_paper else ()),
        "KL to teacher",
        "CKA",
        "same top-1 %",
        best_epoch(results),
    )
    title = f"{recipe.name}: top-1 on the test set after the last epoch, in %{seeds}"
    table = new_table("", "network", right=numbers, title=title)
    for row in columns:
        paper = [_paper(row.published, recipe)] if with_paper else []
        alike = [row.similarity[key].show(digits) if key in row.similarity else "" for key, digits in SIMILARITIES]
        best = row.best.show() if row.best else ""
        table.add_row(row.name, row.network, row.top1.show(), *paper, *alike, best)
    console.print(table)
    if with_paper and recipe.deviations:
        console.print(f"* not the paper's recipe: {'; '.join(recipe.deviations)}", markup=False)
    for row in columns:
        if row.published:
            console.print(f"paper, {row.name}: {row.published.source}", markup=False)
    if recipe.seeds > 1 and recipe.data_seed is not None:
        console.print(
            f"every seed saw the same crops in the same order (data seed {recipe.data_seed}): the spread is that of "
            "weights and draws alone",
            markup=False,
        )
    if names := shared_teachers(recipe):
        console.print(f"the {' and '.join(names)} of seed {recipe.seed} taught every seed", markup=False)
    inside = folder if recipe.seeds == 1 else folder / "seed-*"
    names = ", ".join(f"{stage.name}.safetensors" for stage in recipe.stages)
    console.print(f"weights  {inside}: {names}\nreport   {folder / 'report.html'}", markup=False, soft_wrap=True)


def print_dry_run(job: Job, rows: Sequence[dict[str, Any]]) -> None:
    """Prints what a few steps of every stage took, see `Run.dry_run`."""
    title = f"{job.recipe.name}: a few steps of every stage on {job.device}"
    numbers = ("parameters", "trained", "loss", "images/s", "process peak")
    table = new_table("stage", "network", right=numbers, title=title)
    for row in rows:
        counts = (f"{row['parameters']:,}", f"{row['trained_parameters']:,}")
        speed, peak = f"{row['images_per_second']:,.0f}", f"{row['peak_bytes'] / 2**20:,.0f} MiB"
        table.add_row(row["stage"], row["network"], *counts, f"{row['loss']:.4f}", speed, peak)
    table_console().print(table)


SIMILARITIES = (("kl", 4), ("cka", 3), ("agreement", 2))


def _paper(published: Published | None, recipe: Recipe) -> str:
    if published is None:
        return ""
    spread = "" if published.std is None else f" ± {published.std:.2f}"
    return f"{published.top1:.2f}{spread}{'*' if recipe.deviations else ''}"


def mean_and_std(values: Sequence[float]) -> Figure:
    """The mean over seeds; among several, one value that is not finite leaves no mean, and no deviation."""
    if len(values) > 1 and not all(map(math.isfinite, values)):
        return Figure(math.nan, math.nan, tuple(values))
    return Figure(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, tuple(values))
