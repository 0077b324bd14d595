"""Checks of the built site: every page there, every link alive, nothing loaded from elsewhere, every picture told."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup

PAGE_LIMIT = 2_000_000  # bytes
# Pages Sphinx and its extensions add; everything else must be in _toc.yml.
ADDED = {"index.html", "search.html", "genindex.html", "prf-prf.html", "404.html"}
# Attributes a browser fetches without a click. <link> counts only with one of these relations.
LOADS = {
    "script": ("src",), "img": ("src", "srcset"), "source": ("src", "srcset"), "iframe": ("src",),
    "video": ("src", "poster"), "audio": ("src",), "embed": ("src",), "object": ("data",), "track": ("src",),
    "image": ("href", "xlink:href"), "use": ("href", "xlink:href"), "link": ("href",),
}  # fmt: skip
LOADING_RELS = {"stylesheet", "icon", "preload", "modulepreload", "prefetch", "preconnect", "dns-prefetch",
                "manifest", "apple-touch-icon"}  # fmt: skip
REMOTE = re.compile(r"^\s*(https?:)?//", re.IGNORECASE)
REMOTE_CSS = re.compile(r"""(?:url\(|@import)\s*["']?\s*(?:https?:)?//""", re.IGNORECASE)


def check(
    site: Path, *, pages: list[Path], executed: list[Path], moved: tuple[str, ...] = (), base: str = "/"
) -> list[str]:
    """All problems of the site as sentences that name the page; an empty list when it is right.

    `pages` and `executed` are the pages _toc.yml promises and those among them that come from a notebook,
    relative to `site`; `moved` are the addresses that lead elsewhere, without .html. 404.html is served at any
    depth, so its own addresses start with `base`, the path of the site.
    """
    built = {p.relative_to(site): p for p in site.rglob("*.html") if "_static" not in p.relative_to(site).parts}
    wanted = set(pages)
    problems = [f"{page}: listed in _toc.yml but not built" for page in pages if page not in built]
    known = ADDED | {f"{old}.html" for old in moved}
    both = [old for old in moved if Path(f"{old}.html") in wanted]
    problems += [f"{old}.html: a page of the book, it cannot lead elsewhere" for old in both]
    extra = sorted(str(page) for page in built if page not in wanted and str(page) not in known)
    problems += [f"{page}: built but not in _toc.yml" for page in extra]
    if not (site / "searchindex.js").exists() or not (site / "search.html").exists():
        problems.append("the search index is missing")

    soups = {page: BeautifulSoup(path.read_bytes(), "html.parser") for page, path in built.items()}
    problems += [f"404.html: {problem}" for problem in _from_the_root(soups.get(Path("404.html")), base)]
    anchors = {page: _anchors(soup) for page, soup in soups.items()}
    for page, soup in soups.items():
        found = _remote(soup) + _dead_links(page, soup, site, anchors) + _local_files(page, soup, site)
        if page in wanted:
            size = built[page].stat().st_size
            if size >= PAGE_LIMIT:
                found.append(f"{size / 1e6:.1f} MB is too much for a page, the limit is {PAGE_LIMIT / 1e6:.0f} MB")
            found += _head(soup) + _pictures(soup) + _math(soup)
        if page in executed:
            found += _executed(soup)
        problems += [f"{page}: {problem}" for problem in found]
    for style in sorted(site.rglob("*.css")):
        if REMOTE_CSS.search(style.read_text(encoding="utf-8", errors="replace")):
            problems.append(f"{style.relative_to(site)}: loads something from elsewhere")
    return problems


def _anchors(soup) -> set[str]:
    named = soup.find_all("a", attrs={"name": True})
    return {tag["id"] for tag in soup.find_all(id=True)} | {tag["name"] for tag in named}


def _from_the_root(soup, base: str) -> list[str]:
    """The page for lost readers works at any depth; its addresses are then made relative for the other checks."""
    problems = []
    for tag in soup.find_all(True) if soup else ():
        for name in {"href", "src", "action"} & set(tag.attrs):
            if tag[name].startswith(base):
                tag[name] = tag[name].removeprefix(base) or "index.html"
            elif not (re.match(r"#|$", tag[name]) or urlsplit(tag[name]).scheme):
                problems.append(f"{tag[name]} does not start with {base}: it breaks for an address with a slash")
    return problems


def _loaded(soup):
    """(tag, address) of everything a browser fetches on its own."""
    for name, attributes in LOADS.items():
        for tag in soup.find_all(name):
            if name == "link" and not LOADING_RELS & set(tag.get("rel", [])):
                continue
            for attribute in attributes:
                value = tag.get(attribute)
                if value and attribute == "srcset":
                    yield from ((tag, part.split()[0]) for part in value.split(",") if part.strip())
                elif value:
                    yield tag, value


def _remote(soup) -> list[str]:
    problems = [f"<{tag.name}> loads {url} from elsewhere" for tag, url in _loaded(soup) if REMOTE.match(url)]
    styles = [tag.get_text() for tag in soup.find_all("style")] + [tag["style"] for tag in soup.find_all(style=True)]
    return problems + ["a style loads something from elsewhere" for text in styles if REMOTE_CSS.search(text)]


def _local_files(page: Path, soup, site: Path) -> list[str]:
    """What the page loads from its own site must be there."""
    problems = []
    for tag, url in _loaded(soup):
        parts = urlsplit(url)
        if parts.scheme or parts.netloc or not parts.path:
            continue
        if not (site / page.parent / unquote(parts.path)).exists():
            problems.append(f"<{tag.name}> loads {url}, which is not there")
    return problems


def _dead_links(page: Path, soup, site: Path, anchors: dict[Path, set[str]]) -> list[str]:
    problems = []
    for link in soup.find_all("a", href=True):
        parts = urlsplit(link["href"])
        if parts.scheme or parts.netloc:
            continue
        target = (site / page.parent / unquote(parts.path)).resolve() if parts.path else (site / page).resolve()
        if not target.exists():
            problems.append(f"dead link {link['href']}")
            continue
        relative = target.relative_to(site.resolve()) if target.is_relative_to(site.resolve()) else None
        fragment = unquote(parts.fragment)
        if fragment and relative in anchors and fragment not in anchors[relative]:
            problems.append(f"dead link {link['href']}: no such place on that page")
    return problems


def _head(soup) -> list[str]:
    problems = []
    if not (soup.html and soup.html.get("lang")):
        problems.append("the language is not declared")
    for key, name in (("name", "description"), ("property", "og:description")):
        tag = soup.find("meta", attrs={key: name})
        if tag is None or not tag.get("content", "").strip():
            problems.append(f"no meta {name}")
    headings = len((soup.find("article") or soup).find_all("h1"))
    if headings != 1:
        problems.append(f"{headings} first-level headings instead of one")
    return problems


def _pictures(soup) -> list[str]:
    problems = []
    article = soup.find("article") or soup
    for image in article.find_all("img"):
        if not image.get("alt", "").strip():
            problems.append(f"a picture without alternative text: {image.get('src', '')[:60]}")
    for svg in soup.find_all("svg", role="img"):
        if not (svg.get("aria-label", "").strip() or svg.get("aria-labelledby") or svg.find("title")):
            problems.append("an inline SVG without aria-label")
    for figure in article.select("figure.engram-figure"):
        if figure.find("svg") and not (figure.find(role="img") or figure.get("role") == "img"):
            problems.append('a figure without role="img"')
        if figure.find("figcaption") is None:
            problems.append("a figure without a caption")
    return problems


def _math(soup) -> list[str]:
    if not soup.select(".math"):
        return []
    scripts = [tag["src"] for tag in soup.find_all("script", src=True)]
    local = [src for src in scripts if "mathjax" in src and not REMOTE.match(src)]
    return [] if local else ["has formulas but no MathJax of its own"]


def _executed(soup) -> list[str]:
    problems = []
    if not soup.select("div.cell_output"):
        problems.append("comes from a notebook but shows no output: it was not executed")
    if soup.select("div.output.traceback"):
        problems.append("shows a traceback")
    for stderr in soup.select("div.output.stderr"):
        problems.append(f"shows what a cell wrote to stderr: {' '.join(stderr.get_text().split())[:120]}")
    return problems
