"""Online distillation (Guo et al.: "Online knowledge distillation via collaborative learning", CVPR 2020): several
networks learn together from one target that is made of their logits."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastkd.data.base import Batch
from fastkd.losses import KDLoss
from fastkd.losses.precision import full_precision
from fastkd.losses.smallest_combination import least_quadratic
from fastkd.methods.base import Context, Method, MethodLoss, PeerLoss
from fastkd.methods.error_correlation import error_correlation, least_error_weights
from fastkd.networks.base import Output
from fastkd.support.fields import OnlyWith
from fastkd.support.plain import Checked
from fastkd.support.ranges import BETWEEN_0_AND_1, Temperature, Weight

NEWTON_STEPS = 6
HALVINGS = 6
"""How often each Newton step is halved; the best of these steps is taken."""


@dataclass(frozen=True, kw_only=True)
class KDCLSettings(Checked):
    """The loss of each network is CE + kl_weight · τ² KL(target ‖ network)."""

    target: Annotated[Literal["naive", "linear", "min_logit", "general"], OnlyWith("kl_weight")] = "naive"
    """naive: for each sample the logits of the network with the least cross-entropy; linear: the weighted mean of all
    logits with the least cross-entropy over the batch; min_logit: for each class the least distance from the label's
    logit that any network gives it; general: the weighted mean of all logits, whose weights have the least squared
    error on images that are held out. These weights may be negative, and change before each epoch."""
    held_out: Annotated[float, BETWEEN_0_AND_1, OnlyWith("target", "general"), OnlyWith("kl_weight")] = 0.1
    """Share of the training images that are held out. The paper does not print it: this one is a choice."""
    kl_weight: Weight = 1.0
    temperature: Annotated[Temperature, OnlyWith("kl_weight")] = 2.0
    own_augmentation: bool = True
    """Whether each network sees its own random crops of the same images, as in the paper."""
    standardise: Annotated[bool, OnlyWith("kl_weight")] = False
    """KL compares standardised logits (see kd)."""


def weighs(settings: Any) -> bool:
    """Whether the networks have weights, by what they say of images that are held out."""
    return settings.target == "general" and settings.kl_weight > 0


class KDCL(Method):
    """Every network takes the target as a constant."""

    Settings = KDCLSettings
    about = "peers, from their joint logits"
    is_logit_method = True
    among_peers = True
    reads = ("logits",)

    @classmethod
    def relates(cls, settings: KDCLSettings) -> bool:
        return settings.target == "linear"  # the weights that are best for a batch

    def __init__(self, settings: KDCLSettings, context: Context):
        super().__init__(settings, context)
        self.own_augmentation = settings.own_augmentation
        self.loss = KDLoss(
            temperature=settings.temperature,
            kl_weight=settings.kl_weight,
            ce_weight=1.0,
            standardise=settings.standardise,
        )
        if weighs(settings):
            peers = 1 + len(context.teachers)
            self.peer_weights = nn.Buffer(torch.full((peers,), 1 / peers, dtype=torch.float64))
            self.weighed_epoch = nn.Buffer(torch.tensor(-1))
            self.notes.append(f"kdcl: {settings.held_out:.1%} of the images are held out to weigh the networks by")

    @classmethod
    def held_out(cls, settings: Any) -> float:
        return settings.held_out if weighs(settings) else 0.0

    def is_weighed(self, epoch: int) -> bool:
        return not weighs(self.settings) or self.weighed_epoch.item() == epoch

    def weigh(self, epoch: int, logits_MNK: Tensor, labels_N: Tensor) -> None:
        self.weighed_epoch.fill_(epoch)
        self.peer_weights.copy_(least_error_weights(error_correlation(logits_MNK, labels_N)))

    def seen_from(self, place: int) -> PeerLoss:
        return partial(self._loss, place)

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        return self._loss(0, student, teachers, batch)

    def _loss(self, place: int, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        outputs = (*teachers[:place], student, *teachers[place:])
        logits = torch.stack([output.logits.detach() for output in outputs])
        if weighs(self.settings):
            target = weighted_logits(self.peer_weights, logits)
        else:
            target = TARGETS.get(self.settings.target, naive_target)(logits, batch.labels)
        terms = self.loss(student.logits, target.to(student.logits.dtype), batch.labels)
        return MethodLoss(terms.total, {"ce": terms.ce, "kl": terms.kl}, terms.hits)


@full_precision
def naive_target(logits_MBK: Tensor, labels_B: Tensor) -> Tensor:
    networks = len(logits_MBK)
    # Row by row: what torch has for [M,K,B] is not deterministic on a GPU.
    errors = F.cross_entropy(logits_MBK.flatten(0, 1), labels_B.repeat(networks), reduction="none")
    best_B = errors.view(networks, -1).argmin(0)
    return logits_MBK.gather(0, best_B[None, :, None].expand(1, *logits_MBK.shape[1:]))[0]


@full_precision
def linear_target(logits_MBK: Tensor, labels_B: Tensor) -> Tensor:
    return weighted_logits(best_weights(logits_MBK, labels_B), logits_MBK)


@full_precision
def weighted_logits(weights_M: Tensor, logits_MBK: Tensor) -> Tensor:
    return torch.einsum("m,mbk->bk", weights_M.to(logits_MBK.dtype), logits_MBK)


@full_precision
def min_logit_target(logits_MBK: Tensor, labels_B: Tensor) -> Tensor:
    own = logits_MBK.gather(2, labels_B[None, :, None].expand(len(logits_MBK), -1, 1))
    return (logits_MBK - own).amin(0)


TARGETS = {"naive": naive_target, "linear": linear_target, "min_logit": min_logit_target}


@torch.no_grad()
def best_weights(logits_MBK: Tensor, labels_B: Tensor) -> Tensor:
    """[M] float64: weights w >= 0 of sum 1 that minimise the cross-entropy of Σ w_m logits_m over the batch.

    The problem is convex and solved by Newton's method: each step minimises the quadratic model on the simplex exactly,
    and the best of that step and its halves is taken. Nothing is read on the host.
    """
    logits, labels = logits_MBK.double(), labels_B[:, None]
    count, samples, _ = logits.shape
    own_MB = logits.gather(2, labels[None].expand(count, -1, 1))[:, :, 0]
    weights = torch.full((count,), 1 / count, dtype=torch.float64, device=logits.device)
    lengths = 0.5 ** torch.arange(HALVINGS + 1, dtype=torch.float64, device=logits.device)
    lengths = torch.cat([lengths, torch.zeros_like(lengths[:1])])  # where no step is better it stays

    def error(weights_NM: Tensor) -> Tensor:
        mixed = torch.einsum("nm,mbk->nbk", weights_NM, logits)
        return (mixed.logsumexp(2) - weights_NM @ own_MB).mean(1)

    for _ in range(NEWTON_STEPS):
        p_BK = torch.einsum("m,mbk->bk", weights, logits).softmax(1)
        expected_MB = (logits * p_BK).sum(2)
        gradient = (expected_MB - own_MB).mean(1)
        hessian = torch.einsum("mbk,bk,nbk->mn", logits, p_BK, logits) / samples - expected_MB @ expected_MB.T / samples
        goal = least_quadratic(hessian, gradient - hessian @ weights)
        tried = weights + lengths[:, None] * (goal - weights)
        weights = tried.index_select(0, error(tried).argmin()[None])[0]
    return weights
