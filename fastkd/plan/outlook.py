"""What a plan will take: trainings, hours and bytes, told before anything is trained."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fastkd import networks
from fastkd.plan.cells import Cell, Plan
from fastkd.plan.nodes import Node
from fastkd.run import Job, Run
from fastkd.run.figures import mean_and_std
from fastkd.run.memory import out_of_memory_names_the_knobs
from fastkd.support.environment import calls, this_call
from fastkd.support.files import read_json
from fastkd.support.paths import is_file
from fastkd.support.plain import to_plain
from fastkd.support.session import Session


@dataclass(frozen=True)
class Outlook:
    trainings: int
    """All of the plan's."""
    left: int
    """Those that are not finished."""
    hours: float | None
    """Of what is left, on one machine as this one; None where a training has not been timed here."""
    untimed: int
    """So many trainings that are left are of kinds that nobody has timed here."""
    bytes: int
    """On the disk, when all is finished: weights, pools of images, and at most one checkpoint."""


def outlook(plan: Plan, classes: int, seconds: dict[str, float]) -> Outlook:
    """seconds: those of an epoch, by the kind of training (`kind_of`), as steps that were timed just now say."""
    known = seconds | finished_here(plan)
    left = [node for node in plan.nodes.values() if not plan.finished(node)]
    needs = [known.get(kind_of(node)) for node in left]
    found = [one * _epochs(node) for one, node in zip(needs, left, strict=True) if one is not None]
    untimed = len(needs) - len(found)
    hours = None if untimed else sum(found) / 3600
    return Outlook(len(plan.nodes), len(left), hours, untimed, _bytes(plan, classes))


def kind_of(node: Node) -> str:
    """What decides how long an epoch takes: networks, method, batch; whatever the seed and the weights of losses."""
    own, beside = node.own, node.beside
    assert own.training is not None
    teachers = [one.node.own.network for one in node.taught] + [stage.network for stage in beside.stages]
    branches = [own.sftn.network, str(own.sftn.blocks)] if own.sftn else []
    made = [json.dumps(to_plain(own.synthesis))] if own.synthesis else []
    parts = [beside.data.partition(":")[0], own.network, own.method, *teachers, *branches, *made]
    return " ".join([*parts, str(own.training.batch_size), str(beside.image_size), str(beside.limit_train)])


def finished_here(plan: Plan) -> dict[str, float]:
    """Seconds of an epoch of every kind of training that the plan has finished on this machine."""
    found: dict[str, list[float]] = {}
    for node in plan.nodes.values():
        result = plan.result(node)
        own: dict[str, Any] = result["stages"][node.own.name] if result else {}
        if own.get("seconds") and own.get("epochs") and _was_here(plan.folder(node)):
            found.setdefault(kind_of(node), []).append(own["seconds"] / own["epochs"])
    return {kind: mean_and_std(values).mean for kind, values in found.items()}


def _was_here(folder: Path) -> bool:
    made = calls(read_json(folder / "env.json")) if is_file(folder / "env.json") else []
    return bool(made) and {call["host"] for call in made} == {this_call()["host"]}


def by_a_few_steps(cells: Iterable[Cell], job_of: Callable[[Cell], Job], session: Session) -> dict[str, float]:
    """Seconds of an epoch of every kind of training in the cells, by a few steps of each; evaluation left out."""
    found: dict[str, float] = {}
    for cell in cells:
        kinds = {name: kind_of(node) for name, node in cell.nodes[0].items()}
        if found.keys() >= set(kinds.values()):
            continue
        job = job_of(cell)
        job.set_up()
        with out_of_memory_names_the_knobs(job):
            rows = Run(job, cell.recipe.seed, Path(), session).dry_run()
        for row in rows:
            if row["stage"] in kinds:
                of_data = len(job.data.train) / row["images_per_second"]
                found[kinds[row["stage"]]] = row.get("seconds_per_epoch", of_data)
    return found


def _epochs(node: Node) -> int:
    assert node.own.training is not None
    return node.own.training.epochs


_CHECKPOINT = 3
"""A checkpoint has weights and momentum, and is there twice while it is written; the network beside it."""


def _bytes(plan: Plan, classes: int) -> int:
    sizes: dict[str, int] = {}
    for node in plan.nodes.values():
        sizes.setdefault(node.own.network, _weights(node.own.network, classes))
    kept = sum(sizes[node.own.network] * (1 + len(plan.keep(node))) for node in plan.nodes.values())
    return kept + sum(map(_pool, plan.nodes.values())) + _CHECKPOINT * max(sizes.values(), default=0)


def _pool(node: Node) -> int:
    """Bytes of the images that a node makes and keeps."""
    synthesis = node.own.synthesis
    if synthesis is None or not synthesis.has_pool:
        return 0
    return synthesis.images_at(_epochs(node) - 1) * 3 * node.beside.image_size**2


def _weights(network: str, classes: int) -> int:
    """Bytes of a network's weights file, without its first few."""
    with torch.device("meta"):
        built = networks.build(network, num_classes=classes)
    return sum(tensor.numel() * tensor.element_size() for tensor in built.state_dict().values())
