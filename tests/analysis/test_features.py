"""Embeddings as a file and as a picture; t-SNE is scikit-learn's, where it is installed."""

import importlib.util

import numpy as np
import pytest
import torch

from fastkd.analysis import features
from fastkd.analysis.features import chosen_classes, drawn, write_features
from fastkd.support.errors import UserError

CLASSES = ("ant", "bee", "cow")
LABELS = torch.tensor([0, 1, 2, 1, 0, 1])


@pytest.fixture
def two():
    rows = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    return {"teacher": rows, "student": rows + 0.01}


def test_a_file_of_embeddings(two, tmp_path):
    write_features(tmp_path / "out.npz", two, LABELS, CLASSES)
    with np.load(tmp_path / "out.npz", allow_pickle=False) as found:
        assert set(found) == {"teacher", "student", "labels", "classes"}
        assert np.array_equal(found["student"], two["student"].numpy()) and found["student"].dtype == np.float32
        assert found["labels"].tolist() == LABELS.tolist() and found["classes"].tolist() == list(CLASSES)


def test_classes_are_chosen_by_name():
    assert chosen_classes(("cow", "ant"), CLASSES) == [2, 0] and chosen_classes((), CLASSES) == [0, 1, 2]
    with pytest.raises(UserError, match="--classes: the data have no class 'bed'"):
        chosen_classes(("bed",), CLASSES)


def test_both_networks_are_drawn_in_one_plane(two, monkeypatch):
    """The first is dark, the other light; images of other classes are left out."""
    seen = []
    monkeypatch.setattr(features, "tsne", lambda rows: seen.append(rows) or rows[:, :2])
    picture = drawn("both", two, LABELS, CLASSES, [0, 1])
    assert len(seen[0]) == 2 * 5 and torch.equal(seen[0][:5], two["teacher"][LABELS < 2])
    assert picture.count('r="1.6"') == 10 and picture.count('fill-opacity="0.35"') == 2
    monkeypatch.setattr(features, "_MOST_COLOURS", 1)
    assert drawn("both", two, LABELS, CLASSES, [0, 1]).count("<g ") == 2, "a colour for each network"


def test_what_cannot_be_drawn_together(two):
    with pytest.raises(UserError, match="embeddings of one width; there are teacher 4, student 3"):
        drawn("both", {**two, "student": two["student"][:, :3]}, LABELS, CLASSES, [0, 1])
    with pytest.raises(UserError, match="at least 3 images, there are 1"):
        drawn("both", two, LABELS, CLASSES, [2])


@pytest.mark.skipif(importlib.util.find_spec("sklearn") is not None, reason="scikit-learn is installed")
def test_without_scikit_learn_its_name_is_said(two):
    with pytest.raises(UserError, match="pip install scikit-learn"):
        features.tsne(two["teacher"])


@pytest.mark.skipif(importlib.util.find_spec("sklearn") is None, reason="pip install scikit-learn")
def test_the_librarys_tsne_keeps_clusters_apart():
    rows = torch.cat([torch.randn(15, 8), 30 + torch.randn(15, 8)])
    plane = features.tsne(rows)
    assert plane.shape == (30, 2) and torch.equal(plane, features.tsne(rows)), "it is the same each time"
    one, other = plane.split(15)
    assert torch.cdist(one, other).min() > torch.cdist(one, one).median()
