"""Rounds whose best images join a pool that the student learns from: CMI, as DataFree has it."""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fastkd.data.augment import Normalise
from fastkd.data.base import Split
from fastkd.data.resident import ResidentLoader
from fastkd.data.sources import Source
from fastkd.support.appended import AppendedRows
from fastkd.support.errors import UserError
from fastkd.synthesis.bank import FeatureBank
from fastkd.synthesis.base import Feed, MadeFor, Recorded, Synthesis, Work
from fastkd.synthesis.batches import PoolImages, PoolOrder
from fastkd.synthesis.contrastive import Head
from fastkd.synthesis.draws import seeded
from fastkd.synthesis.generators import begin_anew
from fastkd.synthesis.held import held
from fastkd.synthesis.inversion import Inversion, Views, Weights
from fastkd.synthesis.rounds import InversionRound, Inverted, adam, as_bytes
from fastkd.synthesis.settings import SynthesisSettings
from fastkd.synthesis.views import GlobalDraws, LocalDraws, drawn_global, drawn_local

_REHEARSED = 2
"""Steps of a round on trial."""


class PooledSynthesis(Synthesis):
    """A generator for each round, in front of an epoch; its best images join the pool, their features the bank."""

    def __init__(self, settings: SynthesisSettings, made_for: MadeFor):
        super().__init__(settings, made_for)
        norms = [module for module in made_for.teacher.modules() if isinstance(module, nn.BatchNorm2d)]
        if not norms:
            raise UserError(
                f"{settings.kind} makes images by the statistics of the teacher's BatchNorms: this teacher has none"
            )
        width = sum(norm.num_features for norm in norms)
        self.head = Head(width).to(made_for.device)
        self.networks["head"] = self.head
        self.optimizers = {"head": adam(self.head.parameters(), settings.lr)}
        self.bank = FeatureBank(settings.bank, 2 * width).to(made_for.device) if settings.contrast else None
        if self.bank is not None and settings.images > settings.bank:
            raise UserError(
                f"--synthesis.bank holds {settings.bank:,} images: a round of {settings.images:,} does not fit"
            )
        self.images = _blank(settings.images_at(made_for.epochs - 1), made_for)
        """[n,H,W,3] uint8, with room for the last epoch's pool."""
        self.inversion = Inversion(
            teacher=made_for.teacher,
            student=made_for.student,
            head=self.head,
            mean=self.mean,
            std=self.std,
            weights=Weights(settings.statistics, settings.label, settings.adversarial, settings.contrast),
            temperature=settings.contrast_temperature,
        )
        self._recorded: Recorded = lambda work, optimizers: work
        self._run: Rounds | None = None

    def source(self, feed: Feed) -> Source:
        of = self.made_for
        labels = torch.zeros(len(self.images), dtype=torch.int64, device=of.device)
        order = PoolOrder(self.settings, of.batch_size, of.epochs, of.data_seed)
        how = (feed.augmentation, of.data_seed, feed.views, feed.format)
        prepare = PoolImages(Split(self.images, labels), Normalise(of.mean, of.std), *how)
        return Source(ResidentLoader(labels.cpu(), of.classes, order, of.device), prepare, order.samples, of.batch_size)

    def do_by(self, recorded: Recorded) -> None:
        self._recorded = recorded
        self._run = None

    def begin_epoch(self, epoch: int) -> None:
        if self.rounds <= epoch:
            self._keep(self._round(self.settings.generator_steps))

    def rehearse(self) -> float:
        steps = min(_REHEARSED, self.settings.generator_steps)
        self._put_images(0, as_bytes(self._round(steps).images))
        return steps / self.settings.generator_steps

    def keep_beside(self, checkpoint: Path) -> None:
        self.files = {"images": AppendedRows(checkpoint.with_suffix(".images"), self.images[0].numel())}
        if self.bank is not None:
            self.files["features"] = AppendedRows(checkpoint.with_suffix(".features"), 4 * self.bank.rows.shape[1])

    def take_up(self, rounds: int) -> None:
        super().take_up(rounds)
        count, side = rounds * self.settings.images, self.made_for.image_size
        bytes_nHWC = np.frombuffer(self.files["images"].read(0, count), np.uint8).reshape(count, side, side, 3)
        self._put_images(0, torch.from_numpy(bytes_nHWC.copy()).movedim(-1, 1))
        if self.bank is not None:
            self.bank.added.fill_(count - (filled := min(count, len(self.bank.rows))))
            content = self.files["features"].read(count - filled, filled)
            rows = np.frombuffer(content, "<f4").reshape(filled, -1).astype(np.float32)
            self.bank.add(torch.from_numpy(rows))

    def measures(self) -> dict[str, float]:
        return super().measures() | {"images": self.rounds * self.settings.images}

    def words(self) -> str:
        return f"pool of {self.rounds * self.settings.images:,}, {super().words()}"

    def _round(self, steps: int) -> Inverted:
        of = self.made_for
        labels, latents = self._begin_round(seeded(of.seed, "round", self.rounds))
        if self._run is None:
            how = {"of_head": self.optimizers["head"], "lr": self.settings.lr}
            self._run = Rounds(InversionRound(self.inversion, self.generator, latents, labels, **how), self._recorded)
        with held(of.teacher, of.student):
            return self._run.whole(latents, labels, self._draws(steps))

    def _begin_round(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draws the weights of the generator; returns the labels [B] of the images, sorted, and their vectors [B,Z]."""
        of, count = self.made_for, self.settings.images
        labels = torch.randint(len(of.classes), (count,), generator=generator).sort().values.to(of.device)
        latents = torch.randn(count, self.settings.latent, generator=generator).to(of.device)
        with torch.random.fork_rng([of.device] if of.device.type == "cuda" else []):
            torch.manual_seed(generator.initial_seed())
            begin_anew(self.generator)
        return labels, latents

    def _draws(self, steps: int) -> Iterator[tuple[Views, Tensor | None]]:
        of, count, started = self.made_for, self.settings.images, time.monotonic()
        for step in range(steps):
            self.watch(step, steps, time.monotonic() - started)
            generator = seeded(of.seed, "views", self.rounds, step)
            whole = GlobalDraws(*(draw.to(of.device) for draw in drawn_global(count, generator)))
            part = LocalDraws(*(draw.to(of.device) for draw in drawn_local(count, of.image_size, generator)))
            yield Views(whole, part), self.bank.drawn(self.settings.drawn, generator) if self.bank is not None else None

    def _keep(self, found: Inverted) -> None:
        images_BCHW = as_bytes(found.images)
        self._put_images(self.rounds * self.settings.images, images_BCHW)
        if self.bank is not None:
            self.bank.add(found.features)
        if self.files:
            self.files["images"].append(images_BCHW.movedim(1, -1).contiguous().cpu().numpy().tobytes())
        if "features" in self.files:
            self.files["features"].append(found.features.float().cpu().numpy().astype("<f4").tobytes())
        self.rounds += 1
        self.loss.copy_(found.loss)

    def _put_images(self, first: int, images_BCHW: Tensor) -> None:
        self.images[first : first + len(images_BCHW)].copy_(images_BCHW.movedim(1, -1))


class Rounds:
    """Rounds whose steps read their draws in tensors that stay where they are."""

    def __init__(self, of: InversionRound, recorded: Recorded):
        self.of, self.recorded = of, recorded
        self.draws: tuple[Views, Tensor | None] | None = None
        self.step: Work = self._step

    def whole(self, latents_BZ: Tensor, labels_B: Tensor, draws: Iterable[tuple[Views, Tensor | None]]) -> Inverted:
        self.of.begin_anew(latents_BZ.detach(), labels_B)
        for drawn in draws:
            self._put(drawn)
            self.step()
        return self.of.best

    def _put(self, drawn: tuple[Views, Tensor | None]) -> None:
        """Puts the draws where the step reads them; as long as the bank fills, each round has more of its rows."""
        if self.draws is None or _shape(self.draws[1]) != _shape(drawn[1]):
            self.draws = drawn
            self.step = self.recorded(self._step, self.of.optimizers)
            return
        for old, new in zip(_tensors(self.draws), _tensors(drawn), strict=True):
            old.copy_(new)

    def _step(self) -> None:
        assert self.draws is not None
        self.of.step(*self.draws)


def _shape(rows: Tensor | None) -> torch.Size | None:
    return None if rows is None else rows.shape


def _tensors(drawn: tuple[Views, Tensor | None]) -> list[Tensor]:
    views, rows = drawn
    return [*views.whole, *views.part, *([] if rows is None else [rows])]


def _blank(count: int, made_for: MadeFor) -> Tensor:
    """[n,H,W,3] uint8, black: planes that follow each other suit a CPU, whole pixels a GPU."""
    side, device = made_for.image_size, made_for.device
    if device.type == "cpu":
        return torch.zeros(count, 3, side, side, dtype=torch.uint8).movedim(1, -1)
    return torch.zeros(count, side, side, 3, dtype=torch.uint8, device=device)
