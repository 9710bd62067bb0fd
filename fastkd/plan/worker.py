"""Carries out a plan: whatever is left to do, one node after the other, beside other processes that do the same."""

import contextlib
import signal
import time
from dataclasses import replace

import torch

from fastkd.data import DataSet
from fastkd.plan.cells import Cell, Plan
from fastkd.plan.claims import claimed, holder
from fastkd.plan.nodes import Node
from fastkd.recipes.published import with_other_classes
from fastkd.recipes.recipe import Recipe, recipe_to_plain
from fastkd.run import Job, carry_out, open_data, tell_of
from fastkd.run.memory import out_of_memory_names_the_knobs
from fastkd.support.distributed import first_of_all, from_main, is_main, on_main, world_size
from fastkd.support.errors import InUse, UserError
from fastkd.support.files import make_folder, write_json
from fastkd.support.interrupt import Stopped
from fastkd.support.plain import to_plain
from fastkd.support.session import Session

_WAIT, _DONE = "wait", "done"
POLL_SECONDS = 2.0


class Worker:
    """One process, or the processes of one torchrun, at work on a plan. All ranks call its methods."""

    def __init__(self, plan: Plan, device: torch.device, session: Session):
        self.plan, self.device, self.session = plan, device, session
        self.failures: dict[str, str] = {}
        """Why a node could not be carried out, by its digest."""
        self._data: dict[str, DataSet] = {}
        self._classes: dict[str, int] = {}
        self._claim = contextlib.ExitStack()
        self._waited_for = ""

    def work(self) -> None:
        """Carries out what nobody else does, and waits for the rest. Raises Stopped where somebody asks for it."""
        while (chosen := from_main(self._chosen() if is_main() else "")) != _DONE:
            if asked := first_of_all(self.session.interrupt.requested):
                self._claim.close()
                raise Stopped(f"stopped by {asked}")
            if chosen == _WAIT:
                time.sleep(POLL_SECONDS)
                continue
            with self._claim:
                self._carry_out(self.plan.nodes[chosen])

    def open_data(self, recipe: Recipe) -> DataSet:
        """The data of a recipe, opened once for all nodes that read them alike."""
        images = (recipe.data, recipe.image_size, recipe.limit_train, recipe.validation, recipe.augmentation.crop)
        reading = (*images, recipe.reading)
        key = str(to_plain(reading))
        if key not in self._data:
            self._data = {key: open_data(recipe)}  # one at a time: those of ImageNet's size are many gigabytes
            tell_of(self._data[key], self.session.display)
            self._classes[recipe.data] = len(self._data[key].classes)
        return self._data[key]

    def job(self, recipe: Recipe) -> Job:
        return Job.of(recipe, self.open_data(recipe), self.device)

    def as_opened(self, cell: Cell) -> Cell:
        """The cell, whose recipe now says where data that were opened have other classes than the paper's."""
        classes = self._classes.get(cell.recipe.data)
        return cell if classes is None else replace(cell, recipe=with_other_classes(cell.recipe, classes))

    def _chosen(self) -> str:
        """The digest of a node whose claim this process now has; or that one has to wait, or is done."""
        left = [node for node in self.plan.nodes.values() if not self._given_up(node) and not self.plan.finished(node)]
        for node in left:
            if self.plan.ready(node) and self._has_claimed(node):
                return node.digest
        if left:
            self._tell_who(left)
        return _WAIT if left else _DONE

    def _given_up(self, node: Node) -> bool:
        return any(each.digest in self.failures for each in (*node.ancestors(), node))

    def _has_claimed(self, node: Node) -> bool:
        folder = self.plan.folder(node)
        make_folder(folder)
        with contextlib.ExitStack() as held:
            claim = held.enter_context(claimed(folder))
            if claim is None or self.plan.finished(node):
                return False
            claim.lost = lambda: self.session.interrupt.request(signal.SIGTERM)
            self._claim = held.pop_all()
            return True

    def _tell_who(self, left: list[Node]) -> None:
        names = sorted({who for node in left if (who := holder(self.plan.folder(node)))})
        told = f"waiting for {', '.join(names)}" if names else "waiting for another process"
        if told != self._waited_for:
            self.session.display.note(told)
        self._waited_for = told

    def _carry_out(self, node: Node) -> None:
        folder, number = self.plan.folder(node), list(self.plan.nodes).index(node.digest) + 1
        self.session.display.note(f"{number} of {len(self.plan.nodes)}  {described(node)}  ->  {folder}")
        try:
            recipe = self.plan.recipe(node)
            job = self.job(recipe)
            # One that was begun goes on, wherever its teachers and its data now lie.
            on_main(lambda: write_json(folder / "recipe.json", recipe_to_plain(recipe)))
            with out_of_memory_names_the_knobs(job):
                carry_out(job, folder, self.session)
        except InUse as error:  # by who trains in it without a claim: it may be done when that one is
            self.session.display.note(f"{described(node)}: {error}")
            time.sleep(POLL_SECONDS)
        except UserError as error:
            if world_size() > 1:  # the other processes may be in the middle of the training
                raise
            self.failures[node.digest] = str(error)
            self.session.display.note(f"{described(node)}: {error}")


def described(node: Node) -> str:
    """A node in words: `student resnet8 by kd, seed 0`."""
    own = node.own
    how = f" by {own.method}" if own.method else f" with branches of {own.sftn.network}" if own.sftn else ""
    return f"{own.name} {own.network}{how}, seed {node.beside.seed}"
