"""A table on the screen and in files; that with figures of trainings is tested beside the command."""

import csv
import xml.etree.ElementTree as ET

from fastkd.plan.cells import Seeds
from fastkd.plan.computed import COMPUTED
from fastkd.plan.drawn import Drawing
from fastkd.plan.filled import FilledTable
from fastkd.plan.shown import Shown
from fastkd.recipes.tables import TABLES
from fastkd.run.page import Html


def test_what_is_computed_is_a_csv_a_picture_and_a_page(tmp_path, capsys):
    table = TABLES["tfkd"]["fig3"]
    computed = COMPUTED[table.computed](table, None, [])
    Shown(FilledTable(table), Drawing([]), computed, Seeds(), Html("")).write(tmp_path)
    rows = list(csv.reader((tmp_path / "tables" / "tf-kd-figure-3.csv").read_text().splitlines()))
    assert rows == [list(computed.heads), *map(list, computed.rows)]
    picture = ET.fromstring((tmp_path / "tables" / "tf-kd-figure-3.svg").read_text())
    assert picture.tag.endswith("svg") and "circle" in {part.tag.rpartition("}")[2] for part in picture.iter()}
    assert "C6" in (tmp_path / "report.html").read_text() and "0.13498" in capsys.readouterr().out
