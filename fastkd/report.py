"""python -m fastkd.report RUN…: one self-contained report.html with curves, results and settings, runs side by side."""

import html
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro

from fastkd.recipes.course import course
from fastkd.recipes.recipe import Recipe
from fastkd.run import open_run, read_results, seed_folders
from fastkd.run.charts import Line, line_chart
from fastkd.run.figures import SIMILARITIES, Row, rows
from fastkd.support.command_line import command, read_options
from fastkd.support.errors import UserError
from fastkd.support.files import read_json, write_bytes
from fastkd.support.log import read_metrics
from fastkd.support.plain import to_plain


@dataclass(frozen=True, kw_only=True)
class Options:
    """Writes one self-contained HTML file: curves, the final table and the settings of one or several runs."""

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN [RUN …]")]
    """Run folders."""
    out: Path | None = None
    """The file (default: report.html in the first folder)."""


def main(arguments: list[str]) -> int:
    options = read_options(Options, arguments, program="python -m fastkd.report")
    if not options.runs:
        raise UserError("name the folder of a run, or of several")
    out = options.out or options.runs[0] / "report.html"
    write_report(options.runs, out)
    print(out)
    return 0


class Loaded(NamedTuple):
    folder: Path
    recipe: Recipe
    results: list[dict[str, Any]]
    """The results of the seeds that have any."""
    metrics: dict[str, list[dict[str, Any]]]
    """The log's records of each seed, by the name of its folder."""
    environment: dict[str, Any]


def write_report(folders: Sequence[Path], out: Path, *, above: str = "") -> None:
    """Writes the report of some runs; above: HTML in front of them.

    Raises UserError for a folder that is no run, and for a file that cannot be written.
    """
    runs = [_load(folder) for folder in folders]
    title = " and ".join(run.recipe.name for run in runs[:3]) + (" …" if len(runs) > 3 else "")
    body = [above, *(_results(run) for run in runs)]
    body.append("<h2>Curves</h2>" + _curves(runs))
    body.append("<h2>Settings</h2>" + _settings(runs))
    page = _PAGE.replace("{title}", html.escape(title)).replace("{body}", "\n".join(body))
    write_bytes(out, page.encode())


def _load(folder: Path) -> Loaded:
    recipe = open_run(folder)
    seeds = seed_folders(folder) or [folder]
    results = [read_results(seed / "results.json") for seed in seeds if (seed / "results.json").exists()]
    metrics = {seed.name: read_metrics(seed / "metrics.jsonl") for seed in seeds}
    environment = read_json(folder / "env.json") if (folder / "env.json").exists() else {}
    return Loaded(folder, recipe, results, metrics, environment)


def _results(run: Loaded) -> str:
    found = rows(run.recipe, run.results)
    title = f"<h2>{html.escape(run.recipe.name)} <small>{html.escape(str(run.folder))}</small></h2>"
    if not found:
        return title + "<p>No stage is finished yet.</p>"
    seeds = f"mean ± standard deviation over {len(run.results)} seeds" if len(run.results) > 1 else "one seed"
    note = f"<p>Top-1 on the test set after the last epoch, in percent; {seeds}. The best epoch is no result.</p>"
    with_paper = any(row.published for row in found)
    paper = ("paper",) if with_paper else ()
    heads = ("", "network", "top-1", *paper, "KL to teacher", "CKA", "same top-1", "best epoch")
    body = "".join(_row(row, with_paper=with_paper) for row in found)
    differs = "".join(f"<li>{html.escape(words)}</li>" for words in run.recipe.deviations)
    if differs and with_paper:
        note += f"<p>Not the paper's recipe, so its figures do not compare:</p><ul>{differs}</ul>"
    cells = "".join(f"<th>{head}</th>" for head in heads)
    return f"{title}{note}<table><tr>{cells}</tr>{body}</table>"


def _row(row: Row, *, with_paper: bool) -> str:
    paper = ""
    if row.published is not None:
        spread = "" if row.published.std is None else f" ± {row.published.std:.2f}"
        paper = f"{row.published.top1:.2f}{spread} <small>{html.escape(row.published.source)}</small>"
    alike = [row.similarity[key].show(digits) if row.similarity else "" for key, digits in SIMILARITIES]
    cells = [html.escape(row.name), html.escape(row.network), row.top1.show(), *([paper] if with_paper else []), *alike]
    cells.append(row.best.show() if row.best else "")
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _curves(runs: Sequence[Loaded]) -> str:
    """Charts of training loss and test error for every stage, with a line for each seed of each run."""
    stages = list(dict.fromkeys(stage.name for run in runs for stage in course(run.recipe)))
    charts = []
    for stage in stages:
        loss, error = [], []
        for run in runs:
            for seed, records in run.metrics.items():
                epochs = [record for record in records if record.get("stage") == stage and "epoch" in record]
                names = [
                    part for part, many in ((run.folder.name, len(runs) > 1), (seed, len(run.metrics) > 1)) if many
                ]
                name = " ".join(names) or stage
                loss.append(Line(name, [(record["epoch"], record["train"]["loss"]) for record in epochs]))
                error += _error_lines(name, stage, epochs, several=len(names) > 0)
        charts.append(line_chart(f"{stage}: training loss", "epoch", loss))
        if any(line.points for line in error):
            charts.append(line_chart(f"{stage}: test error, %", "epoch", error))
    return f'<div class="charts">{"".join(charts)}</div>'


def _error_lines(name: str, stage: str, epochs: list[dict[str, Any]], *, several: bool) -> list[Line]:
    """The network's own test error, and its branches' where there is a single run to show."""
    tested = [record for record in epochs if record["test"]]
    networks = list(dict.fromkeys(network for record in tested for network in record["test"]))
    shown = [network for network in networks if network == stage or not several]

    def error(record: dict[str, Any], network: str) -> float:
        counts = record["test"][network]
        return 100 - 100 * counts["top1"] / counts["samples"]

    return [
        Line(name if several else network, [(record["epoch"], error(record, network)) for record in tested])
        for network in shown
    ]


def _settings(runs: Sequence[Loaded]) -> str:
    """Every setting of every run, flattened; those in which runs differ are marked."""
    columns = [_flat(to_plain(run.recipe)) | _flat(run.environment, "env") for run in runs]
    names = list(dict.fromkeys(name for column in columns for name in column))
    heads = "".join(f"<th>{html.escape(run.folder.name)}</th>" for run in runs)
    lines = []
    for name in names:
        values = [column.get(name, "") for column in columns]
        mark = ' class="differs"' if len(set(values)) > 1 else ""
        cells = "".join(f"<td>{html.escape(value)}</td>" for value in values)
        lines.append(f"<tr{mark}><th>{html.escape(name)}</th>{cells}</tr>")
    table = f'<table class="settings"><tr><th></th>{heads}</tr>{"".join(lines)}</table>'
    return f"<details><summary>{len(names)} settings</summary>{table}</details>"


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(value, dict):
        items = [(f"{prefix}.{key}" if prefix else str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        items = [(f"{prefix}[{item.get('name', number)}]", item) for number, item in enumerate(value)]
    else:
        return {prefix: str(value)}
    flat: dict[str, str] = {}
    for name, item in items:
        flat |= _flat(item, name)
    return flat


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1000px; padding: 0 1rem; color: #1f2937 }
h2 { margin-top: 2.2rem } small { color: #6b7280; font-weight: normal }
table { border-collapse: collapse }
td, th { padding: .25rem .7rem; text-align: left; border-bottom: 1px solid #e5e7eb; white-space: nowrap }
td:nth-child(n+3) { font-variant-numeric: tabular-nums }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); gap: 1rem }
figure { margin: 0 } svg { width: 100%; font: 11px system-ui, sans-serif; fill: #4b5563 }
svg .title { font-size: 13px; font-weight: 600 } svg .grid { stroke: #e5e7eb }
svg polyline { fill: none; stroke-width: 1.6 }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: 12px }
.legend i { display: inline-block; width: .8em; height: .8em; margin-right: .4em; border-radius: 2px }
.settings { font-size: 13px } .differs { background: #fef3c7 }
</style></head><body><h1>{title}</h1>
{body}
</body></html>
"""


if __name__ == "__main__":
    sys.exit(command(main))
