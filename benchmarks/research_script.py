"""One step of the usual research script: the loops of RepDistiller and its descendants, written anew from their
description. Eager float32, a DataLoader of PIL images with two workers, KL and CE as separate modules, accuracies by
topk, `.item()` on every meter in every step; for CRD, negatives drawn by numpy in the workers and banks that are
gathered into new tensors.

style "amp" is the same under bfloat16 autocast and channels_last, "compile" that and torch.compile.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchvision.transforms as transforms
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from fastkd import networks
from fastkd.data import DataSet, Split
from fastkd.networks.base import output_shapes
from fastkd.networks.grafts import graft
from fastkd.recipes.recipe import Recipe

NEGATIVES, DIM, TEMPERATURE, MOMENTUM = 16_384, 128, 0.07, 0.5


class Pictures(Dataset[tuple[Tensor, int, int, Any]]):
    """A split the way a research script reads it: one PIL image at a time, for CRD with its negatives."""

    def __init__(self, split: Split, recipe: Recipe, *, contrast: bool):
        self.images, self.labels = split.images.numpy(), split.labels.tolist()
        how = recipe.augmentation
        flips = [transforms.RandomHorizontalFlip()] if how.flip else []
        crop = transforms.RandomCrop(recipe.image_size, padding=how.crop_padding)
        white = transforms.Normalize((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
        self.transform = transforms.Compose([transforms.ToPILImage(), crop, *flips, transforms.ToTensor(), white])
        labels = np.asarray(self.labels)
        self.others = {label: np.flatnonzero(labels != label) for label in set(self.labels)} if contrast else {}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int) -> tuple[Tensor, int, int, Any]:
        label = self.labels[place]
        chosen: Any = 0
        if self.others:
            others = self.others[label]
            negatives = np.random.choice(others, NEGATIVES, replace=len(others) < NEGATIVES)
            chosen = np.concatenate([[place], negatives])
        return self.transform(self.images[place]), label, place, chosen


class Contrast(nn.Module):
    """CRD's two heads, its banks and its loss."""

    bank_1: Tensor
    bank_2: Tensor

    def __init__(self, student_dim: int, teacher_dim: int, rows: int):
        super().__init__()
        self.rows = rows
        self.heads = nn.ModuleList([nn.Linear(student_dim, DIM), nn.Linear(teacher_dim, DIM)])
        width = (3 / DIM) ** 0.5
        for side in (1, 2):
            self.register_buffer(f"bank_{side}", torch.empty(rows, DIM).uniform_(-width, width))
        self.z = [-1.0, -1.0]

    def forward(self, student: Tensor, teacher: Tensor, place: Tensor, chosen: Tensor) -> Tensor:
        v = [F.normalize(head(x), dim=1) for head, x in zip(self.heads, (student, teacher), strict=True)]
        loss = self._side(v[0], self.bank_2, chosen, 0) + self._side(v[1], self.bank_1, chosen, 1)
        with torch.no_grad():
            for bank, embedding in ((self.bank_1, v[0]), (self.bank_2, v[1])):
                moved = bank.index_select(0, place) * MOMENTUM + embedding * (1 - MOMENTUM)
                bank.index_copy_(0, place, moved / moved.pow(2).sum(1, keepdim=True).sqrt())
        return loss

    def _side(self, anchor: Tensor, bank: Tensor, chosen: Tensor, side: int) -> Tensor:
        batch, columns = chosen.shape
        gathered = bank.index_select(0, chosen.flatten()).detach().view(batch, columns, DIM)
        share = (torch.bmm(gathered, anchor.view(batch, DIM, 1)).float() / TEMPERATURE).exp()
        if self.z[side] < 0:
            self.z[side] = share.mean().item() * self.rows
        share = share / self.z[side]
        noise, eps = (columns - 1) / self.rows, 1e-7
        positive = (share[:, 0] / (share[:, 0] + noise + eps)).log().sum()
        negative = (noise / (share[:, 1:] + noise + eps)).log().sum()
        return -(positive + negative) / batch


def distill_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    soft = F.log_softmax(student / temperature, dim=1), F.softmax(teacher / temperature, dim=1)
    return F.kl_div(*soft, reduction="sum") * temperature**2 / student.shape[0]


def accuracy(logits: Tensor, labels: Tensor) -> list[float]:
    found = logits.topk(5, 1).indices.t().eq(labels.view(1, -1).expand(5, -1))
    return [found[:k].reshape(-1).float().sum(0).item() * 100 / len(labels) for k in (1, 5)]


def endless(loader: DataLoader[Any]) -> Iterator[Any]:
    while True:
        yield from loader


def on_device(split: Split, batch: int, device: torch.device) -> Iterator[Any]:
    """One batch, there already: for comparing steps without their loaders."""
    images = (split.images[:batch].movedim(-1, 1).float() / 255).to(device)
    labels, places = split.labels[:batch].to(device), torch.arange(batch, device=device)
    while True:
        yield images, labels, places, None


def research_script(
    recipe: Recipe, data: DataSet, stage: str, batch: int, device: torch.device, *, style: str, loader: bool
) -> Callable[[], None]:
    """One step of the loop of a stage: "sftn", "kd" or "crd"."""
    assert isinstance(data.train, Split)
    torch.manual_seed(0)
    if loader:
        pictures = Pictures(data.train, recipe, contrast=stage == "crd")
        how = {"num_workers": 2, "drop_last": True, "persistent_workers": True}
        batches = endless(DataLoader(pictures, batch, shuffle=True, **how))
    else:
        batches = on_device(data.train, batch, device)
    layout = torch.channels_last if style != "reference" else torch.contiguous_format
    classes = len(data.classes)
    teacher = networks.build(recipe.stages[0].network, num_classes=classes)
    student = networks.build(recipe.stages[1].network, num_classes=classes)
    learning, branches = nn.ModuleDict(), nn.ModuleDict()
    if stage == "sftn":
        branches = graft(teacher, student, recipe.image_size)
        learning.update({"teacher": teacher, "branches": branches})
    else:
        learning["student"] = student
        teacher.eval().to(device, memory_format=layout)  # pyright: ignore[reportCallIssue]
        if stage == "crd":
            dims = [output_shapes(network, recipe.image_size).embedding.shape[1] for network in (student, teacher)]
            learning["contrast"] = Contrast(dims[0], dims[1], len(data.train))
    learning.to(device, memory_format=layout)  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.SGD(learning.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    if style == "compile":
        for network in (teacher, student):
            network.compile(dynamic=False)
    meters: dict[str, float] = {}

    def step() -> None:
        images, labels, places, chosen = next(batches)
        images, labels = images.to(device, memory_format=layout), labels.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=style != "reference"):
            if stage == "sftn":
                output = teacher(images)
                logits = output.logits
                others = [branch(output.features[int(block) - 1]).logits for block, branch in branches.items()]
                kl = sum((distill_kl(other, logits, 1.0) for other in others), torch.zeros((), device=device))
                ce = sum((F.cross_entropy(other, labels) for other in others), torch.zeros((), device=device))
                loss = F.cross_entropy(logits, labels) + (3 * kl + ce) / len(others)
            else:
                with torch.no_grad():
                    target = teacher(images)
                output = student(images)
                logits = output.logits
                if stage == "kd":
                    loss = 0.1 * F.cross_entropy(logits, labels) + 0.9 * distill_kl(logits, target.logits, 4.0)
                else:
                    embeddings = output.embedding, target.embedding
                    contrast = learning["contrast"](*embeddings, places.to(device), chosen.to(device))
                    loss = F.cross_entropy(logits, labels) + 0.8 * contrast
        top1, top5 = accuracy(logits, labels)
        meters.update(loss=loss.item(), top1=top1, top5=top5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step
