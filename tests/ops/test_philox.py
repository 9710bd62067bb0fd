"""Philox4x32-10 against the known answers published with Random123, and what is built on it."""

import torch

from fastkd.ops.philox import below, philox, split_seed

KNOWN = [
    # key, counter, words
    ((0, 0), (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 4, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0xA4093822, 0x299F31D0),
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def test_known_answers():
    for key, counter, words in KNOWN:
        assert tuple(word.item() for word in philox(key, counter)) == words


def test_counters_broadcast():
    index, epoch = torch.arange(5), torch.tensor(3)
    together = philox((1, 2), (index, epoch, 0, 7))
    for place in range(5):
        alone = philox((1, 2), (place, 3, 0, 7))
        assert [word[place].item() for word in together] == [word.item() for word in alone]


def test_below_covers_its_range_evenly():
    words = philox((3, 4), (torch.arange(70_000), 0, 0, 0))[0]
    counts = torch.bincount(below(words, 7), minlength=7).double()
    assert len(counts) == 7
    chi_squared = ((counts - 10_000) ** 2 / 10_000).sum()
    assert chi_squared < 22.5  # 0.1% of true uniforms exceed this with 6 degrees of freedom


def test_below_keeps_to_its_range_at_the_ends():
    assert below(torch.tensor([0, 0xFFFFFFFF]), 9).tolist() == [0, 8]


def test_long_seeds_use_both_key_words():
    assert split_seed((5 << 32) | 9) == (9, 5)
