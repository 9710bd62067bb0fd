"""fastkd WORD …, or python -m fastkd WORD …: the commands as words of one program."""

import importlib
import sys

import fastkd
from fastkd.support.errors import nearest

COMMANDS = {
    "train": "trains a teacher and distils a student from it",
    "evaluate": "tests the networks of a run, and exports the student",
    "probe": "trains a linear classifier on the frozen features of a run, on its own or other data",
    "predict": "names the classes of images that nobody has labelled",
    "reproduce": "trains what a paper's table needs, and shows the table beside ours",
    "sweep": "trains every combination of some options' values, as one table",
    "store": "keeps what a teacher says of every image, for the students to come",
    "status": "a line for each run: how far it is, and whether it still lives, here or elsewhere",
    "report": "one HTML file of some runs: tables, curves, settings",
    "data": "looks at a data set: fastkd data inspect DATA",
    "env": "versions and devices, for a bug report",
}
"""{word: what it does}; `fastkd train` is `python -m fastkd.train`."""


def run() -> int:
    """The program `fastkd`: hands the rest of the command line to the command that its first word names."""
    word, *rest = sys.argv[1:] or [""]
    if word in ("", "-h", "--help"):
        print(usage())
        return 0 if word else 2
    if word == "--version":
        print(fastkd.__version__)
        return 0
    if word not in COMMANDS:
        print(f"fastkd: no command {word!r}{nearest(word, COMMANDS)}", file=sys.stderr)
        return 2
    # Only what is asked for is imported: torch takes seconds.
    module = importlib.import_module("fastkd.data.__main__" if word == "data" else f"fastkd.{word}")
    return importlib.import_module("fastkd.support.command_line").command(module.main, rest)


def usage() -> str:
    left = max(map(len, COMMANDS)) + 2
    words = [f"  {name:<{left}}{what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: fastkd COMMAND …   (or: python -m fastkd COMMAND …)",
            "",
            *words,
            "",
            "fastkd COMMAND --help shows its options. A first run, a minute on two cores: fastkd train",
        ]
    )


if __name__ == "__main__":
    sys.exit(run())
