"""What a table's figures measure: read from the results of a node."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Results = Mapping[str, Any]
"""Those of a node, see `Run.results`."""


class Measure(NamedTuple):
    """How a figure is found and shown."""

    title: str
    digits: int
    read: Callable[[Results, str], float | None]
    """(results, stage) → the figure; None where the run did not measure it."""
    finding: bool = False
    """Whether it is read of a finding, which the results then hold as `finding`."""


def _hits(count: str, network: str = "") -> Callable[[Results, str], float | None]:
    """network: the one of the stage's that is meant; by default the one that is kept of it."""

    def read(results: Results, stage: str) -> float | None:
        found = results["stages"][stage]["test"].get(network or stage)
        return 100 * found[count] / found["samples"] if found else None

    return read


def _best(results: Results, stage: str) -> float | None:
    found = results["stages"][stage].get("best")
    return 100 * found["top1"] if found else None


def _alike(name: str, factor: float = 1.0) -> Callable[[Results, str], float | None]:
    def read(results: Results, stage: str) -> float | None:
        found = results["similarity"].get(stage)
        return factor * found[name] if found and name in found else None

    return read


def _read(*names: str) -> Callable[[Results, str], float | None]:
    """A number that a finding has, see `fastkd.analysis.findings`."""

    def read(results: Results, stage: str) -> float | None:
        found = results["finding"]
        for name in names:
            found = found.get(name, {})
        return found if isinstance(found, int | float) else None

    return read


def _at_severity(level: int) -> Callable[[Results, str], float | None]:
    def read(results: Results, stage: str) -> float | None:
        means = results["finding"].get("means", [])
        return means[level - 1] if level <= len(means) else None

    return read


def _share(name: str) -> Callable[[Results, str], float | None]:
    """Percent of the images that a classifier was tested on."""

    def read(results: Results, stage: str) -> float | None:
        found = results["finding"]
        return 100 * found[name] / found["samples"] if name in found and "samples" in found else None

    return read


MEASURES: dict[str, Measure] = {
    "top1": Measure("top-1 %", 2, _hits("top1")),
    "top5": Measure("top-5 %", 2, _hits("top5")),
    "best": Measure("top-1 % of the best epoch", 2, _best),
    "kl": Measure("KL to the teacher", 4, _alike("kl")),
    "cka": Measure("CKA with the teacher", 3, _alike("cka")),
    "agreement": Measure("same top-1 as the teacher %", 2, _alike("agreement", 100.0)),
    "branch 0": Measure("top-1 % of the branch on the stem", 2, _hits("top1", "branch 0")),
    "branch 1": Measure("top-1 % of the branch on block 1", 2, _hits("top1", "branch 1")),
    "branch 2": Measure("top-1 % of the branch on block 2", 2, _hits("top1", "branch 2")),
    "nll": Measure("negative log-likelihood", 4, _read("nll"), True),
    "entropy": Measure("entropy of the predictions", 4, _read("entropy"), True),
    "probe": Measure("top-1 % of a linear classifier", 2, _share("top1"), True),
    "probe best": Measure("top-1 % of a linear classifier's best epoch", 2, _share("best"), True),
    **{
        f"severity {level}": Measure(f"top-1 % at severity {level}", 2, _at_severity(level), True)
        for level in range(1, 6)
    },
    "alignment": Measure("loss between projected and teacher's features", 4, _read("loss"), True),
    "at epoch": Measure("top-1 % at that epoch", 2, _read("top1"), True),
    "best beside": Measure("top-1 % of the best epoch", 2, _read("best"), True),
    "kl term": Measure("KL term of the loss", 4, _read("train", "kl"), True),
    "pruning ratio": Measure("pruning ratio, %", 2, _read("ratio"), True),
    "pruning ratio of KD": Measure("pruning ratio of the student itself, %", 2, _read("own_ratio"), True),
    "cost": Measure("cost of the pruning ratio, %", 2, _read("cost"), True),
    "projector": Measure("projector beside student, %", 2, _read("projector_share"), True),
    "parameters": Measure("parameters", 0, lambda results, stage: float(results["stages"][stage]["parameters"])),
}
"""By the name that a `Place` has for it."""
