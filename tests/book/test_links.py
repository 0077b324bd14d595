"""The weekly link check: what is on its list, and what counts as dead. The web here is a server of our own."""

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import check_links
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


class Web(BaseHTTPRequestHandler):
    """/404 answers 404, and so on; /get-only knows no HEAD; /flaky fails twice."""

    asked: list[str] = []

    def answer(self):
        self.asked.append(f"{self.command} {self.path}")
        code = int(self.path[1:]) if self.path[1:].isdigit() else 200
        if self.path == "/get-only" and self.command == "HEAD":
            code = 501
        if self.path == "/flaky" and sum("flaky" in line for line in self.asked) <= 2:
            code = 500
        self.send_response(code)
        if code == 302:
            self.send_header("Location", "/200")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD = answer

    def log_message(self, *_):
        pass


@pytest.fixture
def web():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Web)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Web.asked.clear()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize("path", ["/200", "/302", "/403", "/429", "/get-only", "/flaky"])
def test_addresses_that_answer(web, path):
    assert check_links.ask(web + path, pause=0) is None


@pytest.mark.parametrize(("path", "why"), [("/404", "404"), ("/410", "410"), ("/500", "500")])
def test_addresses_that_are_dead(web, path, why):
    assert why in check_links.ask(web + path, pause=0)


def test_a_clear_no_is_not_asked_again_and_a_broken_server_is(web):
    check_links.ask(web + "/404", pause=0)
    assert Web.asked == ["HEAD /404", "GET /404"]
    Web.asked.clear()
    check_links.ask(web + "/500", pause=0, tries=2)
    assert len(Web.asked) == 4


def test_no_server_at_all():
    assert check_links.ask("http://127.0.0.1:9/x", pause=0, tries=1)


def test_the_list_comes_from_the_pages(tmp_path, web):
    (tmp_path / "book").mkdir()
    (tmp_path / "a.html").write_text(f'<a href="{web}/404#x">x</a> <a href="b.html">in</a> <a href="mailto:a@b">m</a>')
    (tmp_path / "book" / "b.html").write_text(f'<a href="{web}/404">x</a> <a href="{web}/200">x</a>')
    found = check_links.collect(tmp_path)
    assert found == {f"{web}/200": ["book/b.html"], f"{web}/404": ["a.html", "book/b.html"]}
    assert set(check_links.check(found, [], pause=0)) == {f"{web}/404"}
    assert check_links.check(found, [re.compile("/404$")], pause=0) == {}


def test_every_exception_has_a_reason(tmp_path):
    assert check_links.read_ignored(check_links.IGNORED)
    path = tmp_path / "ignored.yml"
    path.write_text("'x': ''")
    with pytest.raises(ValueError, match="say why"):
        check_links.read_ignored(path)


def test_the_workflow_runs_the_check_on_a_schedule():
    workflow = yaml.safe_load((ROOT / ".github/workflows/links.yml").read_text())
    assert workflow[True]["schedule"]  # YAML reads the key `on` as true
    steps = [step.get("run") for job in workflow["jobs"].values() for step in job["steps"]]
    assert steps.index("make book") < steps.index(".venv/bin/python book/check_links.py")


# Printed before there were such names, and not to be had from their publishers.
WITHOUT_ADDRESS = {"semon1904", "semon1921", "lashley1950"}


def test_works_in_the_bibliography_can_be_found():
    text = (ROOT / "book" / "references.bib").read_text()
    entries = dict(re.findall(r"^@\w+\{([^,]+),(.*?)^\}", text, re.MULTILINE | re.DOTALL))
    assert len(entries) > 50
    bare = {key for key, body in entries.items() if not re.search(r"^\s*(doi|eprint|url)\s*=", body, re.MULTILINE)}
    assert bare == WITHOUT_ADDRESS
