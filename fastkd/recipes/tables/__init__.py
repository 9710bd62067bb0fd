"""What the papers report: their tables as data, and which run each cell belongs to."""

from fastkd.recipes.tables import digits, gtn, modern, sftn, sftn_analysis, simkd, simkd_rest, tfkd
from fastkd.recipes.tables.entry import Entry, Omitted
from fastkd.recipes.tables.layout import Table

__all__ = ["ENTRIES", "OMITTED", "TABLES", "Entry", "Omitted"]

ENTRIES: tuple[Entry, ...] = (
    *sftn.ENTRIES,
    *simkd.ENTRIES,
    *simkd_rest.ENTRIES,
    *tfkd.ENTRIES,
    *gtn.ENTRIES,
    *modern.ENTRIES,
)
OMITTED: tuple[Omitted, ...] = (*sftn.OMITTED, *simkd.OMITTED, *tfkd.OMITTED, *gtn.OMITTED, *modern.OMITTED)
TABLES: dict[str, dict[str, Table]] = {
    "sftn": sftn.TABLES | sftn_analysis.TABLES,
    "simkd": simkd.TABLES | simkd_rest.TABLES,
    "tfkd": tfkd.TABLES,
    "gtn": gtn.TABLES,
    "modern": modern.TABLES,
    "digits": digits.TABLES,
}
"""The tables of each paper as they are printed, by the words that `fastkd.reproduce` has for paper and table."""
