"""The curves of runs: what their logs say of every epoch, as charts with a mean and a band over the seeds."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fastkd.run.charts import DASHED, DOTTED, Line, colour, line_chart
from fastkd.run.page import Html

_MOST = 1e100
_MANY = 3
"""Runs from which on the controls of all of them stand in a legend once."""
_LITTLE_WAITING = 1.0
"""Percent of its time that a training waited for data in some epoch, for that to be drawn."""
_LONG = 6
"""Epochs from which on a training is long enough to look at its second half alone."""

Record = Mapping[str, Any]
Value = Callable[[Record], float | None]
"""What is drawn of a record; None where it has none."""


@dataclass(frozen=True)
class Curves:
    """What is drawn of one run."""

    label: str
    logs: Sequence[Sequence[Record]]
    """The records of each seed."""
    roles: Mapping[str, str]
    """{stage of the recipe: teacher, student or control}."""
    colours: Mapping[str, str] = field(default_factory=dict)
    """{network: its colour} where a single run is shown; else all are of the run's colour."""
    colour: str = ""
    methods: Mapping[str, str] = field(default_factory=dict)
    """{stage: the short name of its method} where it has one alone, whose terms the log has without that name."""

    def of(self, network: str) -> str:
        return self.colours.get(network, self.colour)

    def networks(self, role: str) -> list[str]:
        return [name for name, own in self.roles.items() if own == role]

    def terms(self, stage: str) -> dict[str, str]:
        """{what a term of the stage's loss is called in every run: its name in this log}"""
        trained = (_dict(record.get("train")) for log in self.logs for record in log if record.get("stage") == stage)
        names = dict.fromkeys(name for train in trained for name in train if name not in ("top1", "top5"))
        owner = self.methods.get(stage)
        return {f"{owner}.{name}" if owner and name != "loss" else name: name for name in names}

    def stages(self) -> list[str]:
        """The trainings in the log, in their order."""
        found = (record.get("stage") for records in self.logs for record in records)
        return list(dict.fromkeys(name for name in found if isinstance(name, str)))


def coloured(runs: Sequence[Curves]) -> list[Curves]:
    """Several runs, each in one colour; or a single one, in one for each network."""
    if len(runs) > 1:
        return [replace(run, colour=colour(number)) for number, run in enumerate(runs)]
    (run,) = runs
    names = dict.fromkeys([*run.roles, *run.stages(), *_tested(run)])
    return [replace(run, colours={name: colour(number) for number, name in enumerate(names)})]


def watched(runs: Sequence[Curves]) -> str:
    """What the images are called that the networks were looked at with: test, validation, or either."""
    records = [record for run in runs for log in run.logs for record in log if _dict(record.get("test"))]
    found = {"validation" if record.get("watched") == "validation" else "test" for record in records}
    return " or ".join(sorted(found)) or "test"


def groups(runs: Sequence[Curves]) -> dict[str, list[Html]]:
    """{heading: charts}: each student beside the control, then the teachers, then what is trained before a student."""
    students, teachers, controls = (
        list(dict.fromkeys(name for run in runs for name in run.networks(role)))
        for role in ("student", "teacher", "control")
    )
    others = dict.fromkeys(
        name for run in runs for name in run.stages() if name not in {*students, *teachers, *controls}
    )
    found: dict[str, list[Html]] = {}
    for student in students or controls:
        beside = [control for control in controls if control != student]
        networks = [student, *beside]
        heading = " and ".join(networks)
        found[heading] = [*_errors(runs, heading, networks), *_losses(runs, student)]
    for control in controls if students else ():
        found[control] = _losses(runs, control)
    for name in (*teachers, *others):
        branches = _branches(runs[0], name) if len(runs) == 1 else []
        found[name] = [
            *_errors(runs, name, [name, *branches]),
            *_accuracies(runs, name, branches),
            *_losses(runs, name),
        ]
    return {heading: charts for heading, charts in found.items() if any(charts)}


def over_seeds(
    logs: Iterable[Sequence[Record]], value: Value
) -> tuple[list[tuple[float, float]], list[tuple[float, float, float]]]:
    """(epoch, mean) over the seeds, and (epoch, mean - deviation, mean + deviation) where several have that epoch."""
    by_epoch: dict[float, list[float]] = {}
    for records in logs:
        for record in records:
            epoch, found = number(record.get("epoch")), value(record)
            if epoch is not None and found is not None:
                by_epoch.setdefault(epoch, []).append(found)
    points = [(epoch, statistics.fmean(values)) for epoch, values in sorted(by_epoch.items())]
    spread = [(epoch, mean, statistics.stdev(by_epoch[epoch])) for epoch, mean in points if len(by_epoch[epoch]) > 1]
    return points, [(epoch, mean - std, mean + std) for epoch, mean, std in spread]


def number(value: Any) -> float | None:
    """A number out of a file that can be drawn; None for anything else, and for one that no sum could hold."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _MOST:
        return None
    return float(value)


def error_of(network: str) -> Value:
    """Percent of the images that it is watched by, test or validation, that a network gets wrong."""

    def value(record: Record) -> float | None:
        counts = _dict(_dict(record.get("test")).get(network))
        hits, samples = number(counts.get("top1")), number(counts.get("samples"))
        return 100 - 100 * hits / samples if hits is not None and samples else None

    return value


def accuracy_of(network: str) -> Value:
    """Percent of those images that a network gets right."""
    error = error_of(network)
    return lambda record: None if (found := error(record)) is None else 100 - found


def term(stage: str, name: str) -> Value:
    """The mean of a term of the loss over an epoch of that stage."""
    return lambda record: number(_dict(record.get("train")).get(name)) if record.get("stage") == stage else None


def learning_rate(stage: str) -> Value:
    return measured(stage, "lr")


def measured(stage: str, name: str, *, scale: float = 1.0) -> Value:
    """A number that stands in the records of that stage itself, times the scale."""

    def value(record: Record) -> float | None:
        found = number(record.get(name)) if record.get("stage") == stage else None
        return None if found is None else scale * found

    return value


def made_images(stage: str, name: str) -> Value:
    """A measure of the synthesis of that stage, after each epoch."""
    return lambda record: number(_dict(record.get("synthesis")).get(name)) if record.get("stage") == stage else None


def _errors(runs: Sequence[Curves], heading: str, networks: Sequence[str]) -> list[Html]:
    """Test or validation error, once more for the second half of a training that is long enough, and training error."""
    tested, trained = (_of_networks(runs, networks, value) for value in (error_of, _training_error))
    epochs = max((epoch for line in tested for epoch, _ in line.points), default=0)
    late = [_after(line, epochs / 2) for line in tested] if epochs >= _LONG else []
    of = watched(runs)
    titles = {f"{of} error, %": tested, f"{of} error in the second half, %": late, "training error, %": trained}
    return [line_chart(f"{heading}: {title}", "epoch", lines) for title, lines in titles.items()]


def _accuracies(runs: Sequence[Curves], teacher: str, branches: Sequence[str]) -> list[Html]:
    """The teacher's accuracy beside that of each of its branches, as in GTN's Figure 1."""
    pairs = ([teacher, branch] for branch in branches if branch.startswith("branch "))
    return [
        line_chart(f"{' and '.join(pair)}: {watched(runs)} accuracy, %", "epoch", _of_networks(runs, pair, accuracy_of))
        for pair in pairs
    ]


def _after(line: Line, epoch: float) -> Line:
    points, band = ([point for point in given if point[0] > epoch] for given in (line.points, line.band))
    return line._replace(points=points, band=band)


def _training_error(network: str) -> Value:
    hits = term(network, "top1")
    return lambda record: 100 - 100 * found if (found := hits(record)) is not None else None


def _losses(runs: Sequence[Curves], stage: str) -> list[Html]:
    """The loss, every term of it, the learning rate, the gradients' norm, waiting for data where there was some, and
    what became of images that are made, of one training of every run."""
    terms = [run.terms(stage) for run in runs]
    names = list(dict.fromkeys(name for own in terms for name in own))
    if "loss" in names and max(map(len, terms)) == 2:
        names = ["loss"]  # there is one term, which it is
    charts = []
    for name in names:
        values = [term(stage, own[name]) if name in own else _nothing for own in terms]
        title = "loss, all terms" if name == "loss" and len(names) > 1 else name
        charts.append(_of_stage(runs, stage, title, values))
    rate = _of_stage(runs, stage, "learning rate", [learning_rate(stage)] * len(runs))
    norm = _of_stage(runs, stage, "norm of the gradients", [measured(stage, "grad_norm")] * len(runs))
    shares = [measured(stage, "data_share", scale=100)] * len(runs)
    waiting = _of_stage(runs, stage, "time spent on waiting for data, %", shares, least=_LITTLE_WAITING)
    titles = {"images": "images of the pool", "loss": "loss of the synthesis"}
    made = [_of_stage(runs, stage, title, [made_images(stage, name)] * len(runs)) for name, title in titles.items()]
    return [*charts, rate, norm, waiting, *made]


def _nothing(record: Record) -> None:
    return None


def _of_stage(
    runs: Sequence[Curves], stage: str, title: str, values: Sequence[Value], *, least: float = -math.inf
) -> Html:
    """One chart of a number of a training, which each run has under its own name; least: what a value has to reach."""
    lines = []
    for run, value in zip(runs, values, strict=True):
        points, band = over_seeds(run.logs, value)
        lines.append(Line(run.label if len(runs) > 1 else stage, points, run.of(stage), band=band))
    greatest = max((value for line in lines for _, value in line.points), default=least)
    return line_chart(f"{stage}: {title}", "epoch", lines if greatest >= least else [])


def _of_networks(runs: Sequence[Curves], networks: Sequence[str], value: Callable[[str], Value]) -> list[Line]:
    """A line for each network of each run, in percent. Of many runs only the last says which is which."""
    lines = []
    for number, run in enumerate(runs):
        for network in networks:
            points, band = over_seeds(run.logs, value(network))
            inside = [(epoch, max(low, 0.0), min(high, 100.0)) for epoch, low, high in band]
            main = network == networks[0]
            dash = "" if main else DASHED if network in run.roles else DOTTED
            name = run.label if main else f"{run.label}, {network}"
            if len(runs) > _MANY and not main:
                name = f"{network}, in the colour of its run" if number + 1 == len(runs) else ""
            lines.append(Line(network if len(runs) == 1 else name, points, run.of(network), dash, inside))
    return lines


def _tested(run: Curves) -> list[str]:
    """The networks that the log has tests of."""
    return list(dict.fromkeys(name for log in run.logs for record in log for name in _dict(record.get("test"))))


def _branches(run: Curves, stage: str) -> list[str]:
    """The networks that a stage tests and that no stage is named for."""
    records = (record for log in run.logs for record in log if record.get("stage") == stage)
    tested = dict.fromkeys(name for record in records for name in _dict(record.get("test")))
    return [name for name in tested if name not in run.roles]


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
