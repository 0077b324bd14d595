"""The built site as an e-book and as a PDF, for readers without a network: what `make epub` and `make pdf` run.

python book/paper.py epub   _build/ai-engrams.epub, EPUB 3
python book/paper.py pdf    _build/ai-engrams.pdf, A4; needs a chromium, as the tests of the site do

Both are made of the pages in _build/html, so figures, numbers and links are those of the site. Formulas become MathML,
which readers and browsers draw without a script. What needs a mouse is left out, and so is folded plumbing; hints and
solutions stand at the end of their chapter.
"""

from __future__ import annotations

import argparse
import posixpath
import re
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from urllib.parse import unquote

import yaml
from bs4 import BeautifulSoup, NavigableString, Tag

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "_build" / "html"
STYLE = Path(__file__).with_name("paper.css")
# What a page loses: what needs a script or a pointer, and the code that the site folds.
GONE = (
    "script, style, a.headerlink, a.colab-badge, details.above-input, .engram-controls, .engram-buttons, .engram-now, "
    ".engram-state, .engram-at, .toctree-wrapper, .genindex-jumpbox, button, input, noscript"
)
# HTML knows these in small letters, XML does not.
CASED = {
    name.lower(): name
    for name in (
        "clipPath linearGradient radialGradient textPath foreignObject viewBox preserveAspectRatio gradientUnits "
        "gradientTransform patternUnits patternContentUnits patternTransform clipPathUnits maskUnits maskContentUnits "
        "markerWidth markerHeight markerUnits refX refY spreadMethod startOffset stdDeviation textLength lengthAdjust "
        "pathLength"
    ).split()
}
# Attributes of an HTML that is no more.
OLD = {"border", "align", "valign", "cellpadding", "cellspacing", "frame", "rules", "bgcolor", "nowrap"}
PLAIN_TOKENS = {"n", "p", "o", "w", "nn", "pre", "std", "doc", "std-doc"}  # spans that change nothing here


@dataclass
class Page:
    """A page of the book, cleaned; `links` to be resolved once all pages are known."""

    name: str  # as _toc.yml: book/part1/00_erase_a_digit
    part: str
    title: str = ""
    body: BeautifulSoup | None = None
    ids: set[str] = field(default_factory=set)

    @property
    def slug(self) -> str:
        """Short, and no two alike: the name of its file in the e-book, the beginning of its ids in the PDF."""
        return re.sub(r"\W+", "-", self.name.removeprefix("book/"))


# --------------------------------------------------------------------------------------------------------- the pages


def toc(root: Path = ROOT) -> Iterator[tuple[str, str]]:
    """(page, part) in the order of _toc.yml."""
    table = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    yield table["root"], ""
    for part in table["parts"]:
        for chapter in part["chapters"]:
            yield chapter["file"], part["caption"]


def site_url(root: Path = ROOT) -> str:
    return yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))["html"]["baseurl"]


def mathml(source: str, block: bool) -> str:
    """A formula of the site, with its delimiters, as MathML."""
    from latex2mathml.converter import convert

    text = source.strip()
    for left, right in ((r"\(", r"\)"), (r"\[", r"\]")):
        if text.startswith(left) and text.endswith(right):
            text = text[2:-2].strip()
    # Sphinx puts `split` around an environment of ours; the converter knows `split`, and neither `aligned` nor \arg.
    if re.match(r"\\begin\{split\}\s*\\begin\{aligned\}", text):
        text = text.removeprefix(r"\begin{split}").removesuffix(r"\end{split}").strip()
    text = text.replace("{aligned}", "{split}")
    text = re.sub(r"\\arg\s*\\(min|max)\b", r"\\operatorname{arg\\,\1}", text)
    text = re.sub(r"\\(arg)\b", r"\\operatorname{\1}", text)
    made = convert(text, display="block" if block else "inline")
    if left_over := re.search(r"\\[a-zA-Z]+|&(?!#|amp;|lt;|gt;|quot;|apos;)", made):
        raise ValueError(f"the formula {text!r} has {left_over[0]!r}, which did not become MathML")
    made = re.sub(r"<mo>(&#x23D[EF];)", r'<mo stretchy="true">\1', made)  # braces as wide as what they hold
    plain = escape(" ".join(text.split()), quote=True)
    return made.replace("<math ", f'<math alttext="{plain}" ', 1)


def clean(html: str) -> BeautifulSoup:
    """The article of a page, without what needs a script, as a tree that can be written as XML."""
    article = BeautifulSoup(html, "html.parser").find("article")
    if article is None:
        raise ValueError("a page without an article")
    soup = BeautifulSoup(str(article), "html.parser")
    for tag in soup.select(GONE):
        tag.decompose()
    for math in soup.select("span.math, div.math"):
        number = math.find(class_="eqno")
        if number:
            number.extract()
        block = math.name == "div"
        drawn = BeautifulSoup(mathml(math.get_text(), block), "html.parser")
        math.clear()
        if number:
            math.append(number)
        math.append(drawn)
    fold_out(soup)
    for tag in soup.find_all("span", class_=True):
        if set(tag["class"]) <= PLAIN_TOKENS and not tag.get("id"):
            tag.unwrap()
    for tag in soup.find_all("div", class_="cell"):
        if not tag.get_text(strip=True) and not tag.find(["svg", "img"]):
            tag.decompose()
    seen: set[str] = set()
    for tag in soup.find_all(id=True):  # sphinx-proof gives all its boxes the same
        if tag["id"] in seen:
            del tag["id"]
        else:
            seen.add(tag["id"])
    for tag in soup.find_all("p"):
        if tag.find(["ol", "ul", "dl", "div", "p", "table", "figure"]):
            tag.name = "div"
    for tag in soup.find_all(True):
        tag.name = CASED.get(tag.name, tag.name)
        for key in list(tag.attrs):
            if key in OLD or key in ("tabindex", "onclick"):
                del tag[key]
            elif key in CASED:
                tag[CASED[key]] = tag.attrs.pop(key)
        if tag.name == "svg":
            tag["xmlns"] = "http://www.w3.org/2000/svg"
            tag["xmlns:xlink"] = "http://www.w3.org/1999/xlink"
        elif tag.name in ("td", "th", "col") and "width" in tag.attrs:
            del tag["width"]
    return soup


def fold_out(soup: BeautifulSoup) -> None:
    """Hints and solutions go to the end; a link stays where each was, and one leads back."""
    folded = [tag for tag in soup.find_all("details") if tag.summary is not None]
    if not folded:
        return
    end = soup.new_tag("section", id="hints-and-solutions")
    heading = soup.new_tag("h2")
    heading.string = "Hints and solutions"
    end.append(heading)
    for number, details in enumerate(folded, 1):
        what = details.summary.get_text(" ", strip=True)
        box = next((tag for tag in details.parents if "admonition" in (tag.get("class") or [])), None)
        head = box.find(class_="admonition-title") if box else details.find_previous(["h2", "h3"])
        where = head.get_text(" ", strip=True) if head else ""
        link = soup.new_tag("a", href=f"#folded-{number}", id=f"fold-{number}")
        link.string = what
        place = soup.new_tag("p", attrs={"class": "folded"})
        place.append(link)
        details.insert_before(place)
        details.extract()
        details.summary.decompose()
        said = soup.new_tag("div", id=f"folded-{number}", attrs={"class": "folded-out"})
        back = soup.new_tag("a", href=f"#fold-{number}")
        back.string = what
        line = soup.new_tag("p", attrs={"class": "folded-head"})
        line.append(back)
        if where:
            line.append(NavigableString(f" · {where}"))
        said.append(line)
        for child in list(details.contents):
            said.append(child.extract())
        end.append(said)
    outer = soup.find("section")
    (outer or soup).append(end)


def read(site: Path = SITE, root: Path = ROOT) -> list[Page]:
    """All pages of the book, in order."""
    pages = []
    for name, part in toc(root):
        path = site / f"{name}.html"
        if not path.exists():
            raise SystemExit(f"No {name}.html in {site}: run make book first.")
        page = Page(name, part, body=clean(path.read_text(encoding="utf-8")))
        assert page.body is not None and page.body.h1 is not None
        page.title = page.body.h1.get_text(" ", strip=True)
        page.ids = {tag["id"] for tag in page.body.find_all(id=True)}
        pages.append(page)
    return pages


def targets(pages: list[Page], site: str, place) -> None:
    """Lead every link to its place in the book, `place(page, id)`; where that is not in the book, to the site."""
    known = {page.name: page for page in pages}
    for page in pages:
        assert page.body is not None
        for tag in page.body.find_all("a", href=True):
            address, _, anchor = unquote(tag["href"]).partition("#")
            if "://" in address or address.startswith("mailto:"):
                continue
            path = posixpath.normpath(posixpath.join(posixpath.dirname(page.name), address)) if address else page.name
            other = known.get(path.removesuffix(".html"))
            if other is None:
                tag["href"] = site + path + (f"#{anchor}" if anchor else "")
                tag.attrs.pop("download", None)
            else:
                tag["href"] = place(other, anchor if anchor in other.ids else "")


def pictures(pages: list[Page], site: Path = SITE) -> dict[str, Path]:
    """Name in the e-book -> file, of the pictures that are files; the pages name them so afterwards."""
    found: dict[str, Path] = {}
    for page in pages:
        assert page.body is not None
        for tag in page.body.find_all("img", src=True):
            if tag["src"].startswith("data:"):
                continue
            path = (site / posixpath.dirname(page.name) / tag["src"]).resolve()
            name = f"images/{path.name}"
            if found.setdefault(name, path) != path:
                raise ValueError(f"two pictures called {path.name}")
            tag["src"] = name
    return found


def written(soup: Tag) -> str:
    return soup.decode(formatter="minimal")


def about(root: Path = ROOT) -> dict[str, str]:
    """Title, author, licence and the like, for the title page and the e-book's record."""
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    cite = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    return {
        "title": config["title"], "author": config["author"], "site": config["html"]["baseurl"],
        "version": str(cite["version"]), "rights": config["html"]["extra_footer"],
    }  # fmt: skip


def title_page(facts: dict[str, str]) -> str:
    return (
        f'<section class="title-page" id="title-page"><h1>{escape(facts["title"])}</h1>'
        f"<p>{escape(facts['author'])}</p><p>Version {escape(facts['version'])}</p>"
        f'<p>With explorables, and to run: <a href="{escape(facts["site"])}">{escape(facts["site"])}</a></p>'
        f"<p>{escape(facts['rights'])}</p></section>"
    )


# -------------------------------------------------------------------------------------------------------- the e-book

XHTML = """\
<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE html>
<html xmlns="http://www.w3.org/1999/xhtml" xmlns:epub="http://www.idpf.org/2007/ops" lang="en" xml:lang="en">
<head><title>{title}</title><link rel="stylesheet" type="text/css" href="paper.css"/></head>
<body>{body}</body>
</html>
"""
CONTAINER = """\
<?xml version="1.0"?>
<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container">
<rootfiles><rootfile full-path="book/book.opf" media-type="application/oebps-package+xml"/></rootfiles>
</container>
"""
TYPES = {".svg": "image/svg+xml", ".png": "image/png", ".jpg": "image/jpeg", ".css": "text/css"}


def parts(pages: list[Page]) -> Iterator[tuple[str, list[Page]]]:
    """(caption, pages) of each part; the first, of the landing page, has none."""
    for caption in dict.fromkeys(page.part for page in pages):
        yield caption, [page for page in pages if page.part == caption]


def contents(pages: list[Page], place) -> str:
    """The list of contents; `place(page)` is its address."""
    lines = []
    for caption, inside in parts(pages):
        items = "".join(f'<li><a href="{place(page)}">{escape(page.title)}</a></li>' for page in inside)
        lines.append(f"<li><span>{escape(caption)}</span><ol>{items}</ol></li>" if caption else items)
    return f"<ol>{''.join(lines)}</ol>"


def epub(out: Path, site: Path = SITE, root: Path = ROOT) -> Path:
    """Write the e-book."""
    pages, facts = read(site, root), about(root)
    images = pictures(pages, site)
    targets(pages, facts["site"], lambda page, anchor: f"{page.slug}.xhtml" + (f"#{anchor}" if anchor else ""))
    files: dict[str, bytes] = {"paper.css": STYLE.read_bytes()}
    manifest = ['<item id="css" href="paper.css" media-type="text/css"/>']
    files["title.xhtml"] = XHTML.format(title=escape(facts["title"]), body=title_page(facts)).encode()
    manifest.append('<item id="title" href="title.xhtml" media-type="application/xhtml+xml"/>')
    for page in pages:
        body = written(page.body)
        has = [name for name, mark in (("mathml", "<math"), ("svg", "<svg")) if mark in body]
        more = f' properties="{" ".join(has)}"' if has else ""
        files[f"{page.slug}.xhtml"] = XHTML.format(title=escape(page.title), body=body).encode()
        manifest.append(f'<item id="p-{page.slug}" href="{page.slug}.xhtml" media-type="application/xhtml+xml"{more}/>')
    cover = site / "_static" / "social.png"
    if cover.exists():
        files["images/cover.png"] = cover.read_bytes()
        manifest.append('<item id="cover" href="images/cover.png" media-type="image/png" properties="cover-image"/>')
    for number, (name, path) in enumerate(sorted(images.items())):
        files[name] = path.read_bytes()
        manifest.append(f'<item id="i{number}" href="{name}" media-type="{TYPES[path.suffix]}"/>')
    listed = contents(pages, lambda page: f"{page.slug}.xhtml")
    nav = f'<nav epub:type="toc" id="toc"><h1>Contents</h1>{listed}</nav>'
    files["nav.xhtml"] = XHTML.format(title="Contents", body=nav).encode()
    manifest.append('<item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>')
    spine = "".join(f'<itemref idref="{i}"/>' for i in ["title", "nav", *(f"p-{page.slug}" for page in pages)])
    modified = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    files["book.opf"] = (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        '<package xmlns="http://www.idpf.org/2007/opf" version="3.0" unique-identifier="id" xml:lang="en">'
        '<metadata xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f'<dc:identifier id="id">{escape(facts["site"])}{escape(facts["version"])}</dc:identifier>'
        f"<dc:title>{escape(facts['title'])}</dc:title><dc:creator>{escape(facts['author'])}</dc:creator>"
        f"<dc:language>en</dc:language><dc:rights>{escape(facts['rights'])}</dc:rights>"
        f'<meta property="dcterms:modified">{modified}</meta></metadata>'
        f"<manifest>{''.join(manifest)}</manifest><spine>{spine}</spine></package>"
    ).encode()
    out.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as book:
        book.writestr("mimetype", "application/epub+zip", zipfile.ZIP_STORED)  # first, and as it is
        book.writestr("META-INF/container.xml", CONTAINER)
        for name, data in files.items():
            book.writestr(f"book/{name}", data)
    return out


# ----------------------------------------------------------------------------------------------------------- the PDF


def apart(page: Page) -> None:
    """Give the ids of a page its name: in the PDF all pages are one document."""
    assert page.body is not None

    def new(name: str) -> str:
        return f"{page.slug}--{name}"

    for tag in page.body.find_all(True):
        for key, value in list(tag.attrs.items()):
            if key == "id":
                tag["id"] = new(value)
            elif key in ("href", "xlink:href") and value.startswith("#"):
                tag[key] = "#" + new(value[1:])
            elif key in ("aria-labelledby", "aria-describedby", "for", "headers"):
                words = value.split() if isinstance(value, str) else value
                tag[key] = " ".join(new(word) for word in words)
            elif isinstance(value, str) and "url(#" in value:
                tag[key] = re.sub(r"url\(#([^)]+)\)", lambda found: f"url(#{new(found[1])})", value)


def one_page(site: Path = SITE, root: Path = ROOT) -> tuple[str, list[Page]]:
    """The whole book as one HTML document; links of the class `to` in its contents are those that get a number."""
    pages, facts = read(site, root), about(root)
    for name, path in pictures(pages, site).items():
        for page in pages:
            assert page.body is not None
            for tag in page.body.find_all("img", src=name):
                tag["src"] = path.as_uri()
    targets(pages, facts["site"], lambda page, anchor: f"#{page.slug}--{anchor}" if anchor else f"#{page.slug}")
    bodies = []
    for page in pages:
        assert page.body is not None
        for tag in page.body.find_all("a", href=True):  # these have their names already
            if tag["href"].startswith("#"):
                tag["data-to"] = tag["href"]
        apart(page)
        for tag in page.body.find_all("a", attrs={"data-to": True}):
            tag["href"] = tag.attrs.pop("data-to")
        bodies.append(f'<div class="page" id="{page.slug}">{written(page.body)}</div>')
    listed = contents(pages, lambda page: f"#{page.slug}")
    listed = listed.replace('">', '" class="to">')
    style = STYLE.read_text(encoding="utf-8")
    html = (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(facts["title"])}</title>'
        f"<style>{style}</style></head><body>{title_page(facts)}"
        f'<nav class="contents"><h1>Contents</h1>{listed}</nav>{"".join(bodies)}</body></html>'
    )
    return html, pages


FOOT = '<div style="font:8px sans-serif;width:100%;text-align:center;color:#555"><span class="pageNumber"></span></div>'


def pdf(out: Path, site: Path = SITE, root: Path = ROOT) -> Path:
    """Print the book: once to know where each page lies, once more with these numbers in the contents."""
    from browser import chromium
    from pypdf import PdfReader

    html, pages = one_page(site, root)
    out.parent.mkdir(parents=True, exist_ok=True)
    source = out.with_suffix(".html")
    with chromium() as browser:
        tab = browser.new_page()
        tab.set_default_timeout(0)

        def printed(text: str) -> None:
            source.write_text(text, encoding="utf-8")
            tab.goto(source.as_uri(), wait_until="load")
            tab.pdf(
                path=str(out), format="A4", outline=True, tagged=True, print_background=True,
                display_header_footer=True, header_template="<span></span>", footer_template=FOOT,
                margin={"top": "18mm", "bottom": "18mm", "left": "18mm", "right": "18mm"},
            )  # fmt: skip

        printed(html)
        where = begins(PdfReader(out), pages)
        for page in pages:
            mark = f'href="#{page.slug}" class="to">{escape(page.title)}</a>'
            html = html.replace(mark, mark + f'<span class="at">{where[page.slug]}</span>', 1)
        printed(html)
    source.unlink()
    return out


def begins(reader, pages: list[Page]) -> dict[str, int]:
    """Page of the book -> number of the sheet on which it begins, as the PDF's own names say."""
    named = {name.lstrip("/"): place for name, place in reader.named_destinations.items()}
    missing = [page.slug for page in pages if page.slug not in named]
    if missing:
        raise ValueError(f"the PDF has no place called {missing[0]}")
    return {page.slug: reader.get_destination_page_number(named[page.slug]) + 1 for page in pages}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("kind", choices=("epub", "pdf"))
    parser.add_argument("--site", type=Path, default=SITE, help="the built site (_build/html)")
    parser.add_argument("--out", type=Path, help="the file (_build/ai-engrams.epub or .pdf)")
    given = parser.parse_args(arguments)
    out = (given.out or ROOT / "_build" / f"ai-engrams.{given.kind}").resolve()
    started = time.time()
    try:
        path = {"epub": epub, "pdf": pdf}[given.kind](out, given.site.resolve())
    except RuntimeError as error:  # no browser
        sys.exit(str(error))
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB in {time.time() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
