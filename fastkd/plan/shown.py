"""A filled table on the screen and in files: text, CSV, LaTeX, pictures and one page of HTML."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fastkd.plan import output
from fastkd.plan.cells import Seeds
from fastkd.plan.compared import Compared, compared
from fastkd.plan.computed import Computed
from fastkd.plan.drawn import Drawing
from fastkd.plan.filled import FilledTable
from fastkd.run.charts import as_picture
from fastkd.run.page import Html, element, page
from fastkd.run.page import table as html_table
from fastkd.support.console import new_table, table_console
from fastkd.support.files import make_folder, write_text

_COLUMNS = 4
"""So many of a table's columns are printed beside each other."""


@dataclass(frozen=True)
class Shown:
    """What there is to show of a table."""

    found: FilledTable
    drawing: Drawing
    computed: Computed | None
    seeds: Seeds
    pictures: Html
    """Further pictures, which stand in the page alone."""

    @cached_property
    def compared(self) -> Compared | None:
        return compared(self.found)

    @property
    def title(self) -> str:
        if not self.found.cells:
            return self.found.table.title
        return f"{self.found.table.title}: ours, and in brackets what is printed; {self.seeds.words()}"

    @property
    def notes(self) -> list[str]:
        remarks = [self.compared.remark] if self.compared else []
        return [*output.notes(self.found), *remarks, *(self.computed.notes if self.computed else ())]

    @property
    def charts(self) -> list[Html]:
        return [chart for chart in (*self.drawing.charts, *(self.computed.charts if self.computed else ())) if chart]

    def write(self, root: Path) -> None:
        """Prints the table, and writes it below the folder."""
        self._print()
        stem = re.sub(r"[^a-z0-9.]+", "-", self.found.table.title.lower()).strip("-")
        make_folder(root / "tables")
        files = self._files(stem)
        for name, text in files.items():
            write_text(root / "tables" / name, text)
        write_text(root / "report.html", self._page())
        console = table_console()
        console.print(f"tables   {root / 'tables'}: {', '.join(files)}", markup=False)
        console.print(f"report   {root / 'report.html'}", markup=False)

    def _print(self) -> None:
        console = table_console()
        if self.found.cells:
            heads, rows = output.as_lines(self.found)
            for first in range(1, len(heads), _COLUMNS):
                title = self.title if first == 1 else None
                shown = new_table(heads[0], *heads[first : first + _COLUMNS], title=title)
                for row in rows:
                    shown.add_row(row[0], *row[first : first + _COLUMNS])
                console.print(shown)
        if self.computed is not None:
            shown = new_table(*self.computed.heads, title=self.found.table.title)
            for row in self.computed.rows:
                shown.add_row(*row)
            console.print(shown)
        if self.compared is not None:
            shown = new_table(*self.compared.heads, title="differences of the means")
            for row in self.compared.rows:
                shown.add_row(*row)
            console.print(shown)
        for line in self.notes:
            console.print(line, markup=False, soft_wrap=True)

    def _files(self, stem: str) -> dict[str, str]:
        """The text of each file, by its name."""
        files = {}
        if self.found.cells:
            numbers = {"students": self.seeds.students, "teachers": self.seeds.teachers}
            files[f"{stem}.csv"] = output.as_csv(self.found, **numbers)
            files[f"{stem}.tex"] = output.as_latex(self.found)
        if self.drawing.rows:
            files[f"{stem}-curves.csv"] = _as_csv(self.drawing.heads, self.drawing.rows)
        if self.compared is not None:
            files[f"{stem}-differences.csv"] = _as_csv(self.compared.heads, self.compared.rows)
        if self.computed is not None:
            own = f"{stem}-computed.csv" if self.found.cells else f"{stem}.csv"
            files[own] = _as_csv(self.computed.heads, self.computed.rows)
        for number, chart in enumerate(self.charts, 1):
            files[f"{stem}{f'-{number}' if len(self.charts) > 1 else ''}.svg"] = as_picture(chart)
        return files

    def _page(self) -> str:
        parts = [element("h2", self.found.table.name)]
        if self.found.cells:
            parts.append(output.as_html(self.found))
        if self.computed is not None:
            parts.append(html_table(self.computed.heads, self.computed.rows, kind="numbers"))
            parts += [element("p", note, class_="note") for note in self.computed.notes]
        if self.compared is not None:
            parts += [element("h3", "differences of the means"), element("p", self.compared.remark)]
            parts.append(html_table(self.compared.heads, self.compared.rows, kind="numbers"))
        return page(self.title, *parts, element("div", *self.charts, self.pictures, class_="charts"))


def _as_csv(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(rows)
    return file.getvalue()
