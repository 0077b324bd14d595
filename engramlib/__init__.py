"""engramlib: find the part of a network's weights that carries one memory, take it out, put it back.

    model + batches --collect--> Moments --extract--> Engram --ablate / inject--> model'

The book that goes with it derives, runs and doubts every step; each function says which chapter teaches it.
"""

import importlib
from typing import TYPE_CHECKING

from engramlib import spectral
from engramlib.collecting import collect, collect_by_concept
from engramlib.edit import ablate, edited, inject, null_state, sweep
from engramlib.engram import Engram
from engramlib.estimator import extract, extract_all
from engramlib.moments import Moments

if TYPE_CHECKING:
    from engramlib import analysis, language
    from engramlib.analysis import extract_filtered, random_engram, score_criteria
    from engramlib.language import forget
else:
    # Half of what there is to import, and most programs want one half: these come when they are first asked for.
    _LATER = {"analysis": "analysis", "language": "language", "forget": "language"}
    _LATER |= dict.fromkeys(("extract_filtered", "random_engram", "score_criteria"), "analysis")

    def __getattr__(name: str) -> object:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = importlib.import_module(f"{__name__}.{_LATER[name]}")
        return globals().setdefault(name, module if name == _LATER[name] else getattr(module, name))

    def __dir__() -> list[str]:
        return sorted({*globals(), *_LATER})


__version__ = "0.1.0"

__all__ = [
    # what a layer saw
    "Moments",
    "collect",
    "collect_by_concept",
    # the memory in the weights
    "Engram",
    "extract",
    "extract_all",
    "extract_filtered",
    # taking it out, putting it in
    "ablate",
    "inject",
    "null_state",
    "edited",
    "sweep",
    # language models: text in
    "forget",
    "language",
    # is it a memory?
    "score_criteria",
    "random_engram",
    # what is behind it
    "analysis",
    "spectral",
]
