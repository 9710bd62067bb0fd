"""A generator that learns all along, between the student's steps: ZSKT and DAFL, as DataFree has them."""

import torch
from torch import Tensor

from fastkd.data.resident import ResidentLoader
from fastkd.data.sources import Source
from fastkd.support.errors import UserError
from fastkd.synthesis.base import Feed, MadeFor, Recorded, Synthesis, Work
from fastkd.synthesis.batches import FreshImages, FreshOrder
from fastkd.synthesis.draws import normal
from fastkd.synthesis.held import held
from fastkd.synthesis.losses import adversarial_loss, dafl_terms
from fastkd.synthesis.rounds import BETAS, adam, generator_step
from fastkd.synthesis.settings import SynthesisSettings
from fastkd.synthesis.views import normalised

_OWN_LATENTS = 1
"""The stream of the vectors that the generator learns by; the student's batches have stream 0."""


class FreshSynthesis(Synthesis):
    """One step of the generator in front of every so many of the student's; no image is seen twice."""

    def __init__(self, settings: SynthesisSettings, made_for: MadeFor):
        super().__init__(settings, made_for)
        self.optimizers = {"generator": adam(self.generator.parameters(), settings.lr, betas=BETAS)}
        self.learned = torch.zeros((), dtype=torch.int64, device=made_for.device)
        """The rounds done, as the device counts them."""
        self._work: Work = self._learn

    @property
    def every(self) -> int:
        return self.settings.every

    def do_by(self, recorded: Recorded) -> None:
        self._work = recorded(self._learn, [*self.optimizers.values()])

    def source(self, feed: Feed) -> Source:
        if feed.views.count > 1:
            raise UserError(
                f"{self.settings.kind} makes each image once: a method of several views does not go with it"
            )
        of = self.made_for
        order = FreshOrder(self.settings, of.batch_size)
        loader = ResidentLoader(torch.zeros(order.samples, dtype=torch.int64), of.classes, order, of.device)
        prepare = FreshImages(self.generator, self.mean, self.std, of.seed, feed.format.dtype)
        return Source(loader, prepare, order.samples, of.batch_size)

    def before_step(self, step: int) -> None:
        if step % self.settings.every == 0:
            self._work()
            self.rounds += 1

    def take_up(self, rounds: int) -> None:
        super().take_up(rounds)
        self.learned.fill_(rounds)

    def _learn(self) -> None:
        """Takes a step of the generator; all that it changes is changed in place."""
        with held(self.made_for.teacher, self.made_for.student):
            made = generator_step(self.generator, self.optimizers["generator"], self._latents(), self._error)
        self.learned.add_(1)
        self.loss.copy_(made.loss)

    def rehearse(self) -> float:
        self.before_step(0)
        return self.settings.every / self.settings.steps_per_epoch

    def _latents(self) -> Tensor:
        count = self.settings.images
        index = self.learned * count + torch.arange(count, device=self.made_for.device)
        return normal(self.made_for.seed, index, self.settings.latent, stream=_OWN_LATENTS)

    def _error(self, images_BCHW: Tensor) -> Tensor:
        seen, settings = normalised(images_BCHW, self.mean, self.std), self.settings
        said = self.made_for.teacher(seen)
        if settings.kind == "zskt":
            return settings.adversarial * adversarial_loss(self.made_for.student(seen).logits, said.logits)
        weights = {"one_hot": settings.one_hot, "balance": settings.balance, "activation": settings.activation}
        return dafl_terms(said.logits, said.embedding).total(**weights)
