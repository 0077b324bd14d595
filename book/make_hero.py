"""Draw the landing page's picture from the recorded MNIST run: `python book/make_hero.py` writes to book/_static.

hero.svg          the picture
hero-narrow.svg   the same for phones: the numbers stand below the map
social.png        1200 x 630, what a link to the book shows elsewhere (needs chromium, see browser.py)

The two SVGs are drawn here and not by matplotlib, so that the same numbers give the same bytes on every machine.
"""

from __future__ import annotations

import hashlib
import io
import sys
from dataclasses import dataclass
from pathlib import Path

from engramlib.lab import plots
from engramlib.lab.records import runs
from engramlib.lab.studies import classwise

STATIC = Path(__file__).parent / "_static"
HERO, NARROW, SOCIAL = STATIC / "hero.svg", STATIC / "hero-narrow.svg", STATIC / "social.png"
SOCIAL_SIZE = (1200, 630)


@dataclass(frozen=True)
class Layout:
    """Sizes in the picture's own units."""

    name: str
    size: tuple[int, int]
    cell: tuple[int, int]
    corner: tuple[int, int]  # of the map
    font: int
    facts: tuple[tuple[int, int], ...]  # where each of the three numbers stands
    gap: int = 2


WIDE = Layout("engram-hero", (640, 372), (33, 25), (96, 66), 17, ((466, 96), (466, 200), (466, 304)))
SMALL = Layout("engram-hero-narrow", (360, 384), (25, 20), (90, 50), 14, ((0, 336), (108, 336), (230, 336)))


def hero(layout: Layout = WIDE) -> str:
    """One row an edited network, one column a digit tested, accuracy as lightness; the means in words beside it."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    rows = runs.select(
        runs.load("mlp-mnist").rows, {"study": "frontier", "lam": 1.0, "alpha": 1.0, "split": "test", "bias": "keep"}
    )
    accuracy = classwise.matrix(rows, 10)
    effects = classwise.effects(rows, by=())
    erased, others = (sum(e[name] for e in effects) / len(effects) for name in ("erased", "others"))
    colour = colormaps[plots.SEQUENTIAL]
    (width, height), (left, top), gap = layout.cell, layout.corner, layout.gap
    cells, labels = [], []
    for i, line in enumerate(accuracy.tolist()):
        y = top + i * (height + gap) + (8 if i else 0)
        name = f"without {i - 1}" if i else "as trained"
        labels.append(f'<text x="{left - 8}" y="{y + height - 7 + (height < 25)}" text-anchor="end">{name}</text>')
        for j, value in enumerate(line):
            x = left + j * (width + gap)
            cells.append(f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{to_hex(colour(value))}"/>')
    middle = left + 5 * (width + gap)
    labels += [
        f'<text x="{left + j * (width + gap) + width / 2}" y="{top - 10}" text-anchor="middle">{j}</text>'
        for j in range(10)
    ]
    labels.append(f'<text x="{middle}" y="{layout.font + 5}" text-anchor="middle">digit shown</text>')
    facts = [
        (f"{accuracy[0].mean():.0%}", "of all digits read,", "as trained"),
        (f"{erased:.0%}", "of the digit whose", "engram is subtracted"),
        (f"{others:.0%}", "of the other nine,", "mean of five networks"),
    ]
    step = layout.font + 3
    for (x, y), (number, *lines) in zip(layout.facts, facts, strict=True):
        labels.append(f'<text x="{x}" y="{y}" font-size="{2 * layout.font}" font-weight="600">{number}</text>')
        small = "" if layout is WIDE else ' font-size="12"'
        labels += [
            f'<text x="{x}" y="{y + layout.font + 7 + step * k}"{small}>{text}</text>' for k, text in enumerate(lines)
        ]
    alt = (
        "Accuracy of eleven networks on each digit of MNIST. As trained all digits are read. Subtracting the engram "
        f"of a digit leaves {erased:.0%} of that digit and {others:.0%} of the others."
    )
    space = f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {layout.size[0]} {layout.size[1]}"'
    name = layout.name
    return (
        f'<svg id="{name}" {space} role="img" aria-label="{alt}">\n'
        f"<style>#{name}{{color:#333}}@media (prefers-color-scheme:dark){{#{name}{{color:#ddd}}}}</style>\n"
        f"<g>{''.join(cells)}</g>\n"
        f'<g fill="currentColor" font-family="sans-serif" font-size="{layout.font}">{"".join(labels)}</g>\n</svg>\n'
    )


def social_card(picture: str) -> bytes:
    """The PNG for links, with the picture's fingerprint in it, so that a stale one is found."""
    from browser import chromium
    from PIL import Image, PngImagePlugin

    width, height = SOCIAL_SIZE
    page_text = f"""<!DOCTYPE html><html lang="en"><style>
      body {{ margin: 0; width: {width}px; height: {height}px; background: #fff; font-family: sans-serif; color: #222;
             display: flex; align-items: center; gap: 36px; box-sizing: border-box; padding: 0 48px; }}
      h1 {{ font-size: 74px; margin: 0 0 24px; }} p {{ font-size: 36px; line-height: 1.35; margin: 0; }}
      div {{ flex: 0 0 388px; }} svg {{ width: 680px; height: auto; }} #{WIDE.name} {{ color: #222 !important }}
      </style><body><div><h1>AI engrams</h1><p>Find what a neural network knows about one thing.<br>Take it out.
      <br>Put it back.</p></div>{picture}</body></html>"""
    with chromium() as browser:
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")
        page.set_content(page_text)
        shot = page.screenshot()
    drawn = Image.open(io.BytesIO(shot)).convert("RGB").quantize(64)  # flat colours: a tenth of the bytes
    about = PngImagePlugin.PngInfo()
    about.add_text("picture", fingerprint(picture))
    out = io.BytesIO()
    drawn.save(out, "PNG", optimize=True, pnginfo=about)
    return out.getvalue()


def fingerprint(picture: str) -> str:
    """Which picture a social card was made from."""
    return hashlib.sha256(picture.encode()).hexdigest()


def main() -> int:
    HERO.write_text(hero())
    NARROW.write_text(hero(SMALL))
    SOCIAL.write_bytes(social_card(hero()))
    for path in (HERO, NARROW, SOCIAL):
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
