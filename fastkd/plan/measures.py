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
    "parameters": Measure("parameters", 0, lambda results, stage: float(results["stages"][stage]["parameters"])),
}
"""By the name that a `Place` has for it."""
