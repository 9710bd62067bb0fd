"""Rows there and back: what goes in comes out, in whatever type and place it is kept."""

import pytest
import torch

from fastkd.networks.base import Output
from fastkd.ops.sparse import SparseTeacher
from fastkd.stored import RowFormat
from fastkd.support.errors import UserError

B, K, D = 5, 11, 7
TYPES = ("float32", "float16", "bfloat16")


def said(views=1, classes=K):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(views * B, classes, generator=generator)
    embedding = torch.randn(views * B, D, generator=generator)
    labels = torch.randint(classes, (B,), generator=generator)
    return Output(logits, logits, (), logits, embedding), labels


def row(*outputs, **options):
    return RowFormat(**{"outputs": outputs, "classes": K, "embedding": D} | options)


@pytest.mark.parametrize("views", (1, 4))
@pytest.mark.parametrize("type", TYPES)
def test_whole_outputs_come_back_rounded_to_their_type(type, views):
    outputs, labels = said(views)
    kept = row("logits", "embedding", type=type, views=views, quarter_turns=views == 4)
    words = kept.packed(outputs, labels)
    assert words.dtype == torch.int32 and words.shape == (B, kept.words) and kept.bytes == 4 * kept.words
    for count in {1, views}:
        found = kept.unpacked(words, count)
        for name in ("logits", "embedding"):
            expected = getattr(outputs, name)[: count * B].to(getattr(torch, type)).float()
            assert torch.equal(getattr(found, name), expected)
        assert found.stem.numel() == found.final_map.numel() == 0 and found.features == ()


def test_gathered_rows_are_read_in_place():
    outputs, labels = said()
    kept = row("embedding", "logits", type="float32")
    words = kept.packed(outputs, labels)
    found = kept.unpacked(words, 1)
    assert found.logits.data_ptr() != found.embedding.data_ptr()
    assert {found.logits.untyped_storage().data_ptr(), found.embedding.untyped_storage().data_ptr()} == {
        words.untyped_storage().data_ptr()
    }


@pytest.mark.parametrize("classes", (K, 40_000))
@pytest.mark.parametrize("type", TYPES)
def test_the_largest_logits_and_the_rest_in_one_number(type, classes):
    outputs, labels = said(classes=classes)
    kept = row("logits", classes=classes, type=type, top=3, temperature=4.0)
    found = kept.unpacked(kept.packed(outputs, labels), 1).logits
    assert isinstance(found, SparseTeacher)
    whole = (outputs.logits.double() / 4.0).log_softmax(1)
    tolerance = {"float32": 1e-5, "float16": 2e-2, "bfloat16": 1e-1}[type]
    exact = whole.gather(1, found.indices)
    torch.testing.assert_close(found.log_probabilities.double(), exact, rtol=0, atol=tolerance)
    rest = whole.scatter(1, found.indices, -torch.inf).logsumexp(1)
    torch.testing.assert_close(found.tail.double(), rest, rtol=0, atol=tolerance)


def test_the_sizes_that_the_page_names():
    assert row("logits", classes=100).bytes == 400
    assert row("logits", classes=1000, type="float16", top=10, temperature=4.0).bytes == 44


@pytest.mark.parametrize(
    "has, wants, words",
    (
        (row("logits"), row("logits", "embedding"), "holds no embedding"),
        (row("logits", type="float16"), row("logits"), "type is float16, not float32"),
        (row("logits", top=3, temperature=4.0), row("logits"), "kept logits is 3, not None"),
        (row("logits", top=3, temperature=4.0), row("logits", top=3, temperature=1.0), "temperature is 4.0, not 1.0"),
        (row("logits"), row("logits", views=4, quarter_turns=True), "1 view, not 4 views at quarter turns"),
        (
            row("logits", views=4, quarter_turns=True),
            row("logits", views=2, strong=True),
            "not 2 views weak and strong",
        ),
        (row("embedding"), row("embedding", embedding=9), "width is 7, not 9"),
    ),
)
def test_what_rows_lack_is_said(has, wants, words):
    assert words in has.lacks(wants)


def test_more_than_is_wanted_serves():
    assert row("logits", "embedding").lacks(row("logits")) == ""
    assert row("logits", "embedding").lacks(row("embedding")) == ""


def test_all_classes_are_no_choice_of_the_largest():
    with pytest.raises(UserError, match="--store-top is below the 11 classes"):
        row("logits", top=K, temperature=1.0)


def test_a_row_of_several_views_begins_with_one_of_the_plain_view():
    outputs, labels = said(views=4)
    kept = row("logits", "embedding", type="float16", views=4, quarter_turns=True)
    plain = Output(*(part[:B] if torch.is_tensor(part) else part for part in outputs))
    first = kept.of_first_view
    assert torch.equal(kept.packed(outputs, labels)[:, : first.words], first.packed(plain, labels))
    assert kept.lacks(first) == "" and first.lacks(kept) != ""
