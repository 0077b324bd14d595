"""matplotlib figure -> one inline `<svg>` that takes on the colours of the page around it."""

from __future__ import annotations

import hashlib
import io
import itertools
import re
from xml.etree import ElementTree

from matplotlib.figure import Figure

from engramlib.lab.plots.style import INK

FONTS = "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,'DejaVu Sans',sans-serif"
# Below this share of its natural width the text gets too small to read: the figure's box scrolls instead.
SMALLEST = 0.68
PHONE = 340  # CSS pixels of text width on a narrow phone

_SVG, _LINK = "http://www.w3.org/2000/svg", "{http://www.w3.org/1999/xlink}href"
_INKS = re.compile(f"(?:{INK}|#000000)(?![0-9a-f])", re.IGNORECASE)
_LONG = re.compile(r"-?\d+\.\d{3,}(?:e-?\d+)?")
_counter = itertools.count(1)


def svg(fig: Figure, label: str) -> str:
    """`fig` as an `<svg role="img">` with `label` for readers who cannot see it.

    Black and `INK` become `currentColor`, the background transparent. Ids are unique in the page.
    Width follows the page up to the figure's own size.
    """
    root = ElementTree.fromstring(_draw(fig))
    for parent in list(root.iter()):  # metadata, and a style rule for `*` that would hit the whole page
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    _own_ids(root)
    for element in root.iter():
        element.tag = element.tag.replace(f"{{{_SVG}}}", "")
        if _LINK in element.attrib:
            element.set("href", element.attrib.pop(_LINK))
        _page_style(element)
        _shorten(element)
    _unwrap(root)

    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-label", label)
    root.set(
        "style",
        f"{sizes(css_width(fig))};font-family:{FONTS};fill:currentColor;stroke-linejoin:round;stroke-linecap:butt",
    )
    text = ElementTree.tostring(root, encoding="unicode", short_empty_elements=True)
    return re.sub(r">\s+<", "><", text).strip()


def css_width(fig: Figure) -> int:
    """The figure's own width in CSS pixels."""
    return round(fig.get_figwidth() * 96)


def sizes(width: int) -> str:
    """CSS of a picture that is `width` pixels wide where it has room."""
    least = f"min-width:{smallest(width)}px;" if too_wide(width) else ""
    return f"width:100%;max-width:{width}px;{least}height:auto"


def smallest(width: int) -> int:
    return round(SMALLEST * width)


def too_wide(width: int) -> bool:
    """Whether a picture of `width` pixels may need more room than a phone has. All others shrink and never overflow."""
    return smallest(width) > PHONE


def _draw(fig: Figure) -> str:
    import matplotlib

    out = io.StringIO()
    how = {"svg.fonttype": "none", "svg.hashsalt": "engram", "svg.image_inline": True}
    how["image.composite_image"] = False  # else images that share axes are resampled into one
    with matplotlib.rc_context(how):
        fig.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return out.getvalue()


def _own_ids(root: ElementTree.Element) -> None:
    """Drop ids that nothing refers to; make the others unique, since many figures share one page."""
    text = ElementTree.tostring(root, encoding="unicode")
    used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", text))
    prefix = f"e{hashlib.sha1(text.encode()).hexdigest()[:6]}-{next(_counter)}-"
    for element in root.iter():
        name = element.attrib.pop("id", None)
        if name in used:
            element.set("id", prefix + name)
        for key, value in element.attrib.items():
            if key == _LINK and value.startswith("#"):
                element.set(key, f"#{prefix}{value[1:]}")
            elif "url(#" in value:
                element.set(key, value.replace("url(#", f"url(#{prefix}"))


def _page_style(element: ElementTree.Element) -> None:
    """The page's ink, and for plain text the page's font.

    Formulas keep matplotlib's font: their glyphs are placed one by one.
    """
    for name in ("style", "fill", "stroke"):
        if name in element.attrib:
            element.set(name, _INKS.sub("currentColor", element.attrib[name]))
    if element.tag != "text" or "style" not in element.attrib:
        return
    drop = {"fill: currentColor"}  # inherited
    rules = [rule.strip() for rule in element.attrib["style"].split(";")]
    if not len(element):
        rules = [rule for rule in rules if not rule.startswith("font-family:")]
    element.set("style", ";".join(rule for rule in rules if rule and rule not in drop))


def _shorten(element: ElementTree.Element) -> None:
    """A hundredth of a point is enough; a scale inside a transform gets two digits more."""
    for name, digits in (("d", 2), ("x", 2), ("y", 2), ("transform", 4)):
        if name in element.attrib:
            text = _LONG.sub(lambda m, n=digits: f"{float(m[0]):.{n}f}".rstrip("0").rstrip("."), element.attrib[name])
            element.set(name, " ".join(text.split()))
    if element.attrib.get("transform", "").startswith("rotate(-0 "):
        del element.attrib["transform"]


def _unwrap(root: ElementTree.Element) -> None:
    """Drop invisible shapes and groups that say nothing."""
    for parent in list(root.iter()):
        children: list[ElementTree.Element] = []
        for child in parent:
            if child.tag == "path" and child.attrib.get("style", "").replace(" ", "") == "fill:none":
                continue
            children.append(child)
        parent[:] = children
    for parent in reversed(list(root.iter())):  # inner groups first
        children = []
        for child in parent:
            children.extend(child if child.tag == "g" and not child.attrib else [child])
        parent[:] = children
