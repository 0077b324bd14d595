"""Tables as real HTML tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from engramlib.lab.plots.css import css_where_needed
from engramlib.lab.plots.figure import display_html, need, scrolls


def table(
    rows: Sequence[Mapping[str, object]], caption: str, *, columns: Sequence[str] | None = None, digits: int = 3
) -> None:
    """Show `rows` as a table. The first column names the row. A missing value (no key, None, NaN) is an empty cell.

    `columns` = which keys, in which order (default: as they appear). Floats get `digits` decimals.
    """
    display_html(table_html(rows, caption, columns=columns, digits=digits), fallback=caption)


def table_html(
    rows: Sequence[Mapping[str, object]], caption: str, *, columns: Sequence[str] | None = None, digits: int = 3
) -> str:
    """The HTML that `table` displays."""
    need(caption=caption)
    rows = list(rows)
    if not rows:
        raise ValueError("table: there are no rows.")
    names = list(columns) if columns is not None else list(dict.fromkeys(key for row in rows for key in row))
    number = {n: all(_is_number(row.get(n)) for row in rows) for n in names[1:]}
    number[names[0]] = False
    long = {n: any(len(_text(row.get(n), digits)) > 28 for row in rows) for n in names}

    def attributes(name: str) -> str:
        named = name == names[0] and any(len(_text(row.get(name), digits)) > 12 for row in rows)
        kinds = " ".join(k for k, on in (("num", number[name]), ("wrap", long[name]), ("named", named)) if on)
        return f' class="{kinds}"' if kinds else ""

    head = "".join(f'<th scope="col"{attributes(n)}>{escape(str(n))}</th>' for n in names)
    body = ""
    for row in rows:
        cells = [escape(_text(row.get(n), digits)) for n in names]
        body += f'<tr><th scope="row"{attributes(names[0])}>{cells[0]}</th>'
        body += "".join(f"<td{attributes(n)}>{c}</td>" for n, c in zip(names[1:], cells[1:], strict=True)) + "</tr>"
    name, box = scrolls("table")
    return (
        f'{css_where_needed()}<div class="engram-table-box{name}"{box}><table>'
        f"<caption>{escape(caption, quote=False)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _text(value: object, digits: int) -> str:
    if value is None:
        return ""
    if hasattr(value, "item"):  # a number out of numpy or torch
        value = value.item()
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.{digits}f}"
    return str(value)


def _is_number(value: object) -> bool:
    """Right-aligned: numbers, "0.03 ± 0.01", and nothing at all."""
    text = _text(value, 3)
    return not text or all(part.lstrip("−-+").replace(".", "", 1).isdigit() for part in text.split(" ± "))
