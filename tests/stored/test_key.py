import pytest
import torch

from fastkd.stored.key import first_difference, weights_digest, words_for


def test_a_weight_a_name_or_a_type_makes_another_digest():
    state = {"a": torch.arange(4.0), "b": torch.tensor(3), "empty": torch.zeros(0)}
    known = weights_digest(state)
    assert known == weights_digest(dict(reversed(state.items())))
    others = [
        state | {"a": torch.arange(4.0).nextafter(torch.tensor(9.0))},
        state | {"a": torch.arange(4.0).view(2, 2)},
        state | {"a": torch.arange(4.0).double()},
        state | {"b": torch.tensor(4)},
        {"c": state["a"], "b": state["b"], "empty": state["empty"]},
        {"a": state["a"], "b": state["b"]},
    ]
    digests = {weights_digest(other) for other in others}
    assert len(digests) == len(others) and known not in digests


@pytest.mark.parametrize(
    "field, words", (("augmentation.crop_padding", "crop padding"), ("mean[2]", "mean"), ("data_seed", "data seed"))
)
def test_words_for_fields(field, words):
    assert words_for(field) == words


def test_the_first_difference_is_found_inside_of_a_field():
    found = first_difference({"augmentation": {"flip": True}}, {"augmentation": {"flip": False}})
    assert found == ("augmentation.flip", True, False) and first_difference({}, {}) is None
