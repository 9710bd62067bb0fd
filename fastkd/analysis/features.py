"""The embeddings of a split's images: computed once, written as a file, drawn as a picture."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastkd.analysis.opened import Opened
from fastkd.run.page import Html
from fastkd.run.scatter import Cloud, scatter_chart
from fastkd.support.errors import UserError
from fastkd.support.files import write_bytes

PERPLEXITY = 30.0
"""scikit-learn's; the papers print none."""


def embeddings_of(opened: Opened) -> tuple[dict[str, Tensor], Tensor]:
    """{stage: [n,D] float32: what its classifier reads of every image}, and the labels [n]; on the CPU.

    A student with the teacher's classifier (SimKD) has the projected one.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in opened.networks}
    labels = []
    for batch in opened.batches():
        labels.append(batch.labels.cpu())
        for name, network in opened.networks.items():
            found[name].append(network(batch.images[0]).embedding.float().cpu())
    return {name: torch.cat(parts) for name, parts in found.items()}, torch.cat(labels)


def write_features(file: Path, features: Mapping[str, Tensor], labels: Tensor, classes: Sequence[str]) -> None:
    """A file of `numpy.savez`: an array [n,D] for each stage, `labels` [n] and `classes`, their names."""
    content = io.BytesIO()
    arrays = {name: rows.numpy() for name, rows in features.items()}
    np.savez(content, **arrays, labels=labels.numpy(), classes=np.array(classes))  # pyright: ignore[reportArgumentType]
    write_bytes(file, content.getvalue())


def chosen_classes(names: Sequence[str], classes: Sequence[str]) -> list[int]:
    """The labels of the classes of those names; of all where none is named."""
    if unknown := [name for name in names if name not in classes]:
        raise UserError(f"--classes: the data have no class {unknown[0]!r}")
    return [classes.index(name) for name in names] or list(range(len(classes)))


def tsne(rows_ND: Tensor, *, seed: int = 0) -> Tensor:
    """[n,2]: t-SNE of all rows (van der Maaten, Hinton 2008), by scikit-learn, begun at their principal components.

    Raises UserError where scikit-learn is missing.
    """
    require_scikit_learn()
    from sklearn.manifold import TSNE  # pyright: ignore[reportMissingImports]

    perplexity = min(PERPLEXITY, max(1.0, (len(rows_ND) - 1) / 3))
    fitted = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(rows_ND.numpy())
    return torch.from_numpy(np.asarray(fitted, np.float32))


def require_scikit_learn() -> None:
    try:
        import sklearn.manifold  # noqa: F401 # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            "t-SNE is scikit-learn's, which is not installed: pip install scikit-learn (or fastkd[tsne])"
        ) from error


def drawn(
    title: str, features: Mapping[str, Tensor], labels: Tensor, classes: Sequence[str], own: Sequence[int]
) -> Html:
    """The networks' embeddings of the images of some classes in one plane, as SimKD's Figures 3 and S.2.

    own: the labels of these classes. Up to ten have a colour each, dark for the first network and light for the others;
    more than ten are drawn in a colour for each network. The networks' embeddings have one width.
    """
    widths = {name: rows.shape[1] for name, rows in features.items()}
    if len(set(widths.values())) > 1:
        told = ", ".join(f"{name} {width}" for name, width in widths.items())
        raise UserError(f"t-SNE of networks together needs embeddings of one width; there are {told}: name --stages")
    kept = torch.isin(labels, torch.tensor(own))
    if int(kept.sum()) < 3:
        raise UserError(f"t-SNE needs at least 3 images, there are {int(kept.sum())} of those classes")
    plane = tsne(torch.cat([rows[kept] for rows in features.values()]))
    parts, of_class = plane.split(int(kept.sum())), labels[kept]
    clouds = []
    for number, (name, points) in enumerate(zip(features, parts, strict=True)):
        if len(own) > _MOST_COLOURS:
            clouds.append(Cloud(name, points.tolist(), number))
            continue
        for place, label in enumerate(own):
            words = f"{classes[label]}" if number == 0 else ""
            clouds.append(Cloud(words, points[of_class == label].tolist(), place, light=number > 0))
    return scatter_chart(title, clouds)


_MOST_COLOURS = 10
