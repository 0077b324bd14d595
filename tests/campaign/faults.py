"""An exception at every step of every public call: afterwards all is as it was before.

The k-th line that a call executes inside engramlib raises, for every k (a sample that holds every distinct line's first
and last execution, where there are too many): an error of the program, or Ctrl-C. Then the model, the random numbers,
torch's switches and the files are compared with what they were, bit for bit. An edit in place may also be complete: an
interruption after its last step finds it done, but never half of it.

Not injected: the lines that put things back (``finally`` and ``except`` blocks, with all that they call), and the step
between a ``with`` block and its ``__exit__``, where Python itself gives no guarantee.
"""

from __future__ import annotations

import ast
import copy
import functools
import inspect
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

import engramlib as el
from engramlib import _progress, analysis, language
from tests.bad_inputs.text import Causal, Letters
from tests.campaign.state import State, changed, taken

PACKAGE = str(Path(el.__file__).parent)


class Injected(Exception):
    """The program's own error."""


ERRORS: tuple[type[BaseException], ...] = (Injected, KeyboardInterrupt)

# --------------------------------------------------------------------------------------------------------------- lines


@dataclass(frozen=True)
class Lines:
    """Of one file: the lines that put things back, and for the header of each ``with`` the lines of its block."""

    undo: frozenset[int]
    withs: dict[int, frozenset[int]]


@functools.cache
def lines_of(filename: str) -> Lines:
    undo: set[int] = set()
    withs: dict[int, frozenset[int]] = {}
    for node in ast.walk(ast.parse(Path(filename).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Try):
            undo.add(node.lineno)  # the word `try` does nothing, so nothing fails there
            for part in (*node.finalbody, *(s for handler in node.handlers for s in handler.body)):
                undo.update(range(part.lineno, part.end_lineno + 1))
        elif isinstance(node, ast.With):
            block = frozenset(range(node.body[0].lineno, node.end_lineno + 1))
            for line in range(node.lineno, node.body[0].lineno):
                withs[line] = block | withs.get(line, frozenset())
    return Lines(frozenset(undo), withs)


OURS = frozenset(str(path) for path in Path(PACKAGE).rglob("*.py") if "lab" not in path.relative_to(PACKAGE).parts)
Step = tuple[int, str, int]  # which of all executed lines, its file, its number


class Tracer:
    """Follows the lines of the package; ``line`` is called with those that may fail."""

    def __init__(self) -> None:
        self.count = 0
        self.last: dict[FrameType, int] = {}

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self.local if frame.f_code.co_filename in OURS else None

    def local(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "return" and not frame.f_code.co_flags & inspect.CO_GENERATOR:  # a generator only pauses
            self.last.pop(frame, None)
        if event == "line":
            line, before = frame.f_lineno, self.last.get(frame)
            self.last[frame] = line
            self.count += 1
            self.line(frame, line, before)
        return self.local

    def line(self, frame: FrameType, line: int, before: int | None) -> None:
        raise NotImplementedError

    def may_fail(self, frame: FrameType, line: int, before: int | None) -> bool:
        leaving = before is not None and before in lines_of(frame.f_code.co_filename).withs.get(line, ())
        return not leaving and not _undoing(frame)


class Counter(Tracer):
    """Lists the lines that may fail."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Step] = []

    def line(self, frame: FrameType, line: int, before: int | None) -> None:
        if self.may_fail(frame, line, before):
            self.steps.append((self.count, frame.f_code.co_filename, line))


class Injector(Tracer):
    """Raises at one of them: the next execution of its line, where an order (of a set) is not always the same."""

    def __init__(self, step: Step, error: type[BaseException]) -> None:
        super().__init__()
        (self.at, self.name, self.number), self.error, self.hit = step, error, False

    def line(self, frame: FrameType, line: int, before: int | None) -> None:
        if self.count >= self.at and line == self.number and frame.f_code.co_filename == self.name:
            if not self.hit and self.may_fail(frame, line, before):
                self.hit = True
                raise self.error("injected")


def traced(tracer: Tracer, call: Callable[[], Any]) -> BaseException | None:
    """Run the call under the tracer; the error that came out, the injected one or what was made of it."""
    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        call()
    except BaseException as error:
        if isinstance(tracer, Injector) and tracer.hit:
            return error
        raise
    finally:
        sys.settrace(before)
    return None


def _undoing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename in OURS and frame.f_lineno in lines_of(frame.f_code.co_filename).undo:
            return True
        frame = frame.f_back
    return False


# --------------------------------------------------------------------------------------------------------------- calls


class Everything(nn.Module):
    """A model with all that a pass can change: statistics, dropout, attention, a tie, a list and a tensor it keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.drop = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.b, self.c = nn.Linear(8, 8, bias=False), nn.Linear(8, 3)
        self.tied = nn.Linear(8, 8, bias=False)
        self.tied.weight = self.b.weight
        self.register_buffer("seen", torch.zeros(1))
        self.last: Tensor | None = None
        self.all: list[Tensor] = [torch.zeros(2)]
        self.a.weight.requires_grad_(False)
        self.b.register_forward_hook(lambda module, args, output: output * 1)
        self.train()
        self.norm.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.norm(self.a(x)))
        y = self.attention(x[:, None], x[:, None], x[:, None], need_weights=False)[0][:, 0]
        self.seen += 1
        self.last = y
        self.all.append(y)
        return self.c(self.b(y) + torch.randn(len(y), 8).mul(0))


@dataclass
class Scene:
    """What the calls work on; made anew for every call."""

    folder: Path
    model: nn.Module = field(default_factory=Everything)
    causal: nn.Module = field(default_factory=functools.partial(Causal, tied=True))

    def __post_init__(self) -> None:
        self.x, self.y = torch.randn(12, 6), torch.arange(12) % 3
        self.layers = ["a", "b", "c", "q_proj"]
        with torch.no_grad():
            self.by_concept = el.collect_by_concept(self.model, [(self.x, self.y)], lambda b: b[1], layers=self.layers)
        self.target, self.reference = self.by_concept[0], self.by_concept[1] + self.by_concept[2]
        self.engram = el.extract(self.model, self.target, self.reference)
        self.plain = self.engram.select(["a", "c"])
        self.pair = ([self.x[:4]], [self.x[4:]])
        self.path = self.folder / "moments"
        self.target.save(self.path)

    def state(self) -> State:
        files = {f"file {p.name}": p.read_bytes() for p in self.folder.iterdir()}
        bars = {"progress bars": len(_progress._open)}
        return (
            {f"model {k}": v for k, v in taken(self.model).items()}
            | {f"causal {k}": v for k, v in taken(self.causal).items()}
            | files
            | bars
        )


TEXTS, RETAIN = [("q?", " abc"), "xyz"], [("what?", " this"), "more of it", "again", "and more"]
Call = Callable[[Scene], Any]


def _edited(s: Scene) -> None:
    with el.edited(s.model, s.plain):
        s.model.c(torch.ones(1, 8))


def _loss(output: Tensor, batch: Any) -> Tensor:
    return output.square().sum()


def _text(function: Callable[..., Any], *arguments: Any, **options: Any) -> Call:
    return lambda s: function(s.causal, Letters(), *arguments, **options)


CALLS: dict[str, Call] = {
    "collect": lambda s: el.collect(s.model, [s.x[:7], s.x[7:]], rows=lambda b: b[:, 0] < 9),
    "collect, keep, float32": lambda s: el.collect(
        s.model, [s.x], bias="keep", dtype=torch.float32, layers=["a", "norm", "out_proj"]
    ),
    "collect_by_concept": lambda s: el.collect_by_concept(s.model, [(s.x, s.y)], lambda b: b[1]),
    "extract": lambda s: el.extract(s.model, s.target, s.reference, base=s.model),
    "extract, λ = ∞": lambda s: el.extract(s.model, s.target, s.reference, specificity=float("inf")),
    "extract_all": lambda s: el.extract_all(s.model, s.by_concept),
    "extract_all, λ = 2": lambda s: el.extract_all(s.model, s.by_concept, specificity=2),
    "extract_filtered": lambda s: el.extract_filtered(s.model, s.target, s.reference, filter=analysis.threshold()),
    "random_engram": lambda s: el.random_engram(s.model, s.engram),
    "score_criteria": lambda s: el.score_criteria(
        s.model, s.engram.select(["c"]), s.target, s.reference, batches=s.pair, draws=0
    ),
    "ablate": lambda s: el.ablate(s.model, s.plain, 0.5),
    "ablate, in place": lambda s: el.ablate(s.model, s.plain, 0.5, inplace=True),
    "inject, in place": lambda s: el.inject(s.model, s.engram, inplace=True),
    "null_state": lambda s: el.null_state(s.model, s.plain),
    "null_state, in place": lambda s: el.null_state(s.model, s.engram, inplace=True),
    "edited": _edited,
    "sweep": lambda s: el.sweep(s.model, s.engram, [0.5, 1.0, 2.0], lambda m: float(m.c.weight.sum())),
    "Moments.save": lambda s: (s.target + s.reference).save(s.path),
    "Moments.load": lambda s: el.Moments.load(s.path),
    "output_factors": lambda s: analysis.output_factors(s.model, [s.x], layers=["c", "b"]),
    "fisher_block": lambda s: analysis.fisher_block(s.model, [s.x[:3]], "c"),
    "loss_gradient": lambda s: analysis.loss_gradient(s.model, [s.x], _loss, layers=["a", "c"]),
    "forgetting_step": lambda s: analysis.forgetting_step(s.model, s.target, s.reference, None, damping=0.1),
    "language.collect": _text(language.collect, TEXTS),
    "language.answer_logprobs": _text(language.answer_logprobs, TEXTS),
    "language.untie, in place": lambda s: language.untie(s.causal, inplace=True),
    "forget": _text(el.forget, TEXTS, RETAIN),
    "forget, in place": _text(el.forget, TEXTS, RETAIN, inplace=True),
    "forget, a tied output, in place": _text(el.forget, TEXTS, RETAIN, layers=["lm_head", "fc"], inplace=True),
}

# ----------------------------------------------------------------------------------------------------------- injecting


@dataclass
class Report:
    """Of one call: its lines, how many faults were injected, and the places that were not as before."""

    call: str
    steps: int
    injected: int
    unseen: int  # faults after which the call went on: what it was doing was allowed to fail
    seconds: float
    wrong: list[str]


def chosen(steps: list[Step], most: int) -> list[Step]:
    """Every step, or a sample of about ``most``: the first of each distinct line, the last of each, and evenly."""
    if len(steps) <= most:
        return steps
    first = {step[1:]: k for k, step in reversed(list(enumerate(steps)))}
    last = {step[1:]: k for k, step in enumerate(steps)}
    lines = sorted({*first.values(), *last.values()})
    if most < len(lines):
        return [steps[k] for k in lines[:: -(-len(lines) // most)]]
    return [steps[k] for k in sorted({*lines, *range(0, len(steps), max(1, len(steps) // (most - len(lines) + 1)))})]


def _fresh(scene: Scene, file: bytes) -> Scene:
    """The scene as it was made: new copies of what a call may change."""
    for path in scene.folder.iterdir():
        path.unlink()
    scene.path.write_bytes(file)
    torch.manual_seed(0)
    again = copy.copy(scene)
    again.model, again.causal = copy.deepcopy(scene.model), copy.deepcopy(scene.causal)
    return again


def _near(one: Any, other: Any) -> bool:
    """Whether numbers agree but for the last digits: where memory is aligned otherwise, products round otherwise."""
    if not (isinstance(one, tuple) and isinstance(other, tuple) and len(one) == 4 and one[:3] == other[:3]):
        return one == other
    a, b = (torch.frombuffer(bytearray(value[3]), dtype=torch.float32) for value in (one, other))
    return one[0] != "torch.float32" or torch.allclose(a, b, rtol=1e-4, atol=1e-6)


EDITS = ("in place", "Moments.save")  # calls that are meant to change something; all others may change nothing


def inject(name: str, most: int, errors: tuple[type[BaseException], ...] = ERRORS) -> Report:
    """Faults into one of the ``CALLS``."""
    call, start, wrong, injected, unseen = CALLS[name], time.perf_counter(), [], 0, 0
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        made = Scene(Path(temporary))
        file = made.path.read_bytes()
        call(_fresh(made, file))  # once to warm what is cached on the way
        scene, counter = _fresh(made, file), Counter()
        before = scene.state()
        traced(counter, functools.partial(call, scene))
        after = scene.state()
        edits = changed(before, after) if any(word in name for word in EDITS) else []
        if not edits and (touched := changed(before, after)):
            wrong.append(f"without a fault: {', '.join(touched[:4])}")
        scene = _fresh(made, file)
        before = scene.state()
        for number, step in enumerate(chosen(counter.steps, most)):
            error = errors[number % len(errors)]
            injector = Injector(step, error)
            came = traced(injector, functools.partial(call, scene))
            injected += injector.hit
            unseen += injector.hit and came is None
            now = scene.state()
            touched = changed(before, now)
            done = bool(edits) and all(
                place.endswith(": object") or _near(after.get(place), now.get(place)) for place in {*edits, *touched}
            )
            if touched and not done:
                wrong.append(f"{Path(step[1]).name}:{step[2]} {error.__name__}: {', '.join(touched[:4])}")
            if touched:
                scene = _fresh(made, file)
                before = scene.state()
    return Report(name, len(counter.steps), injected, unseen, round(time.perf_counter() - start, 2), wrong)


def main(most: int = 400, names: list[str] | None = None) -> list[Report]:
    reports = []
    for name in names or CALLS:
        report = inject(name, most)
        reports.append(report)
        found = f"{report.injected} faults in {report.steps} steps, {report.unseen} unseen, {len(report.wrong)} wrong"
        print(f"  {name}: {found}, {report.seconds} s", flush=True)
        for line in report.wrong[:12]:
            print("    ", line)
    return reports


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
