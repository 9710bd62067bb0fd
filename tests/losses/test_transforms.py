"""The losses under `torch.func`: gradients of each sample, and maps over labels."""

import pytest
import torch
from torch.func import grad, jacrev, vmap

from fastkd.losses import (
    ABDivergenceLoss,
    DKDLoss,
    JSDLoss,
    KDLoss,
    LabelSmoothingLoss,
    MultiTeacherLoss,
    NKDLoss,
    RLDLoss,
    SFTNLoss,
    TTMLoss,
    VirtualTeacherLoss,
    ce_loss,
    keep_top,
)

torch.manual_seed(0)
STUDENT, TEACHER, OTHER = torch.randn(3, 5, 7)
WEIGHTS = torch.rand(5) + 0.5
LABELS = torch.tensor([0, 6, 3, -100, 1])
KD, SEVERAL, DKD, SFTN = KDLoss(), MultiTeacherLoss(), DKDLoss(), SFTNLoss()
VIRTUAL, SOFTENED, SMOOTHED = VirtualTeacherLoss(), VirtualTeacherLoss(temperature=20.0), LabelSmoothingLoss()
LOSSES = {
    "ce": lambda z, y, i: ce_loss(z, y),
    "kd": lambda z, y, i: KD(z, TEACHER[i], y),
    "kd of several": lambda z, y, i: SEVERAL(z, [TEACHER[i], OTHER[i]], y),
    "dkd": lambda z, y, i: DKD(z, TEACHER[i], y),
    "sftn": lambda z, y, i: SFTN(z, [TEACHER[i], OTHER[i]], y),
    "virtual teacher": lambda z, y, i: VIRTUAL(z, y),
    "softened virtual teacher": lambda z, y, i: SOFTENED(z, y),
    "standardised kd": lambda z, y, i: KDLoss(standardise=True)(z, TEACHER[i], y),
    "nkd": lambda z, y, i: NKDLoss()(z, TEACHER[i], y),
    "rld": lambda z, y, i: RLDLoss()(z, TEACHER[i], y),
    "wttm": lambda z, y, i: TTMLoss(weighted=True)(z, TEACHER[i], y),
    "alpha-beta": lambda z, y, i: ABDivergenceLoss()(z, TEACHER[i], y),
    "jsd": lambda z, y, i: JSDLoss(ce_weight=1.0)(z, TEACHER[i], y),
    "weighted kd": lambda z, y, i: KD(z, TEACHER[i], y, weights=WEIGHTS[i]),
    "kd of kept classes": lambda z, y, i: KD(z, keep_top(TEACHER[i], 3, temperature=4.0), y),
    "capped jsd": lambda z, y, i: JSDLoss(ce_weight=1.0, softcap=5.0)(z, TEACHER[i], y),
    "label smoothing": lambda z, y, i: SMOOTHED(z, y),
}
PLACES = torch.arange(5)


def of_one(loss):
    """The loss of a single sample, which vmap gives without the dimension of the batch."""
    return lambda z, y, i: LOSSES[loss](z[None], y[None], i[None]).total


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_of_every_sample(loss):
    found = vmap(grad(of_one(loss)))(STUDENT, LABELS, PLACES)
    one_by_one = torch.stack([grad(of_one(loss))(STUDENT[i], LABELS[i], PLACES[i]) for i in range(5)])
    torch.testing.assert_close(found, one_by_one)
    assert not found[3].any() and all(row.any() for row in found[PLACES != 3])


@pytest.mark.parametrize("loss", LOSSES)
def test_a_map_over_labels_alone(loss):
    several = torch.stack([LABELS, LABELS.flip(0), LABELS * 0])
    found = vmap(lambda y: LOSSES[loss](STUDENT, y, PLACES))(several)
    for row, labels in enumerate(several):
        for ours, alone in zip(found, LOSSES[loss](STUDENT, labels, PLACES), strict=True):
            torch.testing.assert_close(ours[row], alone)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_label_that_no_class_has_is_refused_there_too(loss):
    wrong = torch.stack([LABELS, LABELS + 5])
    with pytest.raises(RuntimeError, match="a label is outside 0..6"):
        vmap(lambda y: LOSSES[loss](STUDENT, y, PLACES).total)(wrong)
    with pytest.raises(RuntimeError, match="a label is outside 0..6"):
        vmap(grad(of_one(loss)))(STUDENT, wrong[1], PLACES)


def test_the_hessian_of_a_map():
    curved = jacrev(grad(of_one("kd")))
    torch.testing.assert_close(vmap(curved)(STUDENT, LABELS, PLACES)[0], curved(STUDENT[0], LABELS[0], PLACES[0]))


@pytest.mark.parametrize("loss", ("kd", "label smoothing"))
def test_compiled(loss):
    mapped = vmap(grad(of_one(loss)))
    compiled = torch.compile(mapped, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(STUDENT, LABELS, PLACES), mapped(STUDENT, LABELS, PLACES))
