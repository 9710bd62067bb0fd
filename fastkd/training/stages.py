"""What is trained: a `Batch` in; a total, named loss terms and hit counts out. A stage is an ordinary module."""

import copy
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from fastkd.data.base import ONE_VIEW, Batch, Views
from fastkd.data.sources import Source
from fastkd.losses import ce_loss
from fastkd.methods import short_name
from fastkd.methods.base import Gate, Method, MethodLoss, Terms
from fastkd.methods.mixed import labels_of_mixed, loss_on_mixed
from fastkd.networks.base import Network, Output
from fastkd.stored import RowFormat
from fastkd.support.errors import UserError
from fastkd.training.capture import Recorder
from fastkd.training.paths import Used


class Numbers(NamedTuple):
    """The loss and its terms as one vector, so that what is done with all of them is one operation."""

    names: tuple[str, ...]
    values: Tensor
    """[names], detached."""

    def times(self, weight: float) -> "Numbers":
        return self if weight == 1 else Numbers(self.names, self.values * weight)


class StageLoss(NamedTuple):
    total: Tensor
    """The one differentiable value."""
    terms: Terms
    hits: Tensor
    """[2] int64: top-1 and top-5 hits of the network that is being trained."""
    gated: Terms = {}  # noqa: RUF012 - nothing changes it
    """Further differentiable values, by the names of their gates: each is added where its gradient passes the gate."""

    @classmethod
    def of_method(cls, loss: MethodLoss) -> "StageLoss":
        """The loss of a stage that one method is all of."""
        assert loss.hits is not None
        return cls(loss.total, loss.terms, loss.hits)

    def numbers(self, beside: Terms = {}) -> Numbers:  # noqa: B006 - nothing changes it
        """The total, as `loss`, and the terms behind it; beside: what else is to be known of the step."""
        others = {**self.terms, **beside}
        return Numbers(("loss", *others), torch.stack([self.total, *others.values()]).detach())


class Stage(nn.Module):
    """Base of all stages."""

    network: Network
    """The network that is trained here."""
    views: Views = ONE_VIEW
    """The views that the batches have to hold."""
    evaluates: bool = True
    """Whether there is something to test after an epoch."""
    notes: Sequence[str] = ()
    """What a user should know of the stage; it is logged."""
    dropout_seed: int = 0
    """The key of what its dropouts draw, in 0 … 2^32 - 1."""
    gate: Gate | None = None
    """The gate that its gated losses have to pass; None: it has none."""
    why_steps_differ: str = ""
    """Why its steps do not all use the same parameters, which neither a recording nor DDP's static graph bears; empty
    where they do."""
    counts_for_itself: bool = False
    """Whether steps differ in the BatchNorms that count their batches, so that nobody may count for them."""

    def gate_parameters(self) -> Iterable[nn.Parameter]:
        """The parameters whose gradients a gate compares."""
        compares_all = self.gate is None or self.gate.compared == "all"
        return (self.network if compares_all else self.network.classifier).parameters()

    @property
    def deployed(self) -> Network:
        """The network that is kept of the stage: evaluated, averaged, saved."""
        return self.network

    def peers(self) -> dict[str, Network]:
        """Further networks that are trained here and kept, by name."""
        return {}

    def forward(self, batch: Batch) -> StageLoss:
        raise NotImplementedError

    def predictions(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        """The logits [B,K] of everything that is evaluated, by name, from one forward pass."""
        raise NotImplementedError

    def used(self) -> Sequence[Used]:
        """Parameters that have a gradient though the last forward pass may not have used them: those that it has not
        used are left alone."""
        return ()

    def parameter_groups(self) -> list[dict]:
        """What the optimiser is built from; `lr_factor` scales the stage's learning rate."""
        return [{"params": [p for p in self.parameters() if p.requires_grad], "lr_factor": 1.0}]

    def begin_epoch(self, epoch: int) -> None:
        """Called before each epoch, counted from 0, in train mode."""

    def begin_step(self, step: int) -> None:
        """Called before each step, counted from 0 over the training; before replays of several, with the first one."""

    works_every: int = 0
    """How many steps of an epoch lie between two before which `begin_step` does something in a training that is
    replayed: no replay goes on beyond one of them. 0: it never does."""

    def record_own_work(self, recorder: Recorder | None, tell: Callable[[str], None]) -> None:
        """Has replayed what the stage does in front of epochs and steps, where there is a recorder; tell: is given what
        there is to say."""

    def rehearse(self) -> None:
        """Called before steps on trial, in place of what comes before an epoch."""


class Supervised(Stage):
    """A network that learns from labels alone."""

    def __init__(self, network: Network, name: str):
        super().__init__()
        self.network, self.name = network, name

    def forward(self, batch: Batch) -> StageLoss:
        logits = self.network(batch.images[0]).logits

        def loss(batch: Batch) -> MethodLoss:
            found = ce_loss(logits, batch.labels)
            return MethodLoss(found.total, {"ce": found.ce}, found.hits)

        return StageLoss.of_method(loss_on_mixed(loss, batch, "both"))

    def predictions(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        return {self.name: self.network(images_BCHW).logits}


class Distill(Stage):
    """A student, its frozen teachers and what it learns from them.

    The teachers are held in a tuple: they are not parameters of the stage, are in no checkpoint of it, and stay in
    eval mode whatever the stage is told. A batch that brings their stored rows is learned from those.
    """

    rows: tuple[RowFormat, ...] = ()
    """What the stored rows of each teacher hold, where batches bring some."""

    def __init__(
        self,
        student: Network,
        teachers: Sequence[Network],
        methods: dict[str, Method],
        name: str = "student",
        *,
        epochs_in_turn: int = 0,
    ):
        """epochs_in_turn: 0 where all teachers are used together. Else the teachers are one network at several times,
        used one after the other, and this is the number of epochs that they share."""
        super().__init__()
        self.network, self.name = student, name
        self.methods = nn.ModuleDict({_module_name(key): method for key, method in methods.items()})
        if any(method.teacher_norm == "batch" for method in methods.values()):
            teachers = [with_batch_statistics(teacher) for teacher in teachers]
        frozen = tuple(teacher.eval().requires_grad_(False) for teacher in teachers)
        self.epochs_in_turn, self.waypoints = epochs_in_turn, frozen if epochs_in_turn else ()
        self.teachers = (copy.deepcopy(frozen[0]),) if epochs_in_turn else frozen
        self.preacts = any(method.needs_preacts for method in methods.values())
        self.gate = next((method.gate for method in methods.values() if method.gate is not None), None)
        _refuse_different_views(methods)
        # Methods that ask for one view get the outputs of the first.
        self.views = max((method.views for method in methods.values()), key=lambda views: views.count)
        self.notes = [note for method in methods.values() for note in method.notes]
        self._deployed = (deployed(student, methods.values()),)  # a tuple, as its weights are registered already
        self._beside = tuple(pair for method in methods.values() for pair in method.tested_beside(student).items())
        _freeze_all_but(student, [part for method in methods.values() for part in method.reaches(student)])

    @property
    def deployed(self) -> Network:
        """The student, unless a method puts another head on it."""
        return self._deployed[0]

    def forward(self, batch: Batch) -> StageLoss:
        for method in self.methods.values():
            assert isinstance(method, Method)
            method.begin_step(batch)
        count, images = len(batch.labels), self._images(batch)
        teachers = self._said(batch, images, self.views.count)
        batch = self.labelled(batch, teachers)
        student = self.network(images, preacts=self.preacts)
        every_view = student, teachers
        first_view = _first(student, count), teachers
        if self.views.count > 1:
            of_first = [_first(teacher, count) for teacher in teachers]
            first_view = first_view[0], self._read(batch, 1) if batch.taught else tuple(of_first)
        total, terms, hits = None, {}, None
        gated: Terms = {}
        for name, method in self.methods.items():
            assert isinstance(method, Method)
            seen = first_view if method.views.count == 1 else every_view
            loss = loss_on_mixed(partial(method, *seen), batch, labels_of_mixed(method))
            # A single method's terms keep their short names; several are told apart by the method's.
            prefix = f"{short_name(name)}." if len(self.methods) > 1 else ""
            joined_behind_a_gate = self.gate is not None and not method.is_logit_method
            if not joined_behind_a_gate:
                total = loss.total if total is None else total + loss.total
            if (behind_a_gate := loss.total if joined_behind_a_gate else loss.gated) is not None:
                gated[f"{prefix}gate"] = behind_a_gate
            terms |= {prefix + term: value for term, value in loss.terms.items()}
            hits = loss.hits if loss.hits is not None else hits
        assert total is not None and hits is not None, "one of the methods is a logit method"
        return StageLoss(total, terms, hits, gated)

    def labelled(self, batch: Batch, teachers: Sequence[Output]) -> Batch:
        """The batch with the labels that the methods learn from."""
        return batch

    def _images(self, batch: Batch) -> Tensor:
        assert len(batch.images) >= self.views.count, "the loader gives the views that the stage names"
        return batch.images[: self.views.count].flatten(0, 1)

    def say(self, batch: Batch) -> tuple[Output, ...]:
        """What the teachers themselves say of all views of a batch, [V·B, …]."""
        return self._teachers(self._images(batch))

    def _said(self, batch: Batch, images: Tensor, views: int) -> tuple[Output, ...]:
        """What the teachers say of the views, out of the batch's rows where it brings some."""
        return self._read(batch, views) if batch.taught else self._teachers(images)

    def _read(self, batch: Batch, views: int) -> tuple[Output, ...]:
        return tuple(row.unpacked(words, views) for row, words in zip(self.rows, batch.taught, strict=True))

    @torch.no_grad()
    def _teachers(self, images: Tensor) -> tuple[Output, ...]:
        return tuple(teacher(images, preacts=self.preacts) for teacher in self.teachers)

    def predictions(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        return {name: network(images_BCHW).logits for name, network in ((self.name, self.deployed), *self._beside)}

    def passed_on(self) -> dict[str, Tensor]:
        """What the next training of the same student begins with, by its name in the state."""
        return self.state_dict()

    def take_over(self, state: dict[str, Tensor]) -> None:
        """Loads what an earlier training of the same student passed on."""
        unexpected = self.load_state_dict(state, strict=False).unexpected_keys
        assert not unexpected, f"trained for another student: {unexpected}"

    def begin_epoch(self, epoch: int) -> None:
        if self.waypoints:
            _copy(self.waypoints[epoch * len(self.waypoints) // self.epochs_in_turn], self.teachers[0])
        for method in self.methods.values():
            assert isinstance(method, Method)
            method.begin_epoch(epoch)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        for teacher in (*self.teachers, *self.waypoints):  # `.to(…)` would not reach what the tuples hide
            teacher._apply(fn, recurse)
        return super()._apply(fn, recurse)


class Prestage(Distill):
    """What one of the methods trains before the student's own training: parts of itself, or of the student."""

    evaluates = False

    def __init__(
        self, student: Network, teachers: Sequence[Network], methods: dict[str, Method], name: str, *, method: str
    ):
        super().__init__(student, teachers, methods, name)
        self.prestage = methods[method].prestage(student)
        self.preacts, self.views, self.notes = self.prestage.needs_preacts, self.prestage.views, ()
        self.gate = None
        self.requires_grad_(False)
        for part in self.prestage.trained:
            part.requires_grad_(True)

    def forward(self, batch: Batch) -> StageLoss:
        images = self._images(batch)
        teachers = self._said(batch, images, self.views.count)
        student = self.network(images, preacts=self.preacts) if self.prestage.student else None
        loss = self.prestage.loss(student, teachers, batch)
        return StageLoss(loss.total, loss.terms, torch.zeros(2, dtype=torch.int64, device=images.device))

    def train(self, mode: bool = True) -> Self:
        super().train(False)
        for part in self.prestage.trained:
            part.train(mode)
        return self

    def passed_on(self) -> dict[str, Tensor]:
        state = self.state_dict(keep_vars=True)
        trained = {id(value) for part in self.prestage.trained for value in (*part.parameters(), *part.buffers())}
        return {name: value.detach() for name, value in state.items() if id(value) in trained}


class Mutual(Stage):
    """Several networks that learn together: each by the method from all the others, which are constants to it."""

    def __init__(self, networks: dict[str, Network], method: Method, lr_factors: Sequence[float]):
        """networks: the first is the student. lr_factors: one for each, on the stage's learning rate."""
        super().__init__()
        self.names = tuple(networks)
        self.network, *others = networks.values()
        self.others, self.method, self.lr_factors = nn.ModuleList(others), method, tuple(lr_factors)
        self.notes = method.notes
        if method.own_augmentation:
            self.views = Views(len(networks))
        self.held_out: Source | None = None
        """Images that nothing is trained on, by which the method weighs the networks before each epoch."""

    @property
    def networks(self) -> tuple[Network, ...]:
        return (self.network, *self.others)  # pyright: ignore[reportReturnType]

    def peers(self) -> dict[str, Network]:
        return dict(zip(self.names[1:], self.networks[1:], strict=True))

    def forward(self, batch: Batch) -> StageLoss:
        assert len(batch.images) >= self.views.count, "the loader gives the views that the stage names"
        views = [place % self.views.count for place in range(len(self.names))]
        outputs = [network(batch.images[view]) for network, view in zip(self.networks, views, strict=True)]
        losses: list[MethodLoss] = []
        for place, own in enumerate(outputs):
            others = tuple(_constant(output) for output in (*outputs[:place], *outputs[place + 1 :]))
            loss = partial(self.method.seen_from(place), own, others)
            losses.append(loss_on_mixed(loss, batch, labels_of_mixed(self.method)))
        named = zip(self.names, losses, strict=True)
        terms = {f"{name}.{term}": value for name, loss in named for term, value in loss.terms.items()}
        assert losses[0].hits is not None, "the method is a logit method"
        return StageLoss(torch.stack([loss.total for loss in losses]).sum(), terms, losses[0].hits)

    def predictions(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        named = zip(self.names, self.networks, strict=True)
        return {name: network(images_BCHW).logits for name, network in named}

    def parameter_groups(self) -> list[dict]:
        parts: list[list[nn.Module]] = [[network] for network in self.networks]
        parts[0].append(self.method)
        return [
            {"params": [p for module in modules for p in module.parameters() if p.requires_grad], "lr_factor": factor}
            for modules, factor in zip(parts, self.lr_factors, strict=True)
        ]

    def begin_epoch(self, epoch: int) -> None:
        self.method.begin_epoch(epoch)
        if self.held_out is not None and not self.method.is_weighed(epoch):
            self.method.weigh(epoch, *self._said_of(self.held_out))

    @torch.no_grad()
    def _said_of(self, source: Source) -> tuple[Tensor, Tensor]:
        """The logits [M,N,K] of all networks in eval mode, and the labels [N], of all images of a source."""
        device = next(self.parameters()).device
        logits, labels, training, zero = [], [], self.training, torch.zeros((), dtype=torch.int64, device=device)
        self.eval()
        for raw in source.loader.epoch(0):
            batch = source.prepare(raw.to(device), zero, zero)
            logits.append(torch.stack([network(batch.images[0]).logits.float() for network in self.networks]))
            labels.append(batch.labels)
        self.train(training)
        return torch.cat(logits, 1), torch.cat(labels)


def deployed(student: Network, methods: Iterable[Method]) -> Network:
    """What the methods make of a student for use; it shares its weights and theirs."""
    for method in methods:
        student = method.deploy(student)
    return student


def with_batch_statistics(network: Network) -> Network:
    """A copy whose BatchNorms use each batch's statistics, in eval mode too: it has no others to use or to change."""
    twin = copy.deepcopy(network)
    for norm in twin.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean = norm.running_var = norm.num_batches_tracked = None
    assert not any(isinstance(norm, nn.Identity) for norm in twin.preact_norms), "such a teacher is not folded"
    return twin


@torch.no_grad()
def _copy(source: Network, goal: Network) -> None:
    """Copies weights and buffers into `goal`, in place."""
    into = goal.state_dict()
    for name, value in source.state_dict().items():
        into[name].copy_(value)


def _constant(output: Output) -> Output:
    """The same output, detached."""
    return output.mapped(Tensor.detach)


def _freeze_all_but(network: Network, parts: Sequence[nn.Module]) -> None:
    kept = {id(parameter) for part in parts for parameter in part.parameters()}
    for parameter in network.parameters():
        parameter.requires_grad_(id(parameter) in kept)


def _first(output: Output, count: int) -> Output:
    """The part of the first `count` images."""
    return output if len(output.logits) == count else output.mapped(lambda value: value[:count])


def _refuse_different_views(methods: dict[str, Method]) -> None:
    several = {name: method.views for name, method in methods.items() if method.views.count > 1}
    if len(set(several.values())) > 1:
        raise UserError(f"{' and '.join(several)} need different views of the images: they do not go together")


def _module_name(method: str) -> str:
    return method.replace(".", "_")  # an import path `package.module:Class` is no module name
