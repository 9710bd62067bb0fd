"""What papers show that no training's results say: distributions, and what networks take."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torchvision
from torch import Tensor, nn

from fastkd import networks
from fastkd.networks.complexity import complexity
from fastkd.plan.cells import Cell
from fastkd.plan.worker import Worker
from fastkd.recipes.tables.layout import Table
from fastkd.run import load_network
from fastkd.run.charts import Dot, dot_chart
from fastkd.run.page import Html
from fastkd.training.evaluation import batches


class Computed(NamedTuple):
    heads: tuple[str, ...]
    rows: list[tuple[str, ...]]
    charts: list[Html]
    notes: tuple[str, ...] = ()


UNIFORM = "uniform, of label smoothing"
_LABEL, _CLASSES = 5, 10
"""C6 is the correct label of both figures."""
_TEMPERATURES = (1.0, 5.0, 10.0, 20.0)


def virtual_teacher(table: Table, worker: Worker, cells: Sequence[Cell]) -> Computed:
    """Tf-KD's Figure 3: the distribution of its manually designed teacher, Eq. 8 with a = 0.99, softened by τ = 20."""
    designed = softened(torch.log(designed_distribution(_CLASSES, _LABEL, 0.99)), 20.0)
    return _distributions(table, {"manually designed, τ = 20": designed.tolist()})


def designed_distribution(classes: int, label: int, share: float) -> Tensor:
    """[K]: share for the label, the rest evenly for the other classes (Tf-KD, Eq. 8)."""
    found = torch.full((classes,), (1 - share) / (classes - 1), dtype=torch.float64)
    found[label] = share
    return found


def softened(logits: Tensor, temperature: float) -> Tensor:
    """softmax(logits / τ) along the last axis; of a distribution the logits are its logarithms."""
    return torch.softmax(logits.double() / temperature, -1)


def soft_targets(table: Table, worker: Worker, cells: Sequence[Cell]) -> Computed:
    """Tf-KD's Figure 7: what a trained teacher gives to the classes of images of the sixth one, at several τ."""
    sums = torch.zeros(len(_TEMPERATURES), 0, dtype=torch.float64)
    teachers = {node.digest: node for seed in cells[0].nodes for name, node in seed.items() if name == "teacher"}
    finished = [node for node in teachers.values() if worker.plan.finished(node)]
    for node in finished:
        found = _mean_targets(worker, worker.plan.folder(node), cells[0])
        sums = found if sums.numel() == 0 else sums + found
    shown = (sums / max(1, len(finished))).tolist()
    named = {f"τ = {at:g}": values for at, values in zip(_TEMPERATURES, shown, strict=True)} if finished else {}
    return _distributions(
        table,
        named,
        "choice: the paper does not print of which images and at which τ: the mean over the test images of C6 at "
        + ", ".join(f"{at:g}" for at in _TEMPERATURES),
    )


def _mean_targets(worker: Worker, folder: object, cell: Cell) -> Tensor:
    """[τ,K] float64: the mean of the softened outputs over the test images of the class."""
    network = load_network(str(folder), "teacher").to(worker.device).eval()
    source = worker.job(cell.recipe).test_source()
    total, count = torch.zeros(()), 0
    with torch.no_grad():
        for batch in batches(source, worker.device):
            logits = network(batch.images[0]).logits[batch.labels == _LABEL].cpu()
            total = total + torch.stack([softened(logits, at).sum(0) for at in _TEMPERATURES])
            count += len(logits)
    return total / max(1, count)


def _distributions(table: Table, named: dict[str, list[float]], *notes: str) -> Computed:
    classes = max((len(values) for values in named.values()), default=_CLASSES)
    named = {**named, UNIFORM: [1 / classes] * classes}
    labels = [f"C{number}" for number in range(1, classes + 1)]
    dots = [
        Dot(label, name, value, 0.0)
        for name, values in named.items()
        for label, value in zip(labels, values, strict=True)
    ]
    rows = [(label, *(f"{values[number]:.5f}" for values in named.values())) for number, label in enumerate(labels)]
    return Computed(("class", *named), rows, [dot_chart(f"{table.title}: probability", dots)], notes)


class _Model(NamedTuple):
    """A network of Tf-KD's Table 12 and what is printed for it, in millions and billions."""

    build: Callable[[], nn.Module]
    parameters: float
    flops: float


def _of_fastkd(name: str, classes: int = 1000) -> Callable[[], nn.Module]:
    return lambda: networks.build(name, num_classes=classes)


def _googlenet() -> nn.Module:
    return torchvision.models.googlenet(init_weights=False)


_TABLE_12 = {
    "MobileNetV2": _Model(_of_fastkd("torchvision_mobilenet_v2"), 3.50, 0.32),
    "ShuffleNetV2": _Model(_of_fastkd("torchvision_shufflenet_v2_x1_0"), 2.28, 0.15),
    "ResNet18": _Model(_of_fastkd("torchvision_resnet18"), 11.69, 1.82),
    "ResNet50": _Model(_of_fastkd("torchvision_resnet50"), 25.56, 4.12),
    "GoogLeNet": _Model(_googlenet, 13.0, 1.51),
    "DenseNet121": _Model(_of_fastkd("torchvision_densenet121"), 7.98, 2.88),
    "ResNeXt29": _Model(_of_fastkd("tf_resnext29_8x64d", 100), 34.52, 4.40),
    "ResNeXt101": _Model(_of_fastkd("torchvision_resnext101_32x8d"), 88.79, 16.51),
}


def model_complexity(table: Table, worker: Worker, cells: Sequence[Cell]) -> Computed:
    """Tf-KD's Table 12: parameters, and multiply-adds of an image of 224 pixels."""
    return Computed(
        ("", "parameters, millions (printed)", "FLOPs, billions (printed)"),
        list(_complexities()),
        [],
        (
            "multiply-adds of convolutions and matrix products; of ResNeXt29 at 32 pixels, where it is trained: at the "
            "224 that the paper names they are 49 times as many",
        ),
    )


def _complexities() -> Iterator[tuple[str, str, str]]:
    for name, model in _TABLE_12.items():
        with torch.device("meta"):
            found = complexity(model.build(), 32 if name == "ResNeXt29" else 224)
        yield (
            name,
            f"{found.parameters / 1e6:.2f} ({model.parameters:.2f})",
            f"{found.multiply_adds / 1e9:.2f} ({model.flops:.2f})",
        )


COMPUTED: dict[str, Callable[[Table, Worker, Sequence[Cell]], Computed]] = {
    "virtual_teacher": virtual_teacher,
    "soft_targets": soft_targets,
    "model_complexity": model_complexity,
}
"""By the name that a table has for it."""
