"""Whole rounds of synthesis, as functions of given draws: what is trained is changed in place."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastkd.networks.base import Network
from fastkd.synthesis.generators import Generator
from fastkd.synthesis.inversion import Inversion, Views
from fastkd.synthesis.losses import ATTENTION_WEIGHT, elementwise_divergence, zskt_student_loss

BETAS = (0.5, 0.999)
"""Adam's, for DataFree's generators."""
CLIP = 5.0
"""The norm that ZSKT's authors clip gradients to."""


def adam(parameters: Iterable[Tensor], lr: float, **how: Any) -> torch.optim.Adam:
    """Adam as the device has it fastest: on a GPU as one operation, which may be recorded."""
    parameters = [*parameters]
    return torch.optim.Adam(parameters, lr=lr, fused=all(one.is_cuda for one in parameters) or None, **how)


class Made(NamedTuple):
    images: Tensor
    """[B,3,H,W], a constant: what the generator made before it was updated."""
    loss: Tensor


def generator_step(
    generator: Generator, optimizer: torch.optim.Optimizer, latents_BZ: Tensor, loss: Callable[[Tensor], Tensor]
) -> Made:
    """One step of DataFree's ZSKT and DAFL; loss: that of images in [0, 1], the networks being in eval mode."""
    images = generator.train()(latents_BZ)
    found = loss(images)
    optimizer.zero_grad()
    found.backward()
    optimizer.step()
    return Made(images.detach(), found.detach())


class PseudoStep(NamedTuple):
    """One step of a pseudo batch of ZSKT's authors."""

    trained: str
    """generator or student."""
    images: Tensor
    loss: Tensor
    gradient_norm: Tensor
    """Before it was clipped."""


class PseudoBatch:
    """What ZSKT's authors do with one batch of latents: steps of the generator, then some of the student.

    Student and generator stay in training mode; the generator makes the batch anew for each step, and so its
    BatchNorms move with each. The teacher is asked once for the student's steps, which see the same images.
    """

    def __init__(
        self,
        generator: Generator,
        student: Network,
        teacher: Network,
        optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer],
        *,
        temperature: float = 1.0,
        attention_weight: float = ATTENTION_WEIGHT,
    ):
        """optimizers: the generator's and the student's."""
        self.generator, self.student, self.teacher = generator.train(), student.train(), teacher.eval()
        self.of_generator, self.of_student = optimizers
        self.temperature, self.attention_weight = temperature, attention_weight

    def steps(self, latents_BZ: Tensor, student_steps: int = 10) -> Iterator[PseudoStep]:
        yield self._generator_step(latents_BZ)
        said = None
        for _ in range(student_steps):
            with torch.no_grad():
                images = self.generator(latents_BZ)
                said = self.teacher(images) if said is None else said
            mine = self.student(images)
            loss = zskt_student_loss(
                mine.logits,
                said.logits,
                mine.features,
                said.features,
                temperature=self.temperature,
                attention_weight=self.attention_weight,
            )
            yield self._step("student", self.student, self.of_student, images, loss)

    def _generator_step(self, latents_BZ: Tensor) -> PseudoStep:
        images = self.generator(latents_BZ)
        mine, theirs = self.student(images).logits, self.teacher(images).logits
        loss = -elementwise_divergence(mine, theirs, temperature=self.temperature)
        return self._step("generator", self.generator, self.of_generator, images, loss)

    def _step(
        self, name: str, trained: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, loss: Tensor
    ) -> PseudoStep:
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(trained.parameters(), CLIP)
        optimizer.step()
        return PseudoStep(name, images.detach(), loss.detach(), norm)


class Inverted(NamedTuple):
    """What a round of CMI leaves: its best step."""

    loss: Tensor
    """The total of that step."""
    step: Tensor
    """int64 scalar, from 0."""
    images: Tensor
    """[B,3,H,W]: those of that step, in [0, 1]."""
    features: Tensor
    """[B,2C]: theirs, the rows that the bank gets."""


class InversionRound:
    """A round of CMI: generator and latents are trained by an optimiser of their own, the head's is kept over rounds.

    Every tensor of it stays where it is, from step to step and from round to round, and the best step is found on the
    device: a step may be recorded. Teacher and student are in eval mode meanwhile.
    """

    def __init__(
        self,
        inversion: Inversion,
        generator: Generator,
        latents_BZ: Tensor,
        labels_B: Tensor,
        *,
        of_head: torch.optim.Optimizer,
        lr: float = 1e-3,
    ):
        """latents_BZ: changed in place."""
        self.inversion, self.generator = inversion, generator
        self.latents, self.labels = latents_BZ.requires_grad_(), labels_B
        own = adam([*generator.parameters(), self.latents], lr, betas=BETAS)
        self.optimizers = (own, of_head)
        self.number = torch.zeros((), dtype=torch.int64, device=labels_B.device)
        """The step that comes next, from 0."""
        self._best: Inverted | None = None

    @property
    def best(self) -> Inverted:
        """What the steps so far leave; the next round overwrites it."""
        assert self._best is not None, "a round has steps"
        return self._best

    @torch.no_grad()
    def begin_anew(self, latents_BZ: Tensor, labels_B: Tensor) -> None:
        """Begins another round, of a generator that has new weights."""
        self.latents.copy_(latents_BZ)
        self.labels.copy_(labels_B)
        self.number.zero_()
        for state in self.optimizers[0].state.values():
            for value in state.values():
                value.zero_()

    def step(self, views: Views, bank_N2C: Tensor | None) -> None:
        """bank_N2C: the rows that are drawn of the bank, see `contrastive_loss`."""
        for network in (self.inversion.teacher, self.inversion.student):
            network.eval()
        images = self.generator.train()(self.latents)
        found = self.inversion.terms(images, self.labels, views, bank_N2C)
        total = found.total(self.inversion.weights)
        self._keep(Inverted(total.detach(), self.number, images.detach(), found.features))
        for each in self.optimizers:
            each.zero_grad()
        total.backward()
        for each in self.optimizers:
            each.step()
        self.number.add_(1)

    @torch.no_grad()
    def _keep(self, made: Inverted) -> None:
        """Keeps what has the lowest loss; of equals, or where the loss is NaN, the first."""
        if self._best is None:
            self._best = Inverted(*(value.clone() for value in made))
        is_better = (made.loss < self._best.loss) | (self.number == 0)
        for new, old in zip(made, self._best, strict=True):
            old.copy_(torch.where(is_better, new, old))


def as_bytes(images_BCHW: Tensor) -> Tensor:
    """uint8: images in [0, 1] as a pool keeps them. What is behind the point is cut, as in the authors' code."""
    return (images_BCHW.clamp(0, 1) * 255).to(torch.uint8)
