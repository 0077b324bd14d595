"""What a row of the table comes to."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

from tests.bad_inputs import Raises, Row, Scene, small
from tests.campaign.state import changed, taken


def outcome(row: Row, folder: Path) -> tuple[str, list[str]]:
    """What happened, in words, and what is wrong with it (nothing, if all is well)."""
    scene = Scene((row.model or small)(), folder)
    scene.prepare()
    before, wrong = taken(scene.model), []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result, error = row.call(scene), None
        except Exception as raised:
            result, error = None, raised
    if not row.edits or error is not None:
        wrong += [f"changed: {place}" for place in changed(before, taken(scene.model))]
    if isinstance(row.must, Raises):
        if not isinstance(error, row.must.error):
            wrong.append(f"expected {row.must.error}, got {type(error).__name__}: {error} {result!r:.80}")
        for part in (row.must.culprit, row.must.remedy):
            if error is not None and not re.search(part, str(error), re.DOTALL):
                wrong.append(f"the message does not match {part!r}: {error}")
        return f"{type(error).__name__}: {error}", wrong
    if error is not None:
        return f"{type(error).__name__}: {error}", [f"expected no error ({row.must.words}): {error!r}"]
    said = [str(w.message) for w in caught if w.filename != __file__]
    ours = [w for w in caught if issubclass(w.category, UserWarning) and "engramlib" in w.filename]
    if row.must.warns is None and ours:
        wrong.append(f"warned: {said}")
    if row.must.warns and not any(re.search(row.must.warns, text) for text in said):
        wrong.append(f"no warning matches {row.must.warns!r}: {said}")
    if not row.must.check(result, scene):
        wrong.append(f"not so: {row.must.words}")
    return row.must.words, wrong
