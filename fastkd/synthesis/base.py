"""What a stage owns that makes its images: networks, optimisers, files and a state of its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from fastkd.data.augment import Augmentation, Format
from fastkd.data.base import ONE_VIEW, Views
from fastkd.data.sources import Source
from fastkd.networks.base import Network
from fastkd.support.appended import AppendedRows
from fastkd.support.errors import UserError
from fastkd.synthesis.generators import GENERATORS, Generator
from fastkd.synthesis.settings import SynthesisSettings


@dataclass(frozen=True, kw_only=True)
class MadeFor:
    """Whom images are made for, and how they are seen."""

    teacher: Network
    """A frozen one of float32, whose BatchNorms are layers of their own."""
    student: Network
    """The network that the student will be used as, trained elsewhere."""
    mean: tuple[float, float, float]
    """That of the channels the teacher was trained on, where white is 1."""
    std: tuple[float, float, float]
    image_size: int
    classes: tuple[str, ...]
    epochs: int
    batch_size: int
    """The student's."""
    seed: int
    data_seed: int
    """The seed of the order, the crops and the flips of a pool's images."""
    device: torch.device


class Feed(NamedTuple):
    """How the student's batches are made of the images."""

    augmentation: Augmentation
    views: Views = ONE_VIEW
    format: Format = Format()


Work = Callable[[], None]
Recorded = Callable[[Work, Sequence[torch.optim.Optimizer]], Work]
"""What does a work that is done again and again: it gets the work, and the optimisers that take steps in it."""


class Synthesis:
    """Base of both kinds. A round is what a generator learns at once.

    Everything random in it is a function of the seed and the place, and all that a round depends on is in `networks`,
    `optimizers`, `files` and `rounds`: a checkpoint holds them, and the files' bytes stay where they are.
    """

    def __init__(self, settings: SynthesisSettings, made_for: MadeFor):
        if made_for.image_size % 4:
            raise UserError(
                f"generators make images whose side is a multiple of 4, --image-size is {made_for.image_size}"
            )
        self.settings, self.made_for = settings, made_for
        self.mean, self.std = (torch.tensor(of, device=made_for.device) for of in (made_for.mean, made_for.std))
        self.generator = Generator(
            settings.latent,
            image_size=made_for.image_size,
            channels=settings.channels,
            **GENERATORS[settings.generator],
        ).to(made_for.device)
        self.networks = nn.ModuleDict({"generator": self.generator})
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.files: dict[str, AppendedRows] = {}
        """Files that rows are appended to, by what they hold; none before `keep_beside` was called."""
        self.rounds = 0
        """Rounds done."""
        self.loss = torch.zeros((), device=made_for.device)
        """That of the last round."""
        self.watch: Callable[[int, int, float], None] = lambda done, steps, seconds: None
        """Called before each step of a round that is longer than a moment, with the steps that are done, those of the
        round, and the seconds since it began; what it raises ends the round."""

    def source(self, feed: Feed) -> Source:
        """The student's batches."""
        raise NotImplementedError

    def begin_epoch(self, epoch: int) -> None:
        """Does the round that an epoch begins with, unless it is done."""

    def before_step(self, step: int) -> None:
        """Does the round, if there is one, in front of a step of the epoch."""

    @property
    def every(self) -> int:
        """How many steps of an epoch lie between two before which `before_step` does something; 0: it never does."""
        return 0

    def do_by(self, recorded: Recorded) -> None:
        """Has the steps of its networks done by what that makes of them."""
        raise NotImplementedError

    def rehearse(self) -> float:
        """Does a short round, after which a batch can be made; nothing is written. Returns what share of an epoch's
        rounds that is."""
        raise NotImplementedError

    def keep_beside(self, checkpoint: Path) -> None:
        """Says where files are to lie: beside a stage's checkpoint."""

    def take_up(self, rounds: int) -> None:
        """Goes on after so many rounds: networks and optimisers are loaded, the files reach as far as they are to."""
        self.rounds = rounds

    def measures(self) -> dict[str, float]:
        """What is logged of the last round."""
        return {"rounds": self.rounds, "loss": self.loss.item()}

    def words(self) -> str:
        """Where the synthesis stands, as a line says it after an epoch."""
        return f"synthesis loss {self.loss.item():.4f}"

    def is_finite(self) -> bool:
        """Whether all that was learned so far is finite; waits for the device."""
        finite = [parameter.isfinite().all() for parameter in self.networks.parameters()]
        return bool(torch.stack([*finite, self.loss.isfinite()]).all())
