"""engramlib: find the part of a network's weights that carries one memory, take it out, put it back.

    model + batches --collect--> Moments --extract--> Engram --ablate / inject--> model'

The book that goes with it derives, runs and doubts every step; each function says which chapter teaches it.
"""

from engramlib import analysis, discover, distributed, language, spectral
from engramlib.analysis import extract_filtered, random_engram, score_criteria
from engramlib.collecting import collect, collect_by_concept
from engramlib.compensated import erase
from engramlib.edit import ablate, edited, inject, null_state, sweep
from engramlib.engram import Engram
from engramlib.estimator import extract, extract_all
from engramlib.language import forget
from engramlib.moments import Moments
from engramlib.online import OnlineMoments
from engramlib.protection import projections, protected

__version__ = "0.2.0"

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
    # layer by layer, each on what it really reads
    "erase",
    # while it learns
    "OnlineMoments",
    "projections",
    "protected",
    # language models: text in
    "forget",
    "language",
    # concepts without labels
    "discover",
    # many processes
    "distributed",
    # is it a memory?
    "score_criteria",
    "random_engram",
    # what is behind it
    "analysis",
    "spectral",
]
