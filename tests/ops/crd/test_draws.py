"""What is drawn: never the own class, evenly, without repetition where it is promised, the same on every path."""

import math

import pytest
import torch
from helpers.crd_cases import needs_library
from hypothesis import given, settings
from hypothesis import strategies as st

from fastkd.ops import crd
from fastkd.ops.crd.draws import DrawPlan, permute
from fastkd.ops.philox import philox

ROWS, CLASSES = 1000, 10  # of uneven sizes
STARTS = torch.tensor([0, 37, 100, 101, 230, 400, 460, 600, 700, 903, 1000])
PATHS = ["reference", pytest.param("cpu", marks=needs_library)]


def drawn(path="reference", *, rows=None, starts=STARTS, negatives=300, seed=11, step=0, first=0, **options):
    plan = DrawPlan(
        starts, torch.tensor(step), negatives, seed, first, **({"replacement": False, "relaxed": False} | options)
    )
    rows = torch.arange(0, ROWS, 5) if rows is None else rows
    return crd.draw(rows, int(starts[-1]), plan, path)


def chi_squared_is_ordinary(counts: torch.Tensor, expected: torch.Tensor, variance: torch.Tensor | None = None):
    """Within 5 standard deviations of what the distribution of chi-square has, for a great number of cells."""
    cells = len(counts)
    statistic = ((counts - expected) ** 2 / (expected if variance is None else variance)).sum()
    assert abs(statistic - cells) < 5 * math.sqrt(2 * cells), f"chi-square {statistic:.0f} of {cells} cells"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("replacement", [False, True])
def test_own_class_is_never_drawn_and_the_others_evenly(path, replacement):
    rows = torch.arange(ROWS).repeat(4)
    table = drawn(path, rows=rows, replacement=replacement)
    own = torch.bucketize(rows, STARTS, right=True) - 1
    negatives = table[:, 1:].contiguous()
    assert torch.equal(table[:, 0], rows)
    assert (torch.bucketize(negatives, STARTS, right=True) - 1 != own[:, None]).all()
    assert negatives.min() >= 0 and negatives.max() < ROWS
    # Row r is open to every sample of another class, each of which draws it with probability K / (n - own size).
    chance = 300 / (ROWS - STARTS.diff().double()[own])
    different = own[:, None] != (torch.bucketize(torch.arange(ROWS), STARTS, right=True) - 1)
    probability = chance[:, None] * different
    counts = torch.bincount(negatives.flatten(), minlength=ROWS).double()
    spread = probability * (1 - probability) if not replacement else probability
    chi_squared_is_ordinary(counts, probability.sum(0), spread.sum(0))


@pytest.mark.parametrize("path", PATHS)
def test_no_row_comes_twice_without_replacement(path):
    table = drawn(path, negatives=600)
    ordered = table[:, 1:].sort(1).values
    assert (ordered.diff(dim=1) > 0).all()


@pytest.mark.parametrize("path", PATHS)
def test_rows_do_come_twice_with_replacement(path):
    ordered = drawn(path, replacement=True)[:, 1:].sort(1).values
    # 300 of about 900: 1 - (1 - exp(-1/3)) · 3 = 14.9% of the draws are repetitions.
    assert abs((ordered.diff(dim=1) == 0).double().mean() - 0.149) < 0.01


def test_what_is_drawn_together_is_independent():
    # How many of a block of rows are drawn, and how many two samples have in common, are hypergeometric.
    rows = torch.full((400,), 950)
    negatives = drawn(rows=rows, negatives=300)[:, 1:]
    population = 903  # of the last class there are 97
    chosen = torch.zeros(400, population, dtype=torch.float64).scatter_(1, negatives, 1.0)
    share = 300 / population
    for block in (10, 30, 31, 100):  # 31 = ⌈√903⌉ is what the permutation's pairs are made of
        counts = chosen[:, : population // block * block].view(400, -1, block).sum(2)
        variance = block * share * (1 - share) * (population - block) / (population - 1)
        assert abs(counts.mean() - block * share) < 5 * math.sqrt(variance / counts.numel())
        assert abs(counts.var() / variance - 1) < 6 * math.sqrt(2 / counts.numel())
    common = (chosen @ chosen.T)[torch.triu_indices(400, 400, 1).unbind()]
    variance = 300 * share * (1 - share) * (population - 300) / (population - 1)
    assert abs(common.mean() - 300 * share) < 5 * math.sqrt(variance / 400)
    assert abs(common.var() / variance - 1) < 0.05


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("replacement", [False, True])
def test_steps_seeds_and_places_draw_differently(path, replacement):
    rows = torch.full((2,), 500)
    one = drawn(path, rows=rows, replacement=replacement)
    for other in ({"step": 1}, {"seed": 12}, {"seed": 11 + (1 << 32)}, {"first": 1 << 20}):
        overlap = (drawn(path, rows=rows, replacement=replacement, **other) == one)[:, 1:].double().mean()
        assert overlap < 0.02, other
    assert (one[0] == one[1])[1:].double().mean() < 0.02
    assert torch.equal(drawn(path, rows=rows, replacement=replacement), one)


@pytest.mark.parametrize("replacement", [False, True])
def test_a_process_draws_its_part_of_the_whole_batch(replacement):
    rows = torch.randint(ROWS, (12,))
    whole = drawn(rows=rows, replacement=replacement, relaxed=True)
    parts = [
        drawn(rows=rows[first : first + 4], first=first, replacement=replacement, relaxed=True) for first in (0, 4, 8)
    ]
    assert torch.equal(torch.cat(parts), whole)


def test_relaxed_positives_are_of_the_own_class_and_even():
    rows = torch.full((20_000,), 300)  # its class has the rows 230 … 399
    positives = drawn(rows=rows, negatives=1, relaxed=True)[:, 0]
    counts = torch.bincount(positives, minlength=ROWS)[230:400].double()
    assert counts.sum() == 20_000
    chi_squared_is_ordinary(counts, torch.full((170,), 20_000 / 170, dtype=torch.float64))


@pytest.mark.parametrize("path", PATHS)
def test_too_few_negatives_are_drawn_with_replacement(path):
    starts = torch.tensor([0, 6, 8])  # samples of the first class have 2 negatives, of the second 6
    table = drawn(path, rows=torch.tensor([1, 7]), starts=starts, negatives=5)
    assert set(table[0, 1:].tolist()) <= {6, 7}
    assert len(set(table[1, 1:].tolist())) == 5 and max(table[1, 1:].tolist()) < 6


@given(size=st.integers(1, 700), words=st.tuples(*[st.integers(0, 2**32 - 1)] * 4))
@settings(max_examples=60, deadline=None)
def test_the_permutation_is_one(size, words):
    keys = tuple(torch.tensor(word) for word in words)
    image = permute(torch.arange(size), torch.tensor(size), keys)
    assert torch.equal(image.sort().values, torch.arange(size))


def test_hardly_any_place_walks():
    # CIFAR-100's 49,500 negatives: pairs of 223 and 222, so 6 of 49,506 places lie outside.
    keys = philox((1, 2), (0, 0, 0, 0))
    places = torch.arange(49_506)
    image = permute(places, torch.tensor(49_506), keys)
    assert (image >= 49_500).sum() == 6


@needs_library
@given(
    rows=st.integers(2, 3000),
    negatives=st.integers(1, 2500),
    seed=st.integers(0, 2**63 - 1),
    step=st.integers(0, 2**33),
    replacement=st.booleans(),
    relaxed=st.booleans(),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_the_library_draws_the_same_integers(rows, negatives, seed, step, replacement, relaxed, data):
    inner = sorted(data.draw(st.sets(st.integers(1, rows - 1), min_size=1, max_size=20)))
    starts = torch.tensor([0, *inner, rows])
    samples = torch.tensor(data.draw(st.lists(st.integers(0, rows - 1), min_size=1, max_size=4)))
    options = {"starts": starts, "negatives": negatives, "seed": seed, "step": step}
    options |= {"rows": samples, "replacement": replacement, "relaxed": relaxed, "first": 77}
    assert torch.equal(drawn("cpu", **options), drawn("reference", **options))
