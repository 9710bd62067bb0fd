"""Whole rounds of synthesis, as functions of given draws: what is trained is changed in place."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

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


def inversion_round(
    inversion: Inversion,
    generator: Generator,
    latents_BZ: Tensor,
    labels_B: Tensor,
    *,
    of_head: torch.optim.Optimizer,
    draws: Iterable[tuple[Views, Tensor | None]],
    lr: float = 1e-3,
) -> Inverted:
    """A round of CMI: generator and latents are trained by an optimiser of their own, the head's is kept over rounds.

    latents_BZ: changed in place; draws: the views and the bank's rows of each step. The best step is found on the
    device.
    """
    for network in (inversion.teacher, inversion.student):
        network.eval()
    latents = latents_BZ.requires_grad_()
    optimizer = torch.optim.Adam([*generator.train().parameters(), latents], lr=lr, betas=BETAS)
    best: Inverted | None = None
    for number, (views, bank) in enumerate(draws):
        images = generator(latents)
        found = inversion.terms(images, labels_B, views, bank)
        total = found.total(inversion.weights)
        made = Inverted(total.detach(), torch.full_like(labels_B[0], number), images.detach(), found.features)
        best = made if best is None else _better(best, made)
        for each in (optimizer, of_head):
            each.zero_grad()
        total.backward()
        for each in (optimizer, of_head):
            each.step()
    assert best is not None, "a round has steps"
    return best


def _better(best: Inverted, made: Inverted) -> Inverted:
    """The one with the lower loss; of equals, or where the loss is NaN, the first."""
    is_lower = made.loss < best.loss
    return Inverted(*(torch.where(is_lower, new, old) for new, old in zip(made, best, strict=True)))


def as_bytes(images_BCHW: Tensor) -> Tensor:
    """uint8: images in [0, 1] as a pool keeps them. What is behind the point is cut, as in the authors' code."""
    return (images_BCHW.clamp(0, 1) * 255).to(torch.uint8)
