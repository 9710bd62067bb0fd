"""The methods' losses in the form that a reader of the papers writes down first: broadcast tensors, masks, loops.

Written for `benchmarks.methods`. Each takes (method, student, teachers, batch) and returns the total that the method
itself returns; what a method trains is taken from it. Methods that are not here have no other form.
"""

import itertools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastkd.data import Batch
from fastkd.networks.base import Output

Plain = Callable[[Any, Output, tuple[Output, ...], Batch], Tensor]


def divergence(student_BK: Tensor, teacher_BK: Tensor, temperature: float) -> Tensor:
    log_student = F.log_softmax(student_BK / temperature, dim=1)
    probability = F.softmax(teacher_BK / temperature, dim=1)
    return F.kl_div(log_student, probability, reduction="batchmean") * temperature**2


def hits(logits_BK: Tensor, labels_B: Tensor) -> Tensor:
    """Top-1 and top-5, as every training script counts them."""
    ranked = logits_BK.detach().topk(5, dim=1).indices == labels_B[:, None]
    return torch.stack([ranked[:, :1].sum(), ranked.sum()])


def ce(method: Any, student: Output, teachers: tuple[Output, ...], batch: Batch) -> Tensor:
    hits(student.logits, batch.labels)
    return method.settings.weight * F.cross_entropy(student.logits, batch.labels)


def kd(method: Any, student: Output, teachers: tuple[Output, ...], batch: Batch) -> Tensor:
    given = method.settings
    hits(student.logits, batch.labels)
    kl = divergence(student.logits, teachers[0].logits, given.temperature)
    return given.ce_weight * F.cross_entropy(student.logits, batch.labels) + given.kl_weight * kl


def aveg(method: Any, student: Output, teachers: tuple[Output, ...], batch: Batch) -> Tensor:
    given = method.settings
    hits(student.logits, batch.labels)
    kls = [divergence(student.logits, teacher.logits, given.temperature) for teacher in teachers]
    return given.ce_weight * F.cross_entropy(student.logits, batch.labels) + given.kl_weight * sum(kls) / len(kls)


def dkd(method: Any, student: Output, teachers: tuple[Output, ...], batch: Batch) -> Tensor:
    """With masks of the label's class; without warm-up, which the benchmark's method has behind it."""
    given, labels = method.settings, batch.labels
    hits(student.logits, labels)
    own = torch.zeros_like(student.logits).scatter_(1, labels[:, None], 1).bool()
    pairs, others = [], []
    for logits in (student.logits / given.temperature, teachers[0].logits / given.temperature):
        probability = F.softmax(logits, dim=1)
        pairs.append(torch.stack([(probability * own).sum(1), (probability * ~own).sum(1)], dim=1))
        others.append(F.log_softmax(logits - 1000.0 * own, dim=1))
    scale = given.temperature**2 / len(labels)
    target = F.kl_div(pairs[0].log(), pairs[1], reduction="sum") * scale
    rest = F.kl_div(others[0], others[1], reduction="sum", log_target=True) * scale
    return given.ce_weight * F.cross_entropy(student.logits, labels) + given.alpha * target + given.beta * rest


def ls(method: Any, student: Output, teachers: tuple[Output, ...], batch: Batch) -> Tensor:
    classes = student.logits.shape[1]
    hits(student.logits, batch.labels)
    smooth = torch.full_like(student.logits, method.settings.smoothing / (classes - 1))
    smooth.scatter_(1, batch.labels[:, None], 1 - method.settings.smoothing)
    return -(smooth * F.log_softmax(student.logits, dim=1)).sum(1).mean()


def tfkd_self(method: Any, student: Output, teachers: tuple[Output, ...], batch: Batch) -> Tensor:
    given = method.settings
    hits(student.logits, batch.labels)
    kl = divergence(student.logits, teachers[0].logits, given.temperature) / given.temperature**2
    return (1 - given.alpha) * F.cross_entropy(student.logits, batch.labels) + given.alpha * kl


def tfkd_reg(method: Any, student: Output, teachers: tuple[Output, ...], batch: Batch) -> Tensor:
    """The virtual teacher is a tensor."""
    given, classes = method.settings, student.logits.shape[1]
    hits(student.logits, batch.labels)
    virtual = torch.full_like(student.logits, (1 - given.label_probability) / (classes - 1))
    virtual.scatter_(1, batch.labels[:, None], given.label_probability)
    kl = divergence(student.logits, virtual.log(), given.temperature) / given.temperature**2
    return (1 - given.alpha) * F.cross_entropy(student.logits, batch.labels) + given.alpha * kl


def nst(method: Any, student: Output, teachers: tuple[Output, ...], batch: Batch) -> Tensor:
    """Over a [B,C,D,H·W] tensor of products."""

    def kernel(x_BCP: Tensor, y_BDP: Tensor) -> Tensor:
        return (x_BCP.unsqueeze(2) * y_BDP.unsqueeze(1)).sum(-1).pow(2).mean()

    total = student.logits.new_zeros(())
    for s, t in zip(student.features, teachers[0].features, strict=True):
        x, y = F.normalize(s.flatten(2), dim=2), F.normalize(t.flatten(2), dim=2)
        total = total + kernel(y, y).detach() + kernel(x, x) - 2 * kernel(x, y)
    return method.settings.weight * total


def fsp(method: Any, student: Output, teachers: tuple[Output, ...], batch: Batch) -> Tensor:
    """Over a [B,D,C,H,W] tensor of products."""

    def flows(output: Output) -> list[Tensor]:
        maps = [output.stem, *output.features]
        found = []
        for bottom, top in itertools.pairwise(maps):
            if bottom.shape[2] > top.shape[2]:
                bottom = F.adaptive_avg_pool2d(bottom, (top.shape[2], top.shape[3]))
            found.append((top.unsqueeze(2) * bottom.unsqueeze(1)).mean((3, 4)))
        return found

    pairs = zip(flows(student), flows(teachers[0]), strict=True)
    return method.settings.weight * torch.stack([(s - t).pow(2).mean() for s, t in pairs]).sum()


def rkd(method: Any, student: Output, teachers: tuple[Output, ...], batch: Batch) -> Tensor:
    """Over a [B,B,D] tensor of differences."""

    def relations(embedding_BD: Tensor) -> tuple[Tensor, Tensor]:
        square = embedding_BD.pow(2).sum(1)
        product = embedding_BD @ embedding_BD.T
        distance = (square[:, None] + square - 2 * product).clamp(min=1e-12).sqrt()
        distance = distance * (1 - torch.eye(len(square), device=square.device))
        difference = F.normalize(embedding_BD.unsqueeze(0) - embedding_BD.unsqueeze(1), p=2, dim=2)
        return distance / distance[distance > 0].mean(), torch.bmm(difference, difference.transpose(1, 2))

    given = method.settings
    with torch.no_grad():
        teacher_distance, teacher_angle = relations(teachers[0].embedding)
    distance, angle = relations(student.embedding)
    pairs, triples = F.smooth_l1_loss(distance, teacher_distance), F.smooth_l1_loss(angle, teacher_angle)
    return given.weight * (given.distance_weight * pairs + given.angle_weight * triples)


def sskd(method: Any, student: Output, teachers: tuple[Output, ...], batch: Batch) -> Tensor:
    """Similarities over a [3B,D,B] tensor; sorted masks, whose number of rows the host has to know."""
    given, labels = method.settings, batch.labels
    count = len(labels)

    def similarity(embedding: Tensor) -> Tensor:
        turned = embedding[count:].unsqueeze(2).expand(-1, -1, count)
        plain = embedding[:count].t().unsqueeze(0).expand(3 * count, -1, -1)
        return F.cosine_similarity(turned, plain, dim=1)

    def kept(scores: Tensor, own: Tensor, ratio: float) -> Tensor:
        rank = (scores.argsort(dim=1, descending=True) == own[:, None]).nonzero()[:, 1]
        order = rank.argsort(stable=True)
        right = int((rank == 0).sum())
        return order[: right + int(ratio * (len(rank) - right))]

    def over(rows: Tensor, own: Tensor, other: Tensor, temperature: float) -> Tensor:
        return divergence(own[rows], other[rows], temperature)

    teacher = teachers[0]
    rows = kept(teacher.logits[count:], labels.repeat(3), given.tf_ratio)
    tf = over(rows, student.logits[count:], teacher.logits[count:], given.tf_temperature)
    own, other = (
        similarity(head(output.embedding))
        for head, output in ((method.loss.student_head, student), (method.loss.teacher_head, teacher))
    )
    other = other.detach()
    rows = kept(other, torch.arange(count, device=labels.device).repeat(3), given.ss_ratio)
    ss = over(rows, own, other, given.ss_temperature)
    return given.tf_weight * tf + given.ss_weight * ss


def oh(method: Any, student: Output, teachers: tuple[Output, ...], batch: Batch) -> Tensor:
    """The squares of all neurons, then the mask."""
    assert student.preacts is not None and teachers[0].preacts is not None
    total = student.logits.new_zeros(())
    last = len(student.preacts) - 1
    for place, (s, t) in enumerate(zip(student.preacts, teachers[0].preacts, strict=True)):
        source = method.connectors[place](s)
        target = torch.max(t.detach(), getattr(method, f"margin_{place}").view(1, -1, 1, 1))
        loss = F.mse_loss(source, target, reduction="none")
        total = total + (loss * ((source > target) | (target > 0)).float()).sum() / 2 ** (last - place)
    return method.settings.weight * total / len(batch.labels)


PLAIN: dict[str, Plain] = {
    "aveg": aveg,
    "ce": ce,
    "dkd": dkd,
    "fsp": fsp,
    "kd": kd,
    "ls": ls,
    "nst": nst,
    "oh": oh,
    "rkd": rkd,
    "sskd": sskd,
    "tfkd_reg": tfkd_reg,
    "tfkd_self": tfkd_self,
}
