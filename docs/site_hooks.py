"""What the site's pages are made of besides those that are written: the tables of the code, the documents beside this
file, and formulas as MathML, which browsers draw without a script or a network."""

import dataclasses
import html
import inspect
import re
import sys
from pathlib import Path

import latex2mathml.converter
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from fastkd.methods import METHODS
from fastkd.recipes import RECIPES

HERE = Path(__file__).parent
WRITTEN_ELSEWHERE = ("DESIGN.md", "DROP_IN.md", "ENVIRONMENT.md", "EXECUTOR.md", "LOG.md", "CONTRIBUTING.md")
_LINK = re.compile(r"\[([^\]]*)\]\((?!https?://|#)([^)]*)\)")
_FORMULA = re.compile(r'<(span|div) class="arithmatex">(.*?)</\1>', re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made from the code, and the documents that stand beside this file."""
    pages = {"methods.md": methods(), "recipes.md": recipes(), "api.md": api()}
    pages |= {name: _without_links((HERE / name).read_text()) for name in WRITTEN_ELSEWHERE}
    pages["CHANGELOG.md"] = _without_links((HERE.parent / "CHANGELOG.md").read_text())
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_content(html: str, **_context: object) -> str:
    """Draws the formulas of a page."""
    return _FORMULA.sub(_drawn, html)


def _drawn(found: re.Match[str]) -> str:
    text = html.unescape(found[2]).strip()
    inline = text.startswith(r"\(")
    return latex2mathml.converter.convert(text[2:-2].strip(), display="inline" if inline else "block")


def _without_links(text: str) -> str:
    """Links within the documents; those to files of the source tree become plain words."""

    def kept(found: re.Match[str]) -> str:
        target = found[2].partition("#")[0]
        return found[0] if target in WRITTEN_ELSEWHERE else found[1]

    return _LINK.sub(kept, text)


RELATING = "It relates the images of a batch: with several processes, those of each one's share.\n"


def methods() -> str:
    """A section for each row of METHODS: the paper, what it compares, its settings."""
    parts = [
        "# Methods\n\nWhat the student learns: `--method NAME`, or several joined as in `kd+at`. Settings are options: "
        "`--kd.temperature 4`. Formulas of the most used ones stand in [Mathematics](mathematics.md).\n"
    ]
    for name, method in METHODS.items():
        about = inspect.getdoc(sys.modules[method.__module__]) or ""
        own = method.__dict__.get("__doc__") or ""
        own = f"{_text(inspect.cleandoc(own))}\n\n{RELATING if method.relates_samples else ''}"
        parts.append(f"## {name}\n\n{_text(about)}\n\n{own}\n\n{_settings(method.Settings)}")
    return "\n".join(parts)


def recipes() -> str:
    """A section for each row of RECIPES."""
    parts = ["# Recipes\n\nSettings of the papers: `fastkd train NAME`. `fastkd train NAME --list` shows the cells.\n"]
    for name, recipe in RECIPES.items():
        parts.append(f"## {name}\n\n{_text(inspect.getdoc(recipe) or '')}\n")
    return "\n".join(parts)


def api() -> str:
    """References of the modules that other projects import."""
    modules = ("fastkd.api", "fastkd.losses", "fastkd.support.callbacks", "fastkd.methods.base", "fastkd.data.records")
    return "# Python API\n\n" + "\n".join(f"## {name}\n\n::: {name}\n" for name in modules)


def _settings(settings: type) -> str:
    """A table of a settings dataclass: each field, its default and the first line of what stands beneath it."""
    fields = dataclasses.fields(settings)
    if not fields:
        return "It has no settings.\n"
    told = _docstrings(settings)
    rows = [f"| `{field.name}` | `{field.default!r}` | {told.get(field.name, '')} |" for field in fields]
    return "\n".join(["| setting | default | |", "|---|---|---|", *rows, ""])


def _docstrings(settings: type) -> dict[str, str]:
    """{field: the text beneath it}, out of the source: Python keeps none."""
    found: dict[str, str] = {}
    for kind in reversed(settings.__mro__[:-1]):
        source = inspect.getsource(kind)
        for name, text in re.findall(r"^    (\w+):[^\n]*\n(?:[^\n\"]*\n)*?    \"\"\"(.*?)\"\"\"", source, re.M | re.S):
            found[name] = _text(" ".join(text.split()))
    return found


def _text(text: str) -> str:
    """Plain words as Markdown."""
    return text.replace("|", "\\|").replace("<", "&lt;")
