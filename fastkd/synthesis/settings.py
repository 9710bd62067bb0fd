"""What decides on the images that a student learns from in place of data."""

from dataclasses import dataclass
from typing import Annotated, Literal

from fastkd.support.fields import OnlyWith, fixed
from fastkd.support.plain import Checked
from fastkd.support.ranges import Images, Positive, Temperature, Weight, Width, whole
from fastkd.synthesis.inversion import WEIGHTS

Kind = Literal["zskt", "dafl", "cmi"]

_FRESH = OnlyWith("kind", ("zskt", "dafl"))
_POOLED = OnlyWith("kind", "cmi")


@dataclass(frozen=True, kw_only=True)
class SynthesisSettings(Checked):
    """A generator, what it learns by, and when it does. The defaults are those of DataFree's scripts (9e79fa9)."""

    kind: Kind = fixed()
    """zskt and dafl: a generator that learns all along; each batch is made by what it has become. cmi: a generator for
    each round, before an epoch, whose best images join a pool that the student learns from."""
    images: Images = 256
    """Images that the generator learns by at once; with CMI so many join the pool before each epoch."""
    steps_per_epoch: Images = 400
    """The student's steps of an epoch."""
    every: Annotated[Images, _FRESH] = 5
    """The student's steps between two of the generator's."""
    generator_steps: Annotated[Images, _POOLED] = 200
    """The generator's steps of a round."""
    generator: Literal["small", "large"] = "large"
    """Whether the generator's first map has twice as many channels as its last, or four times as many."""
    latent: Width = 256
    """Length of the vectors that images are made of."""
    channels: Width = 64
    """Channels in front of the generator's last convolution."""
    lr: Positive = 1e-3
    """Learning rate of the generator's Adam; with CMI also of the latent vectors and the head."""
    adversarial: Annotated[Weight, OnlyWith("kind", ("zskt", "cmi"))] = 1.0
    """Weight of the student's divergence from the teacher, which the generator raises."""
    one_hot: Annotated[Weight, OnlyWith("kind", "dafl")] = 1.0
    """Weight of the cross-entropy of the teacher and the class that it names."""
    balance: Annotated[Weight, OnlyWith("kind", "dafl")] = 20.0
    """Weight of the entropy of a batch's mean probabilities."""
    activation: Annotated[Weight, OnlyWith("kind", "dafl")] = 0.001
    """Weight of the size of the teacher's embeddings."""
    statistics: Annotated[Weight, _POOLED] = WEIGHTS.statistics
    """Weight of the distance from the statistics of the teacher's BatchNorms."""
    label: Annotated[Weight, _POOLED] = WEIGHTS.label
    """Weight of the cross-entropy of the teacher and the class that was drawn for an image."""
    contrast: Annotated[Weight, _POOLED] = WEIGHTS.contrast
    """Weight of the contrast with the images of earlier rounds."""
    contrast_temperature: Annotated[Temperature, OnlyWith("contrast"), _POOLED] = 0.1
    """Temperature of the contrast."""
    bank: Annotated[Annotated[int, whole(1, 2**31 - 1)], OnlyWith("contrast"), _POOLED] = 40_960
    """Images whose features are kept for the contrast; the oldest go first."""
    drawn: Annotated[Annotated[int, whole(0, 2**31 - 1)], OnlyWith("contrast"), _POOLED] = 4_096
    """Images of the bank, at most, that a step of the generator sees."""

    @property
    def has_pool(self) -> bool:
        """Whether images are kept, and come again."""
        return self.kind == "cmi"

    def images_at(self, epoch: int) -> int:
        """The number of images in the pool in an epoch, counted from 0."""
        return self.images * (epoch + 1)
