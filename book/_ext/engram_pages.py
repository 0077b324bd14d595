"""Sphinx extension of this book: pages that are made from data, the scoreboard and the list of exercises."""

from __future__ import annotations

from html import escape
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from engramlib.lab.records import scoreboard
from engramlib.lab.teaching.chapter import RESULTS
from engramlib.lab.teaching.exercises.notebook import solutions

LOG = logging.getLogger(__name__)
MARKS = {"reproduced": "●", "partly": "◐", "not": "○", "not yet": "–"}
SIDES = {"real": "recorded, the paper's data", "stand_in": "recorded, a stand-in", "laptop": "laptop"}
NBSP = "\N{NO-BREAK SPACE}"
LEVELS = {1: "easy", 2: "medium", 3: "hard"}


class Generated(SphinxDirective):
    """A directive whose content is Markdown that it makes itself: text, or sections that begin with a heading."""

    def markdown(self) -> str:
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        here = nodes.Element()
        text = StringList(self.markdown().splitlines(), source=self.env.doc2path(self.env.docname))
        self.state.nested_parse(text, self.content_offset, here, match_titles=True)
        return here.children

    @property
    def root(self) -> Path:
        return Path(self.env.srcdir)

    def link(self, path: Path) -> str:
        """A chapter's file as a link from this page."""
        folder = (self.root / self.env.docname).parent
        return Path(path).relative_to(folder).as_posix()


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


# --- the scoreboard -----------------------------------------------------------------------------------------------


class Scoreboard(Generated):
    """`overview`: one line an object. `rules`: how a verdict comes about. `details`: every number."""

    required_arguments = 1

    def markdown(self) -> str:
        parts = {"overview": self.overview, "rules": scoreboard.rules, "details": self.details}
        if self.arguments[0] not in parts:
            raise self.error(f"scoreboard: give one of {', '.join(parts)}, not {self.arguments[0]!r}.")
        return parts[self.arguments[0]]()

    def entries(self) -> list[scoreboard.Entry]:
        """Read once a build. A result that a chapter no longer gives is a warning, so the build fails."""
        if not hasattr(self.env, "engram_scoreboard"):
            told = getattr(self.config, "nb_execution_cache_path", "")
            cache = told or Path(self.env.app.outdir).parent / ".jupyter_cache"
            results = scoreboard.executed(self.root, Path(cache))
            found = scoreboard.entries(results)
            for problem in scoreboard.missing(found, results):
                LOG.warning("scoreboard: %s", problem, location=self.get_location())
            self.env.engram_scoreboard = found
        for name in ("scoreboard.json", "published", "runs"):
            self.env.note_dependency(str(scoreboard.runs.data_dir() / name))
        return self.env.engram_scoreboard

    def chapter(self, number: str) -> str:
        path = scoreboard.chapters(self.root).get(number)
        return f"[{number}]({self.link(path)})" if path else f"{number}, planned"

    def overview(self) -> str:
        found = self.entries()
        count = {verdict: sum(e.verdict == verdict for e in found) for verdict in scoreboard.VERDICTS}
        lines = [", ".join(f"**{n}** {verdict}" for verdict, n in count.items()) + f", of {len(found)}.", ""]
        rows = [
            [
                f"[{entry.names}](#scoreboard-{entry.id})",
                entry.title,
                self.chapter(entry.chapter),
                verdict(entry),
                entry.evidence,
            ]
            for entry in found
        ]
        return "\n".join(lines + table(["object", "what it shows", "chapter", "verdict", "judged on"], rows))

    def details(self) -> str:
        lines, group = [], None
        for entry in self.entries():
            if entry.group != group:
                group = entry.group
                lines += [f"## {group}", ""]
            lines += [f"(scoreboard-{entry.id})=", f"### {entry.names}: {entry.title}", ""]
            lines += [f"{verdict(entry, strong=True)} (chapter {self.chapter(entry.chapter)}). {entry.why}", ""]
            lines += [*self.statements(entry), ""]
        return "\n".join(lines)

    @staticmethod
    def statements(entry: scoreboard.Entry) -> list[str]:
        """The numbers of an object; columns without a number are left out."""
        if not entry.statements:
            return []
        sides = [side for side in SIDES if any(side in s.values for s in entry.statements)]
        judged = any(s.holds is not None for s in entry.statements)
        head = ["statement", "published", *(SIDES[side] for side in sides), *(["rule", "holds"] if judged else [])]
        rows = []
        for s in entry.statements:
            if s.published is None and not s.values:
                continue
            numbers = [s.published, *(s.values.get(side) for side in sides)]
            row = [s.what, *(v.show(s.digits).replace(" ± ", f"{NBSP}±{NBSP}") if v else "" for v in numbers)]
            rows.append(row + ([s.test, {True: "yes", False: "no", None: ""}[s.holds]] if judged else []))
        return [*table(head, rows), "", *provenance(entry)]


def verdict(entry: scoreboard.Entry, strong: bool = False) -> str:
    name = f"**{entry.verdict}**" if strong else entry.verdict
    return f"{MARKS[entry.verdict]}{NBSP}{name}"


def provenance(entry: scoreboard.Entry) -> list[str]:
    """Which recorded runs stand in the table."""
    names = dict.fromkeys(v.source for s in entry.statements for v in s.values.values() if v.source)
    said = []
    for name in names:
        facts = scoreboard.runs.load(name).provenance
        data = (facts.get("data") or {}).get("name", "no data")
        said.append(f"`{name}` ({data}, {len(facts['seeds'])} seeds, {facts['started'][:10]})")
    return [f"Recorded: {', '.join(said)}.", ""] if said else []


# --- exercises ----------------------------------------------------------------------------------------------------


class Exercises(Generated):
    """Every exercise of every chapter. `totals`: one line a chapter. `list`: each with a link to its place."""

    required_arguments = 1

    def markdown(self) -> str:
        parts = {"totals": self.totals, "list": self.list}
        if self.arguments[0] not in parts:
            raise self.error(f"exercises: give one of {', '.join(parts)}, not {self.arguments[0]!r}.")
        chapters = scoreboard.chapters(self.root)
        for path in chapters.values():
            self.env.note_dependency(str(path))
        return "\n".join(parts[self.arguments[0]]({n: (path, solutions(path)) for n, path in chapters.items()}))

    def totals(self, found) -> list[str]:
        rows = [
            [f"[{n}](#exercises-{n})", title(path), str(len(these)), hours(these)] for n, (path, these) in found.items()
        ]
        every = [e for _, these in found.values() for e in these]
        rows.append(["**all**", "", str(len(every)), hours(every)])
        return table(["chapter", "title", "exercises", "time"], rows)

    def list(self, found) -> list[str]:
        lines = []
        for n, (path, these) in found.items():
            lines += [f"(exercises-{n})=", f"## {title(path, number=True)}", ""]
            rows = [[self.place(path, e), e.title, stars(e), str(e.minutes)] for e in these]
            lines += [*table(["exercise", "title", "difficulty", "minutes"], rows), ""]
        return lines

    def place(self, path: Path, exercise) -> str:
        """A link to the exercise's heading. Written as HTML: MyST does not know the headings of notebooks."""
        page = path.relative_to(self.root).with_suffix("").as_posix()
        address = self.env.app.builder.get_relative_uri(self.env.docname, page)
        anchor = nodes.make_id(f"Exercise {exercise.number}: {exercise.title}")
        return f'<a class="reference internal" href="{escape(address)}#{anchor}">{exercise.number}</a>'


def title(path: Path, number: bool = False) -> str:
    """A chapter's title, out of its first cell."""
    import nbformat

    heading = nbformat.read(path, as_version=4).cells[0].source.split("\n")[0].removeprefix("# ")
    return heading if number else heading.split(" · ", 1)[-1]


def stars(exercise) -> str:
    """Filled circles, and the word for readers who hear the page."""
    level = f'<span aria-hidden="true">{"●" * exercise.difficulty}{"○" * (3 - exercise.difficulty)}</span>'
    return f"{level} {escape(LEVELS[exercise.difficulty])}"


def hours(exercises) -> str:
    whole, rest = divmod(sum(e.minutes for e in exercises), 60)
    return " ".join(filter(None, (f"{whole} h" if whole else "", f"{rest} min" if rest or not whole else "")))


# --- numbers beside what a cell shows ------------------------------------------------------------------------------


class ResultsAreNotShown:
    """For MyST-NB: the numbers that a cell carries for the scoreboard are not drawn, and not warned about."""

    mime_priority_overrides = ()

    @staticmethod
    def handle_mime(renderer, data, inline):
        return [] if data.mime_type == RESULTS else None


def without_results():
    from myst_nb.core.render import load_mime_renders

    if ResultsAreNotShown not in load_mime_renders():
        load_mime_renders().append(ResultsAreNotShown)


def setup(app):
    without_results()
    app.add_directive("scoreboard", Scoreboard)
    app.add_directive("exercises", Exercises)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
