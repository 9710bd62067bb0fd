"""What the papers report: their tables as data, and which run each cell belongs to."""

from fastkd.recipes.tables import modern, sftn, simkd, tfkd
from fastkd.recipes.tables.entry import Entry, Omitted

__all__ = ["ENTRIES", "OMITTED", "Entry", "Omitted"]

ENTRIES: tuple[Entry, ...] = (*sftn.ENTRIES, *simkd.ENTRIES, *tfkd.ENTRIES, *modern.ENTRIES)
OMITTED: tuple[Omitted, ...] = (*sftn.OMITTED, *simkd.OMITTED, *tfkd.OMITTED, *modern.OMITTED)
