"""The weekly link check: what counts as dead. The web here is a server of our own, the book a page."""

import json
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import check_links
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text())["sphinx"]["config"]
ALIVE = ["200", "302", "401", "403", "406", "get-only", "200#here"]
DEAD = ["404", "410", "200#nowhere"]


class Web(BaseHTTPRequestHandler):
    """/404 answers 404, and so on; /get-only knows no HEAD."""

    def answer(self):
        code = int(self.path[1:]) if self.path[1:].isdigit() else 200
        if self.path == "/get-only" and self.command == "HEAD":
            code = 501
        body = b"<html><p id='here'>x</p></html>" if self.command == "GET" else b""
        self.send_response(code)
        if code == 302:
            self.send_header("Location", "/200")
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_HEAD = answer

    def log_message(self, *_):
        pass


@pytest.fixture
def web():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Web)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_what_answers_is_told_from_what_does_not(web, tmp_path):
    """Sphinx asks, with the book's settings; a server that refuses programs is not dead."""
    links = " ".join(f"[x]({web}/{path})" for path in [*ALIVE, *DEAD, "ignored"])
    (tmp_path / "index.md").write_text(f"# Page\n\n{links} [x](http://127.0.0.1:9/nobody)\n")
    settings = {key: value for key, value in CONFIG.items() if key.startswith("linkcheck_")}
    settings["linkcheck_ignore"] = [*settings["linkcheck_ignore"], "/ignored$"]
    lines = ["extensions = ['myst_parser']", *(f"{key} = {value!r}" for key, value in settings.items())]
    (tmp_path / "conf.py").write_text("\n".join(lines))
    build = [sys.executable, "-m", "sphinx", "-q", "-b", "linkcheck", tmp_path, tmp_path / "out"]
    subprocess.run(build, capture_output=True)
    found = check_links.dead(tmp_path / "out" / check_links.ANSWERS)
    assert set(found) == {*(f"{web}/{path}" for path in DEAD), "http://127.0.0.1:9/nobody"}
    assert all(problem and pages == ["index.md"] for problem, pages in found.values())


def test_every_page_that_names_a_dead_address_is_told(tmp_path):
    answer = {"status": "broken", "uri": "https://e.org/x", "info": "404 Client Error: Not Found", "lineno": 1}
    lines = [json.dumps(answer | {"filename": name}) for name in ("a.md", "b.md")]
    (tmp_path / "output.json").write_text("\n".join(lines))
    assert check_links.dead(tmp_path / "output.json") == {"https://e.org/x": (answer["info"], ["a.md", "b.md"])}


def test_what_is_not_asked_is_an_exception():
    """No pattern leaves out whole parts of the web that the book cites."""
    cited = re.findall(r"https?://[^\s)>}\"]+", (ROOT / "book" / "references.bib").read_text())
    assert cited
    assert not [address for address in cited for rule in CONFIG["linkcheck_ignore"] if re.search(rule, address)]


def test_the_workflow_runs_the_check_on_a_schedule():
    workflow = yaml.safe_load((ROOT / ".github/workflows/links.yml").read_text())
    assert workflow[True]["schedule"]  # YAML reads the key `on` as true
    steps = [step.get("run") for job in workflow["jobs"].values() for step in job["steps"]]
    assert steps.index("make book") < steps.index("make links")


# Printed before there were such names, and not to be had from their publishers.
WITHOUT_ADDRESS = {"semon1904", "semon1921", "lashley1950"}


def test_works_in_the_bibliography_can_be_found():
    text = (ROOT / "book" / "references.bib").read_text()
    entries = dict(re.findall(r"^@\w+\{([^,]+),(.*?)^\}", text, re.MULTILINE | re.DOTALL))
    assert len(entries) > 50
    bare = {key for key, body in entries.items() if not re.search(r"^\s*(doi|eprint|url)\s*=", body, re.MULTILINE)}
    assert bare == WITHOUT_ADDRESS
