"""Factor transfer (Kim, Park, Kwak: "Paraphrasing complex network: network compression via factor transfer", NeurIPS
2018, arXiv 1802.04977)."""

from dataclasses import dataclass
from typing import Annotated, Literal

from torch import Tensor, nn

from fastkd.data.base import Batch
from fastkd.losses.features import factor_distance, mean_squared_error
from fastkd.methods.base import (
    Context,
    Method,
    MethodLoss,
    PrestageTraining,
    PrestageWork,
    up_to_block,
    weighted,
)
from fastkd.networks.base import Network, Output
from fastkd.support.fields import OnlyWith
from fastkd.support.plain import Checked
from fastkd.support.ranges import EpochsOrNone, Positive, Weight, between

SLOPE = 0.1
"""Slope of the leaky ReLUs below 0."""


@dataclass(frozen=True, kw_only=True)
class FTSettings(Checked):
    """weight · mean |factor of the student - factor of the teacher|, both normalised (the paper's p = 1)."""

    weight: Weight = 200.0
    """The default is RepDistiller's, for the form "attention"."""
    rate: Annotated[float, between(0.001, 16)] = 0.5
    """Channels of a factor, as a share of the teacher's."""
    form: Annotated[Literal["attention", "factor"], OnlyWith("weight")] = "attention"
    """attention: the channels' mean square of each factor is compared (RepDistiller); factor: the whole factor, as in
    the paper."""
    epochs: EpochsOrNone = 30
    """Epochs of the paraphraser's training, which comes before the student's; 0 for none."""
    paraphraser_lr: Annotated[Positive | None, OnlyWith("epochs")] = 0.01
    """Its learning rate; None: the student's (RepDistiller: 0.01 for a resnet or WRN, else the student's)."""


class FT(Method):
    """Compares the last features. The paraphraser is trained before the student, and frozen beside it."""

    Settings = FTSettings
    about = "factors: paraphrased features"
    teachers_needed = (1, 1)

    def __init__(self, settings: FTSettings, context: Context):
        super().__init__(settings, context)
        student, teacher = (s.features[-1].shape[1] for s in (context.student_shapes, context.teacher_shapes[0]))
        channels = max(int(teacher * settings.rate), 1)
        self.paraphraser = Paraphraser(teacher, channels).requires_grad_(False)
        self.translator = nn.Sequential(
            *_encoder_layer(student, student), *_encoder_layer(student, channels), *_encoder_layer(channels, channels)
        )

    def reaches(self, student: Network) -> tuple[nn.Module, ...]:
        return up_to_block(student)

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        target = self.paraphraser.encoder(teachers[0].features[-1])
        translated = self.translator(student.features[-1])
        return weighted("ft", self.settings.weight, factor_distance(translated, target, self.settings.form))

    @classmethod
    def prestage_training(cls, settings: FTSettings) -> PrestageTraining | None:
        return PrestageTraining(epochs=settings.epochs, lr=settings.paraphraser_lr) if settings.epochs else None

    def prestage(self, student: Network) -> PrestageWork:
        return PrestageWork(trained=(self.paraphraser,), loss=self._reconstruction, student=False)

    def _reconstruction(self, student: Output | None, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        feature = teachers[0].features[-1]
        return weighted("reconstruction", 1.0, mean_squared_error(self.paraphraser(feature), feature))


class Paraphraser(nn.Module):
    """An autoencoder of the teacher's map, without BatchNorm; its code is the factor."""

    def __init__(self, channels: int, factor_channels: int):
        super().__init__()
        widths = (channels, channels, factor_channels, factor_channels)
        back = widths[::-1]
        self.encoder, self.decoder = nn.Sequential(), nn.Sequential()
        for i in range(3):
            self.encoder.extend((nn.Conv2d(widths[i], widths[i + 1], 3, padding=1), nn.LeakyReLU(SLOPE)))
            self.decoder.extend((nn.ConvTranspose2d(back[i], back[i + 1], 3, padding=1), nn.LeakyReLU(SLOPE)))

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


def _encoder_layer(channels_in: int, channels_out: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1)
    return convolution, nn.BatchNorm2d(channels_out), nn.LeakyReLU(SLOPE)
