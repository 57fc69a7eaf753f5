"""HTML in one file: escaped text, tables, pictures as data; no script, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

CSS = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; }
body { max-width: 58rem; margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.6rem; margin-bottom: 0.2rem; }
h2 { font-size: 1.15rem; margin-top: 2.4rem; padding-bottom: 0.2rem; border-bottom: 1px solid #ddd; }
h3 { font-size: 1rem; margin-bottom: 0.3rem; }
p.lead { color: #555; margin-top: 0; }
p.answer { background: #eef4fb; border-left: 4px solid #1f5fa8; padding: 0.6rem 0.9rem; }
p.note { color: #666; font-size: 0.88rem; }
table { border-collapse: collapse; margin: 0.8rem 0; font-size: 0.92rem; }
th, td { padding: 0.25rem 0.8rem 0.25rem 0; text-align: right; border-bottom: 1px solid #eee; }
td { font-variant-numeric: tabular-nums; }
th { font-weight: 600; border-bottom: 1px solid #bbb; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
tr.first td { font-weight: 600; }
img { max-width: 100%; height: auto; display: block; margin: 0.6rem 0; }
figure { margin: 0.6rem 0; } figcaption { color: #666; font-size: 0.88rem; }
pre { background: #f6f6f6; padding: 0.7rem; overflow-x: auto; font-size: 0.82rem; }
@media print { body { max-width: none; } h2 { break-after: avoid; } figure, table { break-inside: avoid; } }
"""


def page(title: str, body: Sequence[str]) -> str:
    """A whole document."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def heading(text: str, level: int = 2) -> str:
    return f"<h{level}>{escape(text)}</h{level}>"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph; `kind` is "lead", "answer", "note" or nothing."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def notes(texts: Sequence[str]) -> list[str]:
    return [paragraph(f"Note: {text}.", "note") for text in texts]


def table(head: Sequence[str], rows: Sequence[Sequence[str]], first: bool = False) -> str:
    """A table; `first` sets its first row apart."""
    lines = ["<table>", "<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"]
    for i, row in enumerate(rows):
        mark = ' class="first"' if first and i == 0 else ""
        lines.append(f"<tr{mark}>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>")
    return "\n".join([*lines, "</table>"])


def picture(source: str | None, caption: str) -> list[str]:
    """A picture given as a data URI, with what it shows in words."""
    if source is None:
        return []
    text = escape(caption)
    return [f'<figure><img src="{escape(source, quote=True)}" alt="{text}"><figcaption>{text}</figcaption></figure>']
