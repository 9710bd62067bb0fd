"""The tables of benchmarks/README.md, out of the records in results/: python -m benchmarks.tables [--check]

Between `<!-- results/NAME.json -->` and `<!-- end -->` stands what this program writes, nothing else. A cell is the
median with, in brackets, how many times as fast as the contender `reference` of the same case that is. Records of
`traffic` have bytes in place of seconds, and a table of their own.
"""

import argparse
import json
import re
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

README = Path(__file__).parent / "README.md"
PLACE = re.compile(r"<!-- (results/[\w.-]+\.json) -->\n.*?<!-- end -->", re.DOTALL)
SECTOR = 32
"""Bytes that global memory is moved in."""
MOST_MESSAGES = 8
"""Messages whose sizes are still told one by one."""
WIDEST = 6
"""Contenders that still stand side by side; more of them stand one below the other."""


def tables(records: list[dict[str, Any]]) -> str:
    """Markdown: what was measured, then a table for the cases that have the same contenders."""
    if records[0].get("benchmark") == "traffic":
        return traffic_table(records)
    by_case = {case: list(group) for case, group in groupby(records, key=lambda record: record["case"])}
    contenders = {case: tuple(record["contender"] for record in group) for case, group in by_case.items()}
    lines = [_measured_on(records), ""]
    for columns, cases in groupby(by_case, key=lambda case: contenders[case]):
        rows = [[case, *_cells(by_case[case])] for case in cases]
        header = ["", *columns]
        if len(columns) > WIDEST:
            header, *rows = [list(row) for row in zip(header, *rows, strict=True)]
        lines += [_row(header), _row(["---"] * len(header)), *map(_row, rows), ""]
    return "\n".join(lines)


TRAFFIC_COLUMNS = ("", "", "", "floor", "sectors read", "written", "different", "bank conflicts")


def traffic_table(records: list[dict[str, Any]]) -> str:
    """Sectors of global memory that warps read and write, in multiples of the floor; different bytes, launch by launch;
    and the ways of the worst conflict in shared memory."""
    rows = [_row(list(traffic_cells(record))) for record in records]
    lines = [_measured_on(records), "", _row(list(TRAFFIC_COLUMNS)), _row(["---"] * len(TRAFFIC_COLUMNS)), *rows, ""]
    return "\n".join(lines)


def traffic_cells(record: dict[str, Any]) -> tuple[str, ...]:
    kernels, floor = record["kernels"], record["floor_bytes"]
    read, written = (
        sum(kernel[side]["sectors"] for kernel in kernels) * SECTOR / floor for side in ("read", "written")
    )
    different = sum(kernel[side]["unique_bytes"] for kernel in kernels for side in ("read", "written")) / floor
    worst = max((conflict["worst"] for kernel in kernels for conflict in kernel["conflicts"]), default=1)
    return (
        record["case"],
        record["contender"],
        record["device"].partition(",")[0],
        f"{floor / 1e6:,.3g} MB",
        f"{read:.3f}",
        f"{written:.3f}",
        f"{different:.3f}",
        "none" if worst == 1 else f"{worst} ways",
    )


def _measured_on(records: list[dict[str, Any]]) -> str:
    devices, commits = ({record[name] for record in records} for name in ("device", "commit"))
    versions = {f"{name} {version}" for record in records for name, version in record["versions"].items()}
    return "; ".join((*sorted(devices), ", ".join(sorted(versions)), f"commit {', '.join(sorted(commits))}")) + "."


def _cells(records: list[dict[str, Any]]) -> list[str]:
    reference = {record["contender"]: record["median_s"] for record in records}.get("reference")
    return [_cell(record, reference) for record in records]


def _cell(record: dict[str, Any], reference: float | None) -> str:
    ratio = f" ({_short(reference / record['median_s'])}x)" if reference else ""
    started = record.get("starting_s")
    peak = record["peak_bytes"]
    words = [_time(record["median_s"]) + ratio]
    words += [f"{peak / 2**20:,.1f} MiB"] if peak else []
    words += [f"cpu {_time(record['cpu_s'])}"] if peak is None else []
    words += [f"start {started:.0f} s"] if started and started >= 0.5 else []
    words += [_messages(record["messages"])] if record.get("messages") else []
    return ", ".join(words)


def _messages(sizes: list[int]) -> str:
    """How many messages a call sent, and their MiB: of each, or of all where they are many."""
    mebibytes = [f"{size / 2**20:.2f}" for size in (sizes if len(sizes) <= MOST_MESSAGES else [sum(sizes)])]
    return f"{len(sizes)} message{'s' * (len(sizes) > 1)}: {' + '.join(mebibytes)} MiB"


def _time(seconds: float) -> str:
    for unit, factor in (("s", 1), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1 or unit == "µs":
            return f"{_short(seconds * factor)} {unit}"
    raise AssertionError


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def filled(text: str, folder: Path) -> str:
    """`text` with every table as the records say."""

    def table(found: re.Match[str]) -> str:
        records = json.loads((folder / found[1]).read_text())
        return f"<!-- {found[1]} -->\n{tables(records)}<!-- end -->"

    return PLACE.sub(table, text)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a table is old")
    options = parser.parse_args(arguments)
    before = README.read_text()
    after = filled(before, README.parent)
    if options.check:
        return int(before != after)
    README.write_text(after)
    return 0


if __name__ == "__main__":
    sys.exit(main())
