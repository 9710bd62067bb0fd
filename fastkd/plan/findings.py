"""What a table wants to know of finished nodes beyond their results: measured once, and kept in the nodes' folders."""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fastkd.analysis.findings import Subject, measured
from fastkd.analysis.pruning import pruning_of
from fastkd.plan.cells import Cell, Plan
from fastkd.plan.claims import claimed
from fastkd.plan.nodes import Node
from fastkd.plan.worker import POLL_SECONDS
from fastkd.recipes.findings import Finding, Probed, Pruned
from fastkd.recipes.tables.layout import Place
from fastkd.support.display import Display
from fastkd.support.distributed import alone, from_main, is_main
from fastkd.support.errors import UserError
from fastkd.support.files import make_folder, read_json, write_json
from fastkd.support.interrupt import Interrupt, Stopped
from fastkd.support.paths import is_file
from fastkd.support.plain import to_plain
from fastkd.support.schemas import FoundFile, checked

_DIGITS = 16


class Wanted(NamedTuple):
    """A finding of the network that a node has for a stage."""

    node: Node
    stage: str
    finding: Finding


def wanted(places: Iterable[Place], cell_of: Callable[[Place], Cell]) -> list[Wanted]:
    """Every finding of some places' nodes, each once."""
    found: dict[str, Wanted] = {}
    for place in places:
        if place.finding is None or isinstance(place.finding, Pruned):
            continue
        for node in nodes_of_stage(cell_of(place), place.stage):
            one = Wanted(node, place.stage, place.finding)
            found.setdefault(f"{node.digest} {key_of(one)}", one)
    return list(found.values())


def nodes_of_stage(cell: Cell, stage: str) -> list[Node]:
    """The nodes whose results say something of a stage, one for each that differs; a peer's are in its student's."""
    nodes = (seed.get(stage) or seed["student"] for seed in cell.nodes)
    return list({node.digest: node for node in nodes}.values())


def key_of(one: Wanted) -> str:
    """A digest of all that the finding depends on beside the node and the bytes of other data."""
    settings = {name: value for name, value in to_plain(one.finding).items() if name != "choice"}
    plain = {"kind": one.finding.kind, "version": one.finding.version, "stage": one.stage, "settings": settings}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:_DIGITS]


def folder_of(plan: Plan, one: Wanted) -> Path:
    return plan.folder(one.node) / "findings" / key_of(one)


def found(plan: Plan, one: Wanted) -> dict[str, Any] | None:
    """What was measured; None where it is not yet."""
    file = folder_of(plan, one) / "found.json"
    return checked(FoundFile, read_json(file), str(file)) if is_file(file) else None


def with_finding(plan: Plan, cell: Cell, place: Place, node: Node) -> dict[str, Any] | None:
    """The results of a node with what the place's finding found beside them; None where something is missing."""
    if isinstance(place.finding, Pruned):
        return {"finding": pruning_of(cell.recipe).plain()}
    result = plan.result(node)
    if result is None or place.finding is None:
        return result
    told = found(plan, Wanted(node, place.stage, place.finding))
    return None if told is None else {**result, "finding": told}


class Finder:
    """Takes the findings of a plan's finished nodes, beside other processes that do the same.

    Of the processes of a torchrun the first does, the others wait for it.
    """

    def __init__(
        self, plan: Plan, data: Mapping[str, str], device: torch.device, display: Display, interrupt: Interrupt
    ):
        self.plan, self.data, self.device = plan, data, device
        self.display, self.interrupt = display, interrupt
        self.failures: list[str] = []

    def take(self, all_of_them: Iterable[Wanted]) -> None:
        """Waits for those that other processes are taking. Raises Stopped where somebody asks for it."""
        asked, left = "", [*all_of_them]
        if is_main():
            with alone():
                while left and not asked:
                    asked, left = self._all_taken(left)
                    if left and not asked:
                        time.sleep(POLL_SECONDS)
        if asked := from_main(asked):
            raise Stopped(f"stopped by {asked}")

    def _all_taken(self, left: Sequence[Wanted]) -> tuple[str, list[Wanted]]:
        """Takes what nobody else is taking; returns who asked to stop, if somebody did, and what others are taking."""
        theirs = []
        for one in left:
            if self.interrupt.requested:
                return str(self.interrupt.requested), theirs
            if not self.plan.finished(one.node) or found(self.plan, one) is not None:
                continue
            folder = folder_of(self.plan, one)
            make_folder(folder)
            with claimed(folder) as claim:
                if claim is None:
                    theirs.append(one)
                elif asked := self._taken(one):
                    return asked, theirs
        return "", theirs

    def _taken(self, one: Wanted) -> str:
        """Takes a finding that is claimed; returns who asked to stop, if somebody did."""
        if found(self.plan, one) is None:
            self.display.note(f"{one.finding.kind} of the {one.stage} of {self.plan.folder(one.node).name}")
            try:
                told = measured(one.finding, self._subject(one))
            except Stopped as stopped:
                return str(stopped)
            except UserError as error:
                self.failures.append(f"{one.finding.kind} of the {one.stage}: {error}")
                return ""
            write_json(folder_of(self.plan, one) / "found.json", told)
        return ""

    def _subject(self, one: Wanted) -> Subject:
        def tell(line: str) -> None:
            if self.interrupt.requested:
                raise Stopped(str(self.interrupt.requested))

        return Subject(self.plan.folder(one.node), one.stage, self.data, self.device, tell)


def shortened(finding: Finding | None, epochs: int | None) -> Finding | None:
    """A finding whose classifier is trained for another number of epochs, where one is asked for."""
    if epochs is None or not isinstance(finding, Probed):
        return finding
    return replace(finding, settings=finding.settings.changed({"epochs": epochs}))
