"""What a weights file says of its network: read by the tables, never by an import."""

import json

import pytest
import torch
from safetensors.torch import save

from fastkd import networks
from fastkd.run.description import KEY, Deployment, Description, described_in, rebuilt, to_metadata
from fastkd.run.weights import describe, open_network, save_network
from fastkd.support.errors import UserError

PLAIN = Description("resnet8", 10, 8)
WHOLE = PLAIN._replace(
    classes=tuple("abcdefghij"), mean=(0.1, 0.2, 0.3), std=(1.0, 0.5, 0.25), crop="pad",
    deployment=Deployment({"simkd": {"weight": 2.0}}, (Description("resnet14", 10, 8), PLAIN)),
)  # fmt: skip


def content(plain, key=KEY):
    text = plain if isinstance(plain, str) else json.dumps(plain)
    return save({"a": torch.zeros(2)}, {key: text})


def line(plain, where="here"):
    with pytest.raises(UserError) as raised:
        described_in(content(plain), where)
    return str(raised.value)


@pytest.mark.parametrize("description", (PLAIN, WHOLE))
def test_what_is_written_is_read(description):
    assert described_in(save({"a": torch.zeros(2)}, to_metadata(description)), "here") == description


def test_what_fastkd_0_1_wrote_says_less():
    assert described_in(content({"network": "resnet8", "num_classes": 10, "image_size": 8}), "here") == PLAIN


@pytest.mark.parametrize("other", (b"", b"\x80\x02", save({"a": torch.zeros(2)}), content({}, key="other"), b"{" * 99))
def test_what_is_not_ours_says_nothing(other):
    assert described_in(other, "here") is None


@pytest.mark.parametrize("text", ("", "{", "[]", "null", "3", "[" * 5000, '{"network": ' * 70 + "1" + "}" * 70))
def test_what_is_no_dictionary(text):
    assert line(text).startswith("the metadata of here ")


GOOD = {"network": "resnet8", "num_classes": 10, "image_size": 8}


@pytest.mark.parametrize(
    "change, words",
    [
        ({"network": "resnet9"}, "name the network 'resnet9', which this fastkd does not have"),
        ({"network": "os:system"}, "name the network 'os:system', code outside of fastkd"),
        ({"num_classes": 1}, "num_classes is 1, expected a whole number from 2"),
        ({"num_classes": 10**12}, "num_classes is 1000000000000, expected a whole number"),
        ({"image_size": "8"}, "image_size is '8', expected int"),
        ({"classes": ["a"]}, "name 1 class, expected 10 that differ"),
        ({"classes": ["a"] * 10}, "name 10 classes, expected 10 that differ"),
        ({"std": [1, 1, 0]}, r"std[2] is 0, expected a number above 0"),
        ({"deployment": {"methods": {"kd": {}}, "teachers": [GOOD]}}, "'kd', which leaves a network as it is"),
        ({"deployment": {"methods": {"simkd": {}}, "teachers": []}}, "name 0 teachers for the method simkd"),
        ({"deployment": {"methods": {"simkd": {}}, "teachers": [GOOD] * 99}}, "name more than 64 networks"),
        ({"deployment": {"methods": {"evil:X": {}}, "teachers": [GOOD]}}, "'evil:X' is code outside of fastkd"),
    ],
)
def test_what_names_no_row_of_a_table_or_no_number_of_ours(change, words):
    assert words in line(GOOD | change)


def test_settings_that_cannot_be_built_are_one_line(tmp_path):
    file = tmp_path / "x.safetensors"
    wrong = {"methods": {"simkd": {"factor": 10**6}}, "teachers": [GOOD]}
    file.write_bytes(content(GOOD | {"deployment": wrong}))
    with pytest.raises(UserError, match="factor"):
        open_network(file)


def test_a_network_comes_back_as_it_was(tmp_path):
    network = networks.build("resnet8", num_classes=10).eval()
    save_network(tmp_path / "x.safetensors", network, WHOLE._replace(deployment=None))
    again, images = open_network(tmp_path / "x.safetensors"), torch.randn(2, 3, 8, 8)
    assert torch.equal(again(images).logits, network(images).logits)
    assert describe(tmp_path / "x.safetensors").classes == tuple("abcdefghij")
    assert type(rebuilt(PLAIN)) is type(network)
