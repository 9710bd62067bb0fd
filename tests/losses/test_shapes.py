"""Rows out of the shapes that logits come in: as views, where the strides allow it."""

import pytest
import torch

from fastkd.losses.shapes import as_batches, as_matrix, class_axis, shape_of_labels

IMAGES, TOKENS, PIXELS = torch.randn(6, 5), torch.randn(2, 3, 5), torch.randn(2, 5, 3, 4)


def test_the_classes_axis_and_the_labels_shape():
    assert [class_axis(logits) for logits in (IMAGES, TOKENS, PIXELS)] == [1, 2, 1]
    assert [shape_of_labels(logits) for logits in (IMAGES, TOKENS, PIXELS)] == [(6,), (2, 3), (2, 3, 4)]


def test_a_matrix_has_the_rows_in_the_labels_order():
    for logits in (IMAGES, TOKENS, PIXELS):
        last = logits.movedim(class_axis(logits), -1)
        places = torch.ones(shape_of_labels(logits)).nonzero()
        torch.testing.assert_close(as_matrix(logits), torch.stack([last[tuple(place)] for place in places]))


@pytest.mark.parametrize(
    "logits, batches",
    (
        (IMAGES, (1, 6)),
        (TOKENS, (1, 6)),
        (TOKENS[:, :-1], (2, 2)),
        (TOKENS.transpose(0, 1), (3, 2)),
        (torch.randn(1, 4, 5)[:, 1:], (1, 3)),
        (PIXELS, (2, 12)),
        (PIXELS.contiguous(memory_format=torch.channels_last), (2, 12)),
    ),
)
def test_batches_are_views(logits, batches):
    (view,) = as_batches([logits])
    assert view.shape == (*batches, 5) and view.data_ptr() == logits.data_ptr()
    torch.testing.assert_close(view.reshape(-1, 5), as_matrix(logits))


def test_pixels_whose_rows_do_not_follow_each_other_are_copied():
    cut = torch.randn(2, 5, 3, 8)[..., :4]
    (copy,) = as_batches([cut])
    assert copy.data_ptr() != cut.data_ptr()
    torch.testing.assert_close(copy.reshape(-1, 5), as_matrix(cut))


def test_all_have_the_same_batches():
    whole, cut = as_batches([TOKENS[:, :-1].clone(), TOKENS[:, :-1]])
    assert whole.shape == cut.shape == (2, 2, 5)
