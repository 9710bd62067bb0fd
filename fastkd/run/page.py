"""HTML that cannot be broken by what stands in it: text is escaped unless it is marked as HTML."""

import html
from collections.abc import Iterable, Sequence


class Html(str):
    """Text that is HTML already. Whatever else becomes part of a page is escaped."""


NOTHING = Html("")


def element(tag: str, *children: object, **attributes: object) -> Html:
    """`<tag attributes>children</tag>`; an attribute's name may end with _, and has - for every _ inside."""
    named = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items() if value not in ("", None)}
    opened = "".join(f' {name}="{html.escape(str(value))}"' for name, value in named.items())
    return Html(f"<{tag}{opened}>{join(children)}</{tag}>")


def join(parts: Iterable[object]) -> Html:
    return Html("".join(part if isinstance(part, Html) else html.escape(str(part)) for part in parts))


def table(heads: Sequence[object], rows: Iterable[Sequence[object]], *, kind: str = "") -> Html:
    """A table that scrolls where it is wider than the page; the first column stays.

    kind: "numbers", "settings" or "facts".
    """
    head = element("tr", *(element("th", cell) for cell in heads))
    body = [element("tr", element("th", first), *(element("td", cell) for cell in rest)) for first, *rest in rows]
    return element("div", element("table", element("thead", head), element("tbody", *body), class_=kind), class_="wide")


def details(summary: object, *children: object, open_: bool = False) -> Html:
    made = element("details", element("summary", summary), *children)
    return Html(made.replace("<details>", "<details open>", 1)) if open_ else made


def swatch(colour: str) -> Html:
    """A small square of a run's colour."""
    return element("i", class_="swatch", style=f"background:{colour}")


def page(title: str, *body: object) -> str:
    """A whole document that needs nothing from anywhere."""
    head = join((Html('<meta charset="utf-8">'), _VIEWPORT, element("title", title), element("style", Html(_STYLE))))
    document = element("html", element("head", head), element("body", element("h1", title), *body), lang="en")
    return f"<!doctype html>\n{document}\n"


_VIEWPORT = Html('<meta name="viewport" content="width=device-width, initial-scale=1">')
_STYLE = """
:root { color-scheme: light dark; --text: #1f2937; --soft: #6b7280; --line: #e5e7eb; --back: #fff; --mark: #fef3c7 }
@media (prefers-color-scheme: dark) {
  :root { --text: #e5e7eb; --soft: #9ca3af; --line: #374151; --back: #111827; --mark: #453a17 } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1120px; padding: 0 1rem;
  color: var(--text); background: var(--back) }
h1 { font-size: 1.6rem; line-height: 1.25; overflow-wrap: anywhere } h2 { margin-top: 2.4rem; font-size: 1.25rem }
h3 { margin: 1.4rem 0 .4rem; font-size: 1rem } p { max-width: 46rem } small, .note { color: var(--soft) }
.note { font-size: 13px } summary { cursor: pointer; margin: 1.1rem 0 .5rem; font-weight: 600 }
code { overflow-wrap: anywhere; font-size: 13px }
.wide { overflow-x: auto; max-width: 100% } table { border-collapse: collapse; font-size: 14px }
td, th { padding: .3rem .8rem .3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line) }
th { font-weight: 600 } thead th { color: var(--soft); font-weight: 500; max-width: 9rem; min-width: 2.5rem;
  vertical-align: bottom }
.numbers thead th:nth-child(n+2) { min-width: 4.6rem }
tbody th { position: sticky; left: 0; background: var(--back); min-width: 5rem; white-space: nowrap }
tbody th:has(.swatch) { padding-left: 1.3em } tbody th .swatch { position: absolute; left: 0; top: .75em }
@media (max-width: 600px) { tbody th { white-space: normal; max-width: 8rem; overflow-wrap: break-word } }
.numbers td { font-variant-numeric: tabular-nums; white-space: nowrap }
.settings { font-size: 13px } .settings td { overflow-wrap: anywhere; min-width: 6rem; max-width: 22rem }
.facts td { font-size: 13px; white-space: nowrap }
.facts td:last-child { white-space: normal; overflow-wrap: anywhere; min-width: 7rem }
.facts td:nth-child(2) { white-space: normal; min-width: 5rem }
.swatch { display: inline-block; width: .75em; height: .75em; margin-right: .45em; border-radius: 2px }
@media (max-width: 600px) { .facts td:nth-child(n) { white-space: nowrap } }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); gap: 1rem 1.4rem;
  margin-top: .8rem }
figure { margin: 0; min-width: 0 } svg { width: 100%; height: auto; display: block; font: 12px system-ui, sans-serif }
svg text { fill: var(--soft) } svg .title { font-size: 13px; font-weight: 600; fill: var(--text) }
svg .grid { stroke: var(--line) } svg polyline { fill: none; stroke-width: 1.8; stroke-linejoin: round }
svg .band { opacity: .18 } svg .hollow { fill: var(--back); stroke-width: 2 }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1rem; font-size: 12px; color: var(--soft); padding-left: 3.2rem }
.legend b { color: var(--text); font-weight: 500; font-variant-numeric: tabular-nums }
.legend svg { display: inline-block; width: 1.9em; height: .7em; margin-right: .4em }
@media print { body { max-width: none; margin: 0 } figure, tr { break-inside: avoid } }
"""
