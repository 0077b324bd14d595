"""One visit of a page: everything that test_pages.py asks about it, so that each page loads once."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import axe_playwright_python

DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
WHOLE = ("book/intro.html", "book/notation.html")  # here axe also judges the navigation, which is the same everywhere
GRAVE = ("serious", "critical")

FACTS = r"""() => {
  const article = document.querySelector("article") || document.body;
  const seen = (box) => { const r = box.getBoundingClientRect(); return r.width > 0 && r.height > 0; };
  // Text a reader sees: without code, formulas (typeset), scripts and the small print of widgets.
  const prose = article.cloneNode(true);
  prose.querySelectorAll("pre, code, script, style, mjx-container, svg, textarea").forEach((node) => node.remove());
  const shown = (node) => !node.closest("details:not([open])");
  const figures = [...article.querySelectorAll("figure.engram-figure")].filter(shown);
  return {
    title: document.title,
    headings: [...article.querySelectorAll("h1,h2,h3,h4,h5,h6")].map((h) => [+h.tagName[1], h.textContent.trim()]),
    links: [...document.querySelectorAll("a[href]")].map((a) => a.getAttribute("href")),
    pictures: [...document.images].map((i) => [i.getAttribute("src").slice(0, 80), i.complete && i.naturalWidth > 0,
      i.loading]),
    figures: figures.map((f) => {
      const panels = [...f.querySelectorAll("svg, img, table, canvas, .touch-tokens")].filter(seen);
      const box = f.getBoundingClientRect();
      return [(f.querySelector("figcaption")?.textContent || "").slice(0, 60), panels.length, box.height];
    }),
    formulas: article.querySelectorAll(".math").length,
    typeset: [...article.querySelectorAll(".math")].filter((m) => m.querySelector("mjx-container svg")).length,
    mathErrors: [...document.querySelectorAll("mjx-merror, [data-mml-node='merror']")].map((m) => m.textContent),
    prose: prose.textContent,
    folded: article.querySelectorAll("details:not([class])").length,
    badges: [...document.querySelectorAll("a[href*='colab.research.google.com']")].map((a) => a.href),
  };
}"""

# Opens what is folded as a reader does, by its summary, and tells what did not open.
UNFOLD = """() => [...document.querySelectorAll("article details")].filter((box) => {
  if (!box.open) box.querySelector("summary").click();
  const inside = [...box.children].filter((child) => child.tagName !== "SUMMARY");
  return !box.open || !inside.some((child) => child.getBoundingClientRect().height > 0);
}).map((box) => box.querySelector("summary").textContent.trim() + ": " + box.textContent.trim().slice(0, 60))"""

# What sticks out of the page to the right; what scrolls inside a box of its own may.
OVERFLOW = """() => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return [];
  const inBox = (node) => { for (let n = node.parentElement; n && n !== document.body; n = n.parentElement)
    if (["auto", "scroll", "hidden"].includes(getComputedStyle(n).overflowX)) return true; return false; };
  const out = (node) => node.getBoundingClientRect().right > width + 1 && !inBox(node);
  const wide = [...document.querySelectorAll("body *")].filter(out).slice(0, 5);
  return [`the page is ${document.documentElement.scrollWidth} wide`,
    ...wide.map((n) => `<${n.tagName.toLowerCase()} class="${n.className}"> ${n.textContent.trim().slice(0, 60)}`)];
}"""


# Boxes of which the keyboard would miss a part: they scroll, and are no tab stop, or one without a name. Navigation may
# be scrolled by the links in it; text may not, since its links need not stand where it is cut off.
UNREACHABLE = """() => [...document.querySelectorAll("body *")].filter((box) => {
  if (box.ownerSVGElement || !box.getClientRects().length) return false;
  const style = getComputedStyle(box), free = (overflow) => ["auto", "scroll"].includes(overflow);
  if (!(free(style.overflowX) && box.scrollWidth > box.clientWidth + 1) &&
      !(free(style.overflowY) && box.scrollHeight > box.clientHeight + 1)) return false;
  if (!document.querySelector("article")?.contains(box) && box.querySelector("a[href]")) return false;
  return box.tabIndex < 0 || !box.getAttribute("role") || !box.getAttribute("aria-label");
}).map((box) => `${box.scrollWidth} in ${box.clientWidth}, ${box.scrollHeight} in ${box.clientHeight}: ` +
  `${box.cloneNode().outerHTML.slice(0, 160)} ${box.textContent.trim().slice(0, 60)}`)"""

# What begins in the window and ends outside of it or of its box, though nobody has scrolled: captions, which no box may
# cut off; tables; and code that a reader sees without unfolding it.
CUT_OFF = """() => {
  const shown = (node) => node.getClientRects().length > 0;
  const over = (box) => box.scrollWidth > box.clientWidth + 1;
  const words = (node) => node.textContent.trim().slice(0, 50);
  const all = (names) => [...document.querySelectorAll(names)].filter(shown);
  return {
    captions: all("article :is(figcaption, caption)").filter((caption) => {
      const frame = caption.closest(".engram-table-box, figure, table").getBoundingClientRect();
      return caption.getBoundingClientRect().right > Math.min(frame.right, innerWidth) + 1;
    }).map(words),
    tables: all("article .engram-table-box").filter(over).map(words),
    code: all("article .cell:not(.tag_hide-input) > .cell_input pre").filter(over).map(words),
  };
}"""

# Pictures and formulas are judged by their names and boxes: their insides are a hundred thousand shapes that axe would
# walk. Their sizes stay, and go on to follow the window: all have a viewBox. Of code, one word of each kind and place
# stays, of tables and lists the first rows: thousands of equal ones add nothing but minutes. Nothing is half faded when
# colours are compared.
LIGHTEN = """() => {
  document.querySelectorAll(":is(.engram-figure, .engram-hero, mjx-container) svg[viewBox]").forEach((svg) =>
    svg.replaceChildren());
  document.querySelectorAll("mjx-assistive-mml").forEach((copy) => copy.remove());
  document.querySelectorAll("article :is(table, dl.glossary, .citation-list)").forEach((long) => {
    const rows = long.querySelectorAll(":scope > tbody > tr, :scope > dt, :scope > dd, :scope > .citation");
    [...rows].slice(6).forEach((row) => row.remove());
  });
  const kinds = new Set();
  document.querySelectorAll("article :is(div.highlight, dt.sig)").forEach((code) => {
    const place = code.closest("details, .cell_output, .cell_input, dl")?.className || "";
    code.querySelectorAll("span").forEach((word) => {
      const kind = `${place} ${word.className}`;
      if (kinds.has(kind)) word.replaceWith(word.textContent); else if (!word.children.length) kinds.add(kind);
    });
    code.normalize();
  });
  const still = document.createElement("style");
  still.textContent = "* { transition: none !important; animation: none !important }";
  document.head.append(still);
}"""


@lru_cache
def axe_source() -> str:
    return (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()


def violations(page, rules: list[str] | None = None, scope: str = "body", without: tuple[str, ...] = ()) -> list[str]:
    """Serious and critical findings of axe-core in `scope`, as the page is now, one line each."""
    options = {"resultTypes": ["violations"], "preload": False, "rules": {rule: {"enabled": False} for rule in without}}
    if rules:
        options["runOnly"] = {"type": "rule", "values": rules}
    # Not as a <script>: then the page could not tell it from its own.
    page.evaluate(f"() => {{ if (!window.axe) {{ {axe_source()} }} }}")
    found = page.evaluate(
        "([scope, options]) => axe.run(document.querySelector(scope), options).then((r) => r.violations)",
        [scope, options],
    )
    return [
        f"{v['id']} ({v['impact']}): {node['html'][:160]} | {' '.join(node['failureSummary'].split())[:240]}"
        for v in found
        if v["impact"] in GRAVE
        for node in v["nodes"][:4]
    ]


def visit(tab, name: str) -> dict:
    """Load the page once on a desktop, open what is folded, look at it on a phone, then ask axe-core in both themes."""
    tab.size(DESKTOP)
    tab.open(name)
    found = tab.page.evaluate(FACTS)
    found["cut_off"] = tab.page.evaluate(CUT_OFF)
    found["still_folded"] = tab.page.evaluate(UNFOLD)
    tab.settle()
    found["unreachable"] = tab.page.evaluate(UNREACHABLE)
    tab.size(PHONE)
    found["cut_off_on_a_phone"] = tab.page.evaluate(CUT_OFF)["captions"]
    found["too_wide"] = tab.page.evaluate(OVERFLOW)
    found["unreachable"] += tab.page.evaluate(UNREACHABLE)
    tab.size(DESKTOP)
    tab.page.evaluate(LIGHTEN)
    tab.theme("light")
    tab.settle()
    scope = "body" if name in WHOLE else "main"
    found["axe_light"] = violations(tab.page, scope=scope)
    tab.theme("dark")
    found["axe_dark"] = violations(tab.page, rules=["color-contrast", "link-in-text-block"], scope=scope)
    found.update(errors=list(tab.errors), failed=list(tab.failed), outside=list(tab.outside))
    return found
