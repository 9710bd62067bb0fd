"""Mixup and cutmix: images of a batch mixed with each other, by draws that depend on (seed, epoch, step) alone."""

import numpy as np
import torch
from torch import Tensor, nn

from fastkd.data.base import Batch, Mixed
from fastkd.ops.philox import below, philox, split_seed

QUANTILES = 4096
STREAM = 64  # the fourth counter word of the draws made here


class Mixing(nn.Module):
    """Mixes each image of a batch with the one that stands a drawn number of places after it, around the batch's end.

    One share is drawn for a batch, from Beta(α, α), and with both kinds which of them it is: timm's mode "batch". With
    cutmix (Yun et al., ICCV 2019) a box comes from the other image, with mixup (Zhang et al., ICLR 2018) all of it at
    1 less the share; every view is mixed alike. The places are those of the global batch: where a process has a part of
    it, the partners are loaded with its own images.
    """

    mixup_shares: Tensor
    cutmix_shares: Tensor

    def __init__(self, mixup: float, cutmix: float, seed: int):
        """mixup, cutmix: α of each, at least one of them above 0."""
        super().__init__()
        self.kinds = (mixup > 0, cutmix > 0)
        self.key = split_seed(seed)
        for name, alpha in (("mixup_shares", mixup), ("cutmix_shares", cutmix)):
            self.register_buffer(name, beta_quantiles(alpha) if alpha else torch.ones(QUANTILES), persistent=False)

    def forward(self, batch: Batch, *, paired: bool = False) -> Batch:
        """paired: whether the partners stand in the batch, behind the images; else they are among these."""
        first = philox(self.key, (batch.step, batch.epoch, 0, STREAM))
        second = philox(self.key, (batch.step, batch.epoch, 1, STREAM))
        height, width = batch.images.shape[-2:]
        if paired:
            (own, others), (labels, their_labels) = batch.images.chunk(2, dim=1), batch.labels.chunk(2)
            batch = batch._replace(images=own, labels=labels, index=batch.index.chunk(2)[0])
        else:
            partner = partners(first[0], len(batch.labels))
            others, their_labels = batch.images[:, partner], batch.labels[partner]
        is_cutmix = first[1] >> 31 if all(self.kinds) else torch.full_like(first[1], int(self.kinds[1]))
        place = below(first[2], QUANTILES)
        share = torch.where(is_cutmix == 1, self.cutmix_shares[place], self.mixup_shares[place])
        box = cut_box(share, below(second[0], height), below(second[1], width), height, width)
        of_box = 1 - box.float().mean()
        kept = torch.where(is_cutmix == 1, (~box).float(), share)
        images = batch.images.float()
        mixed = images * kept + others * (1 - kept)
        share = torch.where(is_cutmix == 1, of_box, share).float().expand(len(batch.labels))
        return batch._replace(images=mixed.to(batch.images.dtype), mixed=Mixed(their_labels, share.contiguous()))


def partners(word: Tensor, count: int) -> Tensor:
    """[…,count]: the places of the images' partners in a batch of so many, by the word that is drawn for it."""
    places = torch.arange(count, device=word.device)
    return (places + below(word, max(count - 1, 1))[..., None] + min(count - 1, 1)) % count


def partners_of_steps(seed: int, steps: Tensor, epoch: int, count: int) -> Tensor:
    """[steps,count]: the places of the partners in the global batches of steps, counted over the whole training."""
    return partners(philox(split_seed(seed), (steps, epoch, 0, STREAM))[0], count)


def cut_box(share: Tensor, down: Tensor, right: Tensor, height: int, width: int) -> Tensor:
    """[H,W] bool: a box of (1 − share) of the area about a pixel, cut off at the image's border (timm's)."""
    ratio = (1 - share).sqrt()
    rows, columns = torch.arange(height, device=down.device), torch.arange(width, device=down.device)
    tall, wide = (height * ratio).floor().long(), (width * ratio).floor().long()
    inside_rows = (rows >= down - tall // 2) & (rows < down + tall // 2)
    inside_columns = (columns >= right - wide // 2) & (columns < right + wide // 2)
    return inside_rows[:, None] & inside_columns[None, :]


def beta_quantiles(alpha: float) -> Tensor:
    """[QUANTILES] float32: Beta(α, α) at the middle of each of so many equal steps of its distribution function."""
    # In t = log(x / (1 - x)) the density is (x (1 - x))^α, which has no pole at the ends.
    t = np.linspace(-40 / min(alpha, 1), 40 / min(alpha, 1), 400_001)
    log_density = -alpha * (np.logaddexp(0, t) + np.logaddexp(0, -t))
    total = np.cumsum(np.exp(log_density - log_density.max()))
    wanted = (np.arange(QUANTILES) + 0.5) / QUANTILES
    found = np.interp(wanted, total / total[-1], t)
    return torch.from_numpy(1 / (1 + np.exp(-found))).float()
