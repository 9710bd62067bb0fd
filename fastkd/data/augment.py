"""Makes the `Batch` that a stage trains on out of a raw batch: the first operation of the step."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from fastkd.data.base import ONE_VIEW, Batch, RawBatch, Split, Views
from fastkd.data.mixing import Mixing
from fastkd.ops.augment import How, Inputs, augment, turns_table
from fastkd.ops.augment.strong import FIXMATCH, RANDAUGMENT, Drawn, Policy, strengthened
from fastkd.ops.philox import split_seed
from fastkd.support.errors import UserError
from fastkd.support.fields import OnlyWith, fixed
from fastkd.support.plain import Checked
from fastkd.support.ranges import between, whole

VERSION = 1
"""What our code makes of a seed, an epoch and an image. It is counted up with every change of a crop, a flip, an angle
or a pixel: rows that a teacher computed from other pixels are other rows."""
GREATEST_MAGNITUDE = 30.0
"""RandAugment's greatest magnitude."""


@dataclass(frozen=True, kw_only=True)
class Augmentation(Checked):
    """What happens to a training image; evaluation images are only normalised (and cropped, see `crop`)."""

    crop: Literal["pad", "resized"] = "pad"
    """pad: a random window of the zero-padded image. resized: a random area and aspect ratio, resized, as is usual on
    ImageNet; evaluation then takes the centre of the image resized to 8/7 of the image size."""
    crop_padding: Annotated[int, whole(0, 16_384), OnlyWith("crop", "pad")] = 4
    """Pixels of padding on each side, with --crop pad."""
    flip: bool = True
    """Flip an image horizontally, with probability 1/2."""
    rotation: Annotated[float, between(0, 180)] = 0.0
    """Rotate by up to ± so many degrees, uniformly; nearest pixel, black outside (the Tf-KD recipes)."""
    randaugment: Annotated[int, whole(0, 100)] = 0
    """Operations of RandAugment that each image gets after crop and flip (torchvision's table)."""
    magnitude: Annotated[float, between(0, GREATEST_MAGNITUDE), OnlyWith("randaugment")] = 9.0
    """Their magnitude, from 0 to 30."""
    mixup: Annotated[float, between(0, 100)] = 0.0
    """α of mixup: images are mixed in pairs at a share drawn from Beta(α, α) for each batch; 0: they are not."""
    cutmix: Annotated[float, between(0, 100)] = 0.0
    """α of cutmix: a box of each image comes from another; with --mixup each batch has one of both."""
    area: Annotated[
        tuple[Annotated[float, between(1e-4, 1)], Annotated[float, between(1e-4, 1)]], OnlyWith("crop", "resized")
    ] = fixed((0.08, 1.0))
    """Least and greatest share of the image's area, with --crop resized."""
    aspect: Annotated[
        tuple[Annotated[float, between(0.01, 100)], Annotated[float, between(0.01, 100)]], OnlyWith("crop", "resized")
    ] = fixed((3 / 4, 4 / 3))
    """Least and greatest ratio of width to height."""

    squeeze: Annotated[bool, OnlyWith("crop", "resized")] = False
    """Evaluate with images that are resized to a square, whatever their proportions (SFTN prints that), not with the
    shorter side resized."""

    @property
    def evaluated(self) -> Literal["pad", "resized", "squeezed"]:
        """How the images of an evaluation are resized and cropped, see `boxes.centres`."""
        return "squeezed" if self.squeeze and self.crop == "resized" else self.crop

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("area", "aspect"):
            least, most = getattr(self, name)
            if least > most:
                raise UserError(f"the {name} of a crop is from {least:g} to {most:g}: the first is the least")
        if self.rotation and self.crop == "resized":
            raise UserError("--rotation goes with --crop pad only")

    def check_size(self, image_size: int) -> None:
        """Raises UserError where the padding of images of that size makes crops that hold nothing of them."""
        if self.crop == "pad" and self.crop_padding > image_size:
            most = f"--crop-padding is at most the image size, {image_size}, got {self.crop_padding}"
            raise UserError(f"{most}: farther out there is no image left")


@dataclass(frozen=True, kw_only=True)
class Format:
    """How the images of a batch lie in memory."""

    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    """Each view [B,3,H,W] is channels-last; the view axis stays outermost."""


def policy_of(view: int, augmentation: Augmentation | None, views: Views) -> tuple[Policy, Drawn] | None:
    """The operations that a view is augmented by beside crop, flip and rotation; None: there are none."""
    if augmentation is None:
        return None
    if views.strong and view:
        return FIXMATCH, Drawn(2)
    if augmentation.randaugment:
        return RANDAUGMENT, Drawn(augmentation.randaugment, augmentation.magnitude / GREATEST_MAGNITUDE)
    return None


def mixing_of(augmentation: Augmentation | None, seed: int) -> Mixing | None:
    if augmentation is None or not (augmentation.mixup or augmentation.cutmix):
        return None
    return Mixing(augmentation.mixup, augmentation.cutmix, seed)


class Normalise(nn.Module):
    """What makes (byte / 255 - mean) / std of a byte, as one product and one sum: two numbers for each channel."""

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: tuple[float, float, float], std: tuple[float, float, float]):
        super().__init__()
        mean_C, std_C = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
        self.register_buffer("scale", (1 / (255 * std_C)).float(), persistent=False)
        self.register_buffer("shift", (-mean_C / std_C).float(), persistent=False)


class Prepare(nn.Module):
    """Augments and normalises byte images and looks up their labels: the common part of the two modules below.

    The random numbers of an image are a function of (seed, epoch, index, view) alone.
    """

    labels: Tensor
    turns: Tensor | None

    def __init__(
        self,
        labels: Tensor,
        normalise: Normalise,
        augmentation: Augmentation | None,
        seed: int = 0,
        views: Views = ONE_VIEW,
        format: Format | None = None,
        distinct_epochs: int | None = None,
    ):
        """distinct_epochs: after so many epochs their random numbers come again; None: each epoch has its own."""
        super().__init__()
        self.distinct_epochs = distinct_epochs
        self.register_buffer("labels", labels, persistent=False)
        rotation = augmentation.rotation if augmentation else 0.0
        self.register_buffer("turns", turns_table(rotation) if rotation else None, persistent=False)
        self.normalise, self.views = normalise, views
        self.format = format or Format()
        padding = augmentation.crop_padding if augmentation is not None and augmentation.crop == "pad" else 0
        self.how = How(
            *split_seed(seed),
            padding=padding,
            flip=augmentation is not None and augmentation.flip,
            quarter_turns=views.quarter_turns,
            dtype=self.format.dtype,
        )
        self.policies = tuple(policy_of(view, augmentation, views) for view in range(views.count))
        self.mixing = mixing_of(augmentation, seed)

    def batch(
        self,
        images_nHWC: Tensor,
        rows_VB: Tensor,
        raw: RawBatch,
        step: Tensor,
        epoch: Tensor,
        *,
        drawn_B: Tensor | None = None,
    ) -> Batch:
        """rows_VB: the byte image that each view is cut out of. drawn_B: what the images' random numbers are a function
        of, beside the epoch; None: their index."""
        index_B = raw.index
        scale_C, shift_C = self.normalise.scale, self.normalise.shift
        drawn = epoch if self.distinct_epochs is None else epoch % self.distinct_epochs
        keys_B = index_B if drawn_B is None else drawn_B
        inputs = Inputs(images_nHWC, rows_VB, keys_B, drawn, self.turns, scale_C, shift_C, self.how)
        images = augment(inputs, channels_last=self.format.channels_last)
        if any(self.policies):
            self._strengthen(images, inputs)
        batch = Batch(images, self.labels[index_B], index_B, step, epoch)
        return batch if self.mixing is None else self.mixing(batch, paired=raw.paired)

    def _strengthen(self, images: Tensor, inputs: Inputs) -> None:
        """Overwrites the views that have operations drawn for them: after crop and flip, on bytes."""
        scale_C, shift_C = inputs.scale_C, inputs.shift_C
        how = inputs.how._replace(dtype=torch.float32)
        bytes_VBCHW = augment(
            inputs._replace(scale_C=torch.ones_like(scale_C), shift_C=torch.zeros_like(shift_C), how=how)
        )
        key = inputs.how.key_low, inputs.how.key_high
        for view, policy in enumerate(self.policies):
            if policy is not None:
                changed = strengthened(bytes_VBCHW[view], policy[0], key, inputs.index_B, inputs.epoch, view, policy[1])
                images[view].copy_(changed * scale_C[:, None, None] + shift_C[:, None, None])


class ResidentImages(Prepare):
    """Holds a split on the device and looks up the indices of a raw batch in it."""

    images: Tensor

    def __init__(
        self,
        split: Split,
        normalise: Normalise,
        augmentation: Augmentation | None,
        seed: int = 0,
        views: Views = ONE_VIEW,
        format: Format | None = None,
        distinct_epochs: int | None = None,
    ):
        super().__init__(split.labels, normalise, augmentation, seed, views, format, distinct_epochs)
        height, width = split.images.shape[1:3]
        if views.quarter_turns and height != width:
            raise UserError(f"quarter turns need square images, these are {width} x {height}")
        self.register_buffer("images", split.images, persistent=False)

    def forward(self, raw: RawBatch, step: Tensor, epoch: Tensor) -> Batch:
        rows = raw.index.expand(self.views.count, -1)
        return self.batch(self.images, rows, raw, step, epoch)


class StreamedImages(Prepare):
    """Takes raw batches that bring their pixels: each view's own, or whole images that all views are cropped out of."""

    def forward(self, raw: RawBatch, step: Tensor, epoch: Tensor) -> Batch:
        images = raw.images
        assert images is not None, "a streaming loader yields pixels"
        brought, count = images.shape[:2]
        rows = torch.arange(brought * count, device=images.device).view(brought, count)
        return self.batch(images.flatten(0, 1), rows.expand(self.views.count, -1), raw, step, epoch)
