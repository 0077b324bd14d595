"""Read the exercises out of a chapter, so that tests can run every stub and every solution."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass
from pathlib import Path

_HEADING = re.compile(r"^### Exercise (\d\d\.\d+): (.+)$", re.MULTILINE)
_DIFFICULTY = re.compile(r"^\*Difficulty (●○○|●●○|●●●) · (\d+) minutes?( · [^*]+)?\*$", re.MULTILINE)
_DETAILS = re.compile(r"<details[^>]*>\s*<summary>\s*(Hint|Solution)\s*</summary>(.*?)</details>", re.DOTALL)
_CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)

# All that a stub or a solution may rely on.
PRELUDE = "import torch\nimport engramlib as el\nfrom engramlib.lab.teaching import exercises\n"


@dataclass(frozen=True)
class NotebookExercise:
    """One exercise as it stands in a notebook. `answer` = the name that the stub hands to `check`.

    `difficulty`: 1 (●○○) to 3 (●●●). `minutes`: how long it should take.
    """

    number: str
    title: str
    difficulty: int
    minutes: int
    answer: str
    stub: str
    solution: str

    def stub_answer(self) -> object:
        """What the stub, run as it stands, hands to `check`. Runs the notebook's code."""
        return self._run(self.stub)

    def solution_answer(self) -> object:
        """What the solution defines, run on its own. Runs the notebook's code."""
        return self._run(self.solution)

    def _run(self, source: str) -> object:
        names: dict[str, object] = {"__name__": f"exercise_{self.number}"}
        exec(compile(PRELUDE + source, f"<exercise {self.number}>", "exec"), names)
        if self.answer not in names:
            raise NameError(
                f"exercise {self.number}: the code does not define {self.answer!r}, which check() is given."
            )
        return names[self.answer]


def solutions(notebook_path: str | Path) -> list[NotebookExercise]:
    """The exercises of a notebook, in order.

    Each is a heading `### Exercise NN.k: title` with a difficulty line, a code cell tagged `exercise` that ends in
    `exercises.check("NN.k", name)`, and folded `Hint` and `Solution` blocks. Raises `ValueError`, naming notebook and
    exercise, where one of these is missing.
    """
    path = Path(notebook_path)
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    found: list[NotebookExercise] = []
    current: list[dict] = []
    for cell in [*cells, None]:
        source = "" if cell is None else "".join(cell["source"])
        starts = cell is not None and cell["cell_type"] == "markdown" and _HEADING.search(source)
        ends = cell is None or (
            cell["cell_type"] == "markdown" and re.match(r"#{1,3} ", source.lstrip()) and not starts
        )
        if (starts or ends) and current:
            found.append(_parse(path.name, current))
            current = []
        if starts or (current and not ends):
            current.append(cell)
    numbers = [e.number for e in found]
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"{path.name}: an exercise number is used twice: {numbers}.")
    return found


def _parse(notebook: str, cells: list[dict]) -> NotebookExercise:
    prose = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    heading = _HEADING.search(prose)
    number, title = heading[1], heading[2].strip()

    def need(ok: object, what: str) -> None:
        if not ok:
            raise ValueError(f"{notebook}, exercise {number}: {what}.")

    need(len(_HEADING.findall(prose)) == 1, "two exercises share one markdown cell")
    level = _DIFFICULTY.search(prose)
    need(level, "no line like '*Difficulty ●○○ · 5 minutes*'")
    stubs = ["".join(c["source"]) for c in cells if "exercise" in c.get("metadata", {}).get("tags", [])]
    need(len(stubs) == 1, f"needs one code cell tagged 'exercise', has {len(stubs)}")
    folded = {kind: text for kind, text in _DETAILS.findall(prose)}
    need(folded.get("Hint", "").strip(), "no folded Hint")
    need("Solution" in folded, "no folded Solution")
    code = _CODE.findall(folded["Solution"])
    need(len(code) == 1, f"the Solution needs one ```python block, has {len(code)}")
    asked, answer = _checked(stubs[0])
    need(answer, 'the stub does not call exercises.check("NN.k", name)')
    need(asked == number, f"the stub checks exercise {asked}")
    return NotebookExercise(number, title, level[1].count("●"), int(level[2]), answer, stubs[0], code[0])


def _checked(stub: str) -> tuple[str | None, str | None]:
    """The number and the name in `exercises.check("NN.k", name)`."""
    for node in ast.walk(ast.parse(stub)):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", None) == "check" and len(node.args) == 2:
            number, answer = node.args
            if isinstance(number, ast.Constant) and isinstance(answer, ast.Name):
                return number.value, answer.id
    return None, None
