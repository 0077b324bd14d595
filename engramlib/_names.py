"""Choosing layers by name, the way PEFT does: a list of suffixes, or one regular expression."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def match_names(names: Sequence[str], layers: str | Iterable[str] | None) -> list[str]:
    """The ``names`` that ``layers`` chooses, in their own order.

    A string is a regular expression that must match a whole name. A list holds suffixes: ``"fc1"`` chooses ``fc1`` and
    ``block.0.fc1`` but not ``myfc1``. ``None`` chooses all.

    Raises:
        ValueError: an expression or a suffix that matches nothing, or an expression that cannot be read.
    """
    if layers is None:
        return list(names)
    listing = ", ".join(repr(name) for name in names[:20]) + (", ..." if len(names) > 20 else "")
    if isinstance(layers, str):
        try:
            chosen = [name for name in names if re.fullmatch(layers, name)]
        except re.error as error:
            raise ValueError(f"layers={layers!r} is not a regular expression: {error}") from error
        if not chosen:
            raise ValueError(f"layers={layers!r} matches none of the layers {listing}")
        return chosen
    if not hasattr(layers, "__iter__"):
        raise TypeError(f"layers: expected names or a regular expression, got {layers!r}")
    suffixes = list(layers)
    if not suffixes:
        raise ValueError("layers is an empty list; leave it out to choose every supported layer")
    for suffix in suffixes:
        if not isinstance(suffix, str):
            raise TypeError(f"layers: expected names, got {suffix!r}")
        if not any(_ends_with(name, suffix) for name in names):
            raise ValueError(f"layers: {suffix!r} matches none of the layers {listing}")
    return [name for name in names if any(_ends_with(name, suffix) for suffix in suffixes)]


def _ends_with(name: str, suffix: str) -> bool:
    return name == suffix or name.endswith("." + suffix)
