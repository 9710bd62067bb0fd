"""CMI's bank of features."""

import pytest
import torch
from helpers.golden import Case

from fastkd.synthesis.bank import FeatureBank


def test_the_oldest_rows_are_overwritten():
    bank, rows = FeatureBank(5, 2), torch.arange(16.0).view(8, 2)
    bank.add(rows[:3])
    assert (bank.pointer, bank.filled) == (3, 3)
    bank.add(rows[3:6])
    assert (bank.pointer, bank.filled) == (1, 5)
    assert torch.equal(bank.rows, rows[[5, 1, 2, 3, 4]])


def test_one_that_is_filled_exactly_is_drawn_from():
    """In the authors' code it counts as empty: rows ever added, where to write, and rows to draw from."""
    theirs = Case("datafree/cmi", "bank_full")["out/updates_ptr_drawn"].tolist()
    bank, found = FeatureBank(6, 2), []
    for _ in range(3):
        bank.add(torch.ones(3, 2))
        found.append([bank.added.item(), bank.pointer, bank.filled])
    assert found == [[3, 3, 3], [6, 0, 6], [9, 3, 6]]
    assert [row[:2] for row in found] == [row[:2] for row in theirs] and theirs[1][2] == 0


def test_no_row_is_drawn_twice():
    bank = FeatureBank(8, 1)
    bank.add(torch.arange(6.0)[:, None])
    drawn = bank.drawn(4, torch.Generator().manual_seed(0)).flatten().tolist()
    assert len(set(drawn)) == 4 and set(drawn) <= set(range(6))
    assert sorted(bank.drawn(100, torch.Generator().manual_seed(0)).flatten().tolist()) == list(range(6))
    assert len(FeatureBank(8, 1).drawn(4, torch.Generator())) == 0


def test_more_rows_than_it_has_are_refused():
    with pytest.raises(ValueError, match="^a bank of 2 rows cannot take 3 at once$"):
        FeatureBank(2, 1).add(torch.zeros(3, 1))


def test_it_is_resumed_from_its_state():
    bank, other = FeatureBank(4, 1), FeatureBank(4, 1)
    bank.add(torch.ones(3, 1, requires_grad=True))
    other.load_state_dict(bank.state_dict())
    assert (other.pointer, other.filled) == (3, 3) and torch.equal(other.rows, bank.rows)
    assert not bank.rows.requires_grad
