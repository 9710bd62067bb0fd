"""The tables as a person reads them."""

import pytest

from fastkd import train
from fastkd.options import parse, recipe_of
from fastkd.recipes import listing
from fastkd.recipes.tables import ENTRIES
from fastkd.support.errors import UserError


class TestList:
    def test_the_overview_names_every_table_and_what_is_not_run(self):
        shown = "\n".join(listing.overview())
        assert all(entry.table in shown and entry.recipe in shown for entry in ENTRIES)
        assert "Not run by fastkd" in shown and max(map(len, shown.splitlines())) < 240

    def test_lines_can_be_run(self, capsys):
        assert train.main(["cifar100-sftn", "--list", "--pair", "wrn_40_2/wrn_16_2", "--method", "at"]) == 0
        shown = capsys.readouterr().out
        lines = [line.split("  ")[1] for line in shown.splitlines() if "python -m" in line]
        assert len(lines) == 2 and "student 76.82 ± 0.24" in shown
        for line in lines:
            assert recipe_of(parse(line.split()[3:])).stages[1].published is not None

    def test_nothing_left(self):
        with pytest.raises(UserError, match="no such line of the recipe cifar100-sftn"):
            list(listing.lines("cifar100-sftn", method="dkd"))
