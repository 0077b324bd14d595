"""The built site as the tests meet it: which pages, a server like GitHub Pages, a tab that reaches nothing else."""

from __future__ import annotations

import json
import os
import sys
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from urllib.parse import urlsplit

import matplotlib
import yaml
from visit import DESKTOP

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "book"))

from build import toc_files  # noqa: E402

SITE = Path(os.environ.get("ENGRAM_SITE", ""))

CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text())
BASE = urlsplit(CONFIG["html"]["baseurl"]).path
FILES = toc_files(ROOT)
PAGES = [str(path.relative_to(ROOT).with_suffix(".html")) for path in FILES]
CHAPTERS = [page for page, path in zip(PAGES, FILES, strict=True) if path.suffix == ".ipynb"]

# Fonts of the tests' own, which come with matplotlib, so that a page has the same lines on every machine.
FONTS = Path(matplotlib.get_data_path()) / "fonts/ttf"
PINNED = f"""
@font-face {{ font-family: pinned; src: url("{BASE}pinned/DejaVuSans.ttf") }}
@font-face {{ font-family: pinned-code; src: url("{BASE}pinned/DejaVuSansMono.ttf") }}
* {{ font-family: pinned !important }}
:is(pre, code, kbd, samp), :is(pre, code, kbd, samp) * {{ font-family: pinned-code !important }}
"""
PIN = f"""(() => {{ const sheet = new CSSStyleSheet(); sheet.replaceSync({json.dumps(PINNED)});
  document.adoptedStyleSheets = [sheet]; }})()"""


class Pages(SimpleHTTPRequestHandler):
    """GitHub Pages in small: the site under BASE, 404.html for everything that is not there."""

    protocol_version = "HTTP/1.1"

    def translate_path(self, path):
        if path.startswith(BASE + "pinned/"):
            return str(FONTS / Path(path).name)
        inside = path.startswith(BASE)
        return super().translate_path("/" + path.removeprefix(BASE) if inside else "/outside-of-the-site")

    def send_error(self, code, message=None, explain=None):
        if code != 404:
            return super().send_error(code, message, explain)
        body = (SITE / "404.html").read_bytes()
        self.send_response(404)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Tab:
    """One page of a browser that reaches this site and nothing else, and remembers what went wrong."""

    def __init__(self, browser, site, *, viewport=DESKTOP, theme="light", **options):
        self.site, self.errors, self.failed, self.outside = site, [], [], []
        self.context = browser.new_context(viewport=viewport, color_scheme=theme, **options)
        self.context.route("**/*", self._route)
        self.context.add_init_script(PIN)
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("requestfailed", lambda r: self.failed.append(f"{r.url}: {r.failure}"))
        self.page.on("response", lambda r: self.failed.append(f"{r.url}: {r.status}") if r.status >= 400 else None)

    def _route(self, route):
        url = route.request.url
        if url.startswith((self.site.split(BASE)[0], "data:", "blob:")):
            route.continue_()
        else:
            self.outside.append(url)
            route.abort()

    def open(self, name: str, *, ready: bool = True):
        """Go to a page of the site and wait for fonts and formulas."""
        response = self.page.goto(self.site + name)
        if ready:
            self.page.evaluate("() => window.MathJax?.startup?.promise")
            self.page.evaluate("() => document.fonts.ready.then(() => null)")
        return response

    def size(self, viewport) -> None:
        """Resize the window. Chromium may still lay out for the old size when its own call returns."""
        self.page.set_viewport_size(viewport)
        self.page.wait_for_function("(width) => innerWidth === width", arg=viewport["width"])
        self.settle()

    def settle(self) -> None:
        """Let the page lay out and answer its new sizes."""
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def theme(self, name: str) -> None:
        """What the theme's own button does, without the way there."""
        self.page.evaluate("n => { document.documentElement.dataset.theme = n; }", name)

    def close(self) -> None:
        self.context.close()


def pretty(found) -> str:
    """For messages: one finding a line."""
    return "\n" + "\n".join(f if isinstance(f, str) else json.dumps(f, ensure_ascii=False)[:300] for f in found)
