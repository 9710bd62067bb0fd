"""CRD as a module: embedding heads, memory bank, Z and step counter."""

from collections.abc import Callable, Sequence
from typing import Literal, Unpack

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from fastkd.losses.module import Loss
from fastkd.ops import crd
from fastkd.ops.crd import Contrast, Drawn, DrawPlan, Inputs, Prepared
from fastkd.ops.numbers import CRDNumbers
from fastkd.support.branches import begun_beside
from fastkd.support.distributed import world_size

BANK_DTYPES = (torch.float32, torch.bfloat16)


class CRDLoss(Loss):
    """Contrastive representation distillation (Tian et al. 2020) against a memory bank of the whole training set.

    student_dim, teacher_dim: dimensions of the embeddings that go in; a head with an L2 norm maps each to `embed_dim`.
    num_samples: images of the training set; the index of one is its place in it.
    labels: [num_samples] int64: negatives are of other classes. None: every sample is a class of its own.
    negatives, replacement: how many are drawn for a sample, and whether one may come twice. Where a class has fewer
        negatives than that, its samples draw with replacement, as in the authors' code (which draws without on CIFAR,
        with replacement on ImageNet).
    positive: "exact" is the sample itself, "relaxed" any sample of its class.
    bank_dtype: torch.float32 or torch.bfloat16, which halves memory and traffic.
    seed: decides the draws and the bank's first values.

    `loss.temperature` and `loss.momentum` may be set at any time; a captured graph follows.
    The banks, Z and the number of steps are buffers: a state dict carries them on exactly. With torch.distributed
    initialised every process keeps the same banks and Z, from the embeddings of all; where their batches are not of one
    size, each has to say the `sizes` of all.
    The bank is updated by a call in training mode alone.
    """

    form = "crd"
    replicated = ("bank", "position", "starts")
    """Buffers that all processes compute alike: none has to be sent, and each may write its share of a checkpoint."""
    bank: Tensor
    """[num_samples,2,embed_dim], sorted by class: the student's embedding and the teacher's of every sample."""
    z: Tensor
    """[2] float32: Z of the student's side and of the teacher's; below 0 until the first batch has set it."""
    step: Tensor
    """int64 scalar: batches seen."""
    position: Tensor
    """[num_samples] int64: the row of each sample in the bank."""
    starts: Tensor
    """[classes+1] int64: class c has the rows starts[c] … starts[c+1]-1."""

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        num_samples: int,
        *,
        labels: Tensor | None = None,
        embed_dim: int = 128,
        negatives: int = 16384,
        replacement: bool = False,
        positive: Literal["exact", "relaxed"] = "exact",
        bank_dtype: torch.dtype = torch.float32,
        seed: int = 0,
        **numbers: Unpack[CRDNumbers],
    ):
        super().__init__(numbers)
        _check(num_samples, labels, embed_dim, negatives, positive, bank_dtype)
        self.negatives, self.replacement, self.seed = negatives, replacement, seed
        self.relaxed = positive == "relaxed"
        self.student_head = nn.Linear(student_dim, embed_dim)
        self.teacher_head = nn.Linear(teacher_dim, embed_dim)
        labels = torch.arange(num_samples) if labels is None else labels.detach().cpu()
        order = labels.argsort(stable=True)
        position = torch.empty_like(order).scatter_(0, order, torch.arange(num_samples))
        sizes = labels.unique(return_counts=True)[1]
        self.register_buffer("bank", _first_bank(num_samples, embed_dim, seed).to(bank_dtype))
        self.register_buffer("z", torch.full((2,), -1.0))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("position", position)
        self.register_buffer("starts", F.pad(sizes.cumsum(0), (1, 0)))
        self.fewest_negatives = 0
        _look_at_classes(self)
        self.register_load_state_dict_post_hook(_look_at_classes)
        self._ahead: tuple[Tensor, Callable[[], Drawn]] | None = None
        self._shards: list[tuple[Tensor, ...]] | None = None

    def forward(
        self,
        student_embedding: Tensor,
        teacher_embedding: Tensor,
        index: Tensor,
        contrast_index: Tensor | None = None,
        *,
        sizes: Sequence[int] = (),
        first: int = 0,
    ) -> crd.CRDTerms:
        """The loss of a batch, with gradients to both heads and both embeddings; then the bank's update.

        student_embedding, teacher_embedding: [B,student_dim], [B,teacher_dim], floating point.
        index: [B] int64, places in the training set.
        contrast_index: [B,K+1] int64, the positive first, in place of the module's own draws.
        sizes: the B of each process; empty: all are alike.
        first: the number of the first sample in the batch, where that is passed in shards (`begin_shards`).
        """
        student, teacher = self.embed(student_embedding, teacher_embedding)
        _check_batch(student, teacher, index, contrast_index)
        rows = self.position[index]
        own = (rows, student.detach(), teacher.detach())
        everybody = own if self._shards is not None else _of_all_processes(own, sizes)
        chosen = None if contrast_index is None else self.position[contrast_index]
        negatives = self.negatives if chosen is None else chosen.shape[1] - 1
        # One path in all processes, whose Z and banks are the same.
        path = crd.implementation(self.bank, max(sizes, default=len(rows)), negatives)[0]
        plan = self._plan(len(rows), negatives, sizes, first)
        ready = self._prepared(everybody, plan, chosen, path, sizes)
        inputs = Inputs(Contrast(student, teacher, rows, chosen, plan), self.bank, ready.z, self.numbers)
        among = 0 if self._shards is not None else plan.first_place
        scaled = None if ready.scaled is None else ready.scaled[:, :, among : among + len(rows)]
        terms = crd.loss(inputs, path, drawn=self._drawn_ahead(index, chosen), scaled=scaled)
        if self.training and self._shards is not None:
            self._shards.append(own)
            self.z.copy_(ready.z)
        elif self.training:
            self._update(everybody, ready.z, path)
        return crd.CRDTerms(terms.total, terms.student.detach(), terms.teacher.detach())

    def begin_shards(self) -> None:
        """From now on each call has a shard of one batch, as if it were alone: what it changes is Z, which the first
        batch of a training sets. The bank stays as it is until `end_shards`."""
        self._shards = []

    @torch.no_grad()
    def end_shards(self, sizes: Sequence[int]) -> None:
        """Updates the bank by all shards of the batch, in the order of the processes; sizes: the samples of each."""
        shards, self._shards = self._shards, None
        if shards:
            own = tuple(torch.cat(parts) for parts in zip(*shards, strict=True))
            everybody = _of_all_processes(own, sizes)
            self._update(everybody, self.z.clone(), self.implementation(len(everybody[0]))[0])

    def _update(self, everybody: Sequence[Tensor], z: Tensor, path: str) -> None:
        rows, student, teacher = everybody
        crd.update_(self.bank, self.z, self.step, rows, student, teacher, z, self.numbers, path)

    def draw_ahead(self, index: Tensor, *, sizes: Sequence[int] = (), first: int = 0) -> None:
        """Draws for the next call, which gets this very index, beside whatever runs before it, where a recorder offers
        a branch for that: what is drawn depends on seed, step and rows alone. Elsewhere the call itself draws.
        """
        self._ahead = None  # of a recording that failed
        if not len(index) or self.implementation(max(sizes, default=len(index)))[0] != "dense":
            return

        def draw() -> Drawn:
            plan = self._plan(len(index), self.negatives, sizes, first)
            return crd.count(self.position[index], len(self.bank), plan)

        if (drawn := begun_beside(draw)) is not None:
            self._ahead = index, drawn

    def embed(self, student_embedding: Tensor, teacher_embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings [B,D] mapped by the heads to [B,embed_dim]: both on the unit sphere, in float32."""
        student = _unit(self.student_head(student_embedding))
        teacher = _unit(self.teacher_head(teacher_embedding))
        return student, teacher

    def implementation(self, batch_size: int) -> tuple[str, str]:
        """Which path computes batches of this size, and why."""
        return crd.implementation(self.bank, batch_size, self.negatives)

    def _plan(self, samples: int, negatives: int, sizes: Sequence[int], first: int) -> DrawPlan:
        if self._shards is None:
            first = sum(_sizes(sizes, samples)[: dist.get_rank()]) if _distributed() else 0
        return DrawPlan(
            self.starts,
            self.step,
            negatives,
            self.seed,
            first,
            replacement=self.replacement,
            relaxed=self.relaxed,
            scarce=self.fewest_negatives < negatives,
        )

    def _drawn_ahead(self, index: Tensor, chosen: Tensor | None) -> Drawn | None:
        """What was drawn ahead for this batch; None where nothing was."""
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return None
        drawn = ahead[1]()  # whatever it was drawn for: a branch has to end where it began
        return drawn if chosen is None and ahead[0] is index else None

    def _prepared(
        self,
        everybody: Sequence[Tensor],
        plan: DrawPlan,
        chosen: Tensor | None,
        path: str,
        sizes: Sequence[int],
    ) -> Prepared:
        """Z, computed from the batch of all processes: the same everywhere, and what one process would find; and what
        else is known before the bank is scored. A shard has its own."""
        rows, student, teacher = everybody
        if chosen is not None and self._shards is None and _distributed():
            chosen = _gathered(chosen, sizes)
        if self._shards is None:
            plan = plan._replace(first_place=0)
        whole = Contrast(student, teacher, rows, chosen, plan)
        return crd.prepare(Inputs(whole, self.bank, self.z, self.numbers), path)


def _look_at_classes(loss: CRDLoss, *_unused) -> None:
    """Looks up how few negatives a class has: once, on the host, as no step may."""
    loss.fewest_negatives = len(loss.bank) - int(loss.starts.diff().max())


def _unit(embedding_BD: Tensor) -> Tensor:
    """The embedding divided by its L2 norm; a zero vector stays zero, where the authors' code divides by zero."""
    return F.normalize(embedding_BD.float() if embedding_BD.dtype != torch.float64 else embedding_BD, dim=1)


def _first_bank(samples: int, dim: int, seed: int) -> Tensor:
    """Uniform numbers, in rows with an expected norm of 1, as in the authors' code."""
    generator = torch.Generator().manual_seed(seed)
    width = (3 / dim) ** 0.5
    return torch.empty(samples, 2, dim).uniform_(-width, width, generator=generator)


def _distributed() -> bool:
    return dist.is_available() and world_size() > 1


def _of_all_processes(tensors: Sequence[Tensor], sizes: Sequence[int]) -> tuple[Tensor, ...]:
    return tuple(_gathered(tensor, sizes) if _distributed() else tensor for tensor in tensors)


def _sizes(sizes: Sequence[int], own: int) -> Sequence[int]:
    return sizes or [own] * dist.get_world_size()


def _gathered(tensor: Tensor, sizes: Sequence[int]) -> Tensor:
    """The rows of all processes, in the order of ranks; those of fewer rows are filled up for the message."""
    sizes = _sizes(sizes, len(tensor))
    message = tensor.new_zeros(max(sizes), *tensor.shape[1:])
    message[: len(tensor)] = tensor
    parts = [torch.empty_like(message) for _ in sizes]
    dist.all_gather(parts, message)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def _check(
    samples: int,
    labels: Tensor | None,
    embed_dim: int,
    negatives: int,
    positive: str,
    bank_dtype: torch.dtype,
) -> None:
    for name, value, least in (("num_samples", samples, 2), ("embed_dim", embed_dim, 1), ("negatives", negatives, 1)):
        if value < least:
            raise ValueError(f"{name} is at least {least}, got {value}")
    if positive not in ("exact", "relaxed"):
        raise ValueError(f"positive is 'exact' or 'relaxed', got {positive!r}")
    if bank_dtype not in BANK_DTYPES:
        raise ValueError(f"bank_dtype is torch.float32 or torch.bfloat16, got {bank_dtype}")
    if labels is None:
        return
    if list(labels.shape) != [samples] or labels.dtype != torch.int64:
        raise ValueError(f"labels are int64 [{samples}], got {labels.dtype} {list(labels.shape)}")
    if bool((labels == labels[0]).all()):
        raise ValueError("all labels are of one class: no sample has a negative of another class")


def _check_batch(student_BD: Tensor, teacher_BD: Tensor, index_B: Tensor, contrast_index_BK: Tensor | None) -> None:
    if student_BD.ndim != 2 or student_BD.shape != teacher_BD.shape:
        raise ValueError(f"embeddings are two matrices [B,D], got {list(student_BD.shape)}, {list(teacher_BD.shape)}")
    samples = len(student_BD)
    if list(index_B.shape) != [samples] or index_B.dtype != torch.int64:
        raise ValueError(f"the index is int64 [{samples}], got {index_B.dtype} {list(index_B.shape)}")
    if contrast_index_BK is not None and (
        contrast_index_BK.ndim != 2 or len(contrast_index_BK) != samples or contrast_index_BK.shape[1] < 2
    ):
        raise ValueError(f"contrast_index is [{samples}, 1 + negatives], got {list(contrast_index_BK.shape)}")
