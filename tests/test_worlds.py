"""One, two, four and eight processes on two nodes see the same batches, and train the same to rounding.

The two nodes are two torchruns on this machine.
"""

import json
from itertools import pairwise

import pytest
import torch
from helpers.worlds import carried_out
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

SIZES = (1, 2, 4, 8)
TINY = ["--seeds", "1", "--limit-train", "128", "--epochs", "2", "--threads", "1", "--control", "off", "--lr", "0.01"]
TINY += ["--student", "resnet8"]
WHOLE = [*TINY, "--teacher-net", "resnet8", "--teacher-training", "standard", "--batch-size", "32"]
WHOLE += ["--sync-batchnorm", "on", "--method", "kd+crd", "--crd.negatives", "16"]
SHARES = [*TINY, "--batch-size", "64", "--method", "kd"]

ROWS = ("epoch-00000.rows", "epoch-00001.rows")
STEPS = 4 * 2
"""Of each of two stages, of the batches of 32."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("worlds")


@pytest.fixture(scope="module")
def alone(folder):
    return carried_out(folder / "1", 1, "float64", *WHOLE)


@pytest.fixture(scope="module")
def whole(alone, folder):
    """Where BatchNorm is synchronised, what the processes do together is what one does with the whole batch."""
    return {1: alone} | {size: carried_out(folder / str(size), size, "float64", *WHOLE) for size in SIZES[1:]}


@pytest.fixture(scope="module")
def shares(alone, folder):
    """The batch is eight shares, forwarded apart: by one process in eight parts, by eight in one part each."""

    def trained(name, size, *parts):
        how = ["--teacher", folder / "1" / "run", "--teacher-outputs", folder / f"{name}-store", *parts]
        return carried_out(folder / name, size, "float32", *SHARES, *how)

    parts = {size: ["--accumulate", 8 // size] for size in SIZES[:-1]} | {8: []}
    return {size: trained(f"shares-{size}", size, *parts[size]) for size in SIZES} | {"in one": trained("in-one", 1)}


def joined(ranks, name):
    """What the processes have of each step, side by side in the order of the ranks."""
    return [torch.cat(parts, dim=1 if name == "images" else 0) for parts in zip(*(r[name] for r in ranks), strict=True)]


@pytest.mark.parametrize("size", SIZES[1:])
class TestTheWholeBatch:
    @pytest.mark.parametrize("name", ("index", "images", "draws"))
    def test_order_crops_and_draws_are_those_of_one_process(self, name, size, whole):
        (alone, found) = (joined(whole[count], name) for count in (1, size))
        assert len(found) == len(alone) == (STEPS if name == "draws" else 2 * STEPS)
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, alone, strict=True))

    def test_hits_and_counts_are_those_of_one_process(self, size, whole, folder):
        (alone, found) = (
            [torch.stack([rank["hits"][step] for rank in whole[count]]).sum(0) for step in range(16)]
            for count in (1, size)
        )
        assert [hits.tolist() for hits in found] == [hits.tolist() for hits in alone]
        tested = [results(folder / str(count) / "run") for count in (1, size)]
        assert tested[0] == tested[1]

    def test_every_process_ends_with_the_same_bits(self, size, whole):
        """Weights, banks and Z as the messages leave them; statistics as all combine the same numbers."""
        for one, other in pairwise(whole[size]):
            for name, state in one["states"].items():
                for key, value in state.items():
                    assert torch.equal(value, other["states"][name][key]), f"{name}: {key}"

    def test_weights_statistics_banks_and_z_are_those_of_one_process(self, size, whole):
        """To 1e-9 in float64: sums over 32 images are added in another order in each of 16 steps."""
        compared = set()
        for name, state in whole[1][0]["states"].items():
            for key, value in state.items():
                found = whole[size][0]["states"][name][key]
                if value.is_floating_point():
                    torch.testing.assert_close(found, value, rtol=1e-9, atol=1e-9, msg=lambda m, k=key: f"{k}: {m}")
                else:
                    assert torch.equal(found, value), key
                compared.add(key.rpartition(".")[2])
        assert {"bank", "z", "running_mean", "running_var", "weight", "num_batches_tracked", "steps"} <= compared


def results(folder):
    """What the networks of a run say right of the test images."""
    stages = json.loads((folder / "results.json").read_text())["stages"]
    return {name: stage["test"] for name, stage in stages.items()}


class TestEightShares:
    @pytest.mark.parametrize("size", SIZES[1:])
    def test_stores_are_equal_byte_for_byte_as_every_forward_pass_has_eight_rows(self, size, shares, folder):
        for name in ROWS:
            mine, theirs = (folder / f"shares-{count}-store" / "teacher" / name for count in (size, 1))
            assert len(mine.read_bytes()) == 128 * 10 * 4 and mine.read_bytes() == theirs.read_bytes()

    @pytest.mark.parametrize("size", SIZES[1:])
    def test_order_crops_and_hits_are_equal_and_weights_to_rounding(self, size, shares, folder):
        """The forward passes are the same; gradients of eight shares are added in another order, in float32.

        BatchNorm's running statistics are each process's own, and differ.
        """
        for name in ("index", "images"):
            alone, found = (joined(shares[count], name) for count in (1, size))
            assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, alone, strict=True))
        for step, expected in enumerate(shares[1][0]["hits"]):
            assert torch.equal(torch.stack([rank["hits"][step] for rank in shares[size]]).sum(0), expected)
        one, other = (load_file(folder / f"shares-{count}" / "run" / "student.safetensors") for count in (1, size))
        for key, value in one.items():
            if "running" not in key and "num_batches" not in key:
                torch.testing.assert_close(other[key], value, rtol=1e-3, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")

    def test_rows_of_another_number_a_forward_pass_may_differ_in_their_last_bits(self, shares, folder):
        for name in ROWS:
            one, other = (
                torch.frombuffer(bytearray((folder / store / "teacher" / name).read_bytes()), dtype=torch.float32)
                for store in ("shares-1-store", "in-one-store")
            )
            torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4)
