"""A plan: the cells of a table, each a recipe and its seeds, and the nodes that they share."""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastkd.plan.nodes import Node, nodes_of
from fastkd.recipes.recipe import Recipe
from fastkd.run.folder import read_results
from fastkd.support.paths import is_file

_DIGITS = 20
"""Of the digest in a folder's name: two of a billion nodes have the same with a chance below one in a million."""


@dataclass(frozen=True)
class Seeds:
    """Whose weights and draws are repeated: the students' with every seed, the teachers' with the first of them."""

    students: int = 1
    teachers: int = 1
    """So many teachers; student number n learns from teacher n modulo this."""
    first: int = 0

    def pairs(self) -> Iterator[tuple[int, int]]:
        """(student's seed, teacher's seed) of each student."""
        for number in range(self.students):
            yield self.first + number, self.first + number % self.teachers

    def words(self) -> str:
        """Both numbers, as a table says them."""
        students = f"{self.students} student{'s' * (self.students > 1)}"
        return f"{students} a cell from {self.teachers} teacher{'s' * (self.teachers > 1)}"


@dataclass(frozen=True)
class Cell:
    """One recipe of a plan, as a run of its own would be."""

    name: str
    """What the name of the folder that shows it as a run begins with; the rest is of its digest."""
    recipe: Recipe
    nodes: tuple[dict[str, Node], ...]
    """The node of every stage that is trained by itself, by the stage's name, for each student's seed."""

    @property
    def digest(self) -> str:
        """SHA-256 of its nodes' digests: other settings, other seeds, another cell."""
        digests = [node.digest for nodes in self.nodes for node in nodes.values()]
        return hashlib.sha256(" ".join(digests).encode()).hexdigest()

    @classmethod
    def of(
        cls, name: str, recipe: Recipe, seeds: Seeds, *, stages: Collection[str] = (), teacher_share: float = 1.0
    ) -> "Cell":
        """stages: those whose results are wanted, and no others are trained but what they need; by default all.

        teacher_share: the share of its training after which the teacher's weights are taken.
        """
        nodes = []
        for student, teacher in seeds.pairs():
            found = nodes_of(recipe, student_seed=student, teacher_seed=teacher, teacher_share=teacher_share)
            wanted = {stage: found[stage] for stage in found if stage in stages}
            nodes.append(wanted if wanted and wanted.keys() == set(stages) else found)
        return cls(name, replace(recipe, seed=seeds.first, seeds=seeds.students), tuple(nodes))


class Plan:
    """All nodes of some cells, each once, below one folder."""

    def __init__(self, root: Path, cells: Sequence[Cell]):
        self.root, self.cells = root, tuple(cells)
        self.nodes: dict[str, Node] = {}
        """By their digests, each after those that it learns from."""
        self._kept: dict[str, set[int]] = {}
        self._finished: set[str] = set()
        for cell in cells:
            for node in (node for nodes in cell.nodes for node in nodes.values()):
                for each in (*node.ancestors(), node):
                    self.nodes.setdefault(each.digest, each)
                    for one in each.taught:
                        kept = self._kept.setdefault(one.node.digest, set())
                        kept |= set() if one.epoch is None else {one.epoch}

    def keep(self, node: Node) -> tuple[int, ...]:
        """The epochs of a node whose weights others learn from."""
        return tuple(sorted(self._kept.get(node.digest, ())))

    def folder(self, node: Node) -> Path:
        """The run folder of a node; one that keeps weights of its epochs has them in its name."""
        return self.root / "nodes" / "-".join((node.digest[:_DIGITS], *map(str, self.keep(node))))

    def recipe(self, node: Node) -> Recipe:
        """The recipe of a node's run; its teachers have to be finished."""
        return node.recipe(self.folder, self.keep(node))

    def result(self, node: Node) -> dict[str, Any] | None:
        """What the node's run found, see `Run.results`; None where it is not finished."""
        file = self.folder(node) / "results.json"
        if not is_file(file):
            return None
        found = read_results(file)
        return found if node.own.name in found["stages"] else None

    def finished(self, node: Node) -> bool:
        """Whether the node's run is done, which it then stays."""
        if node.digest not in self._finished and self.result(node) is not None:
            self._finished.add(node.digest)
        return node.digest in self._finished

    def ready(self, node: Node) -> bool:
        """Whether all that the node learns from is finished."""
        return all(self.finished(one.node) for one in node.taught)
