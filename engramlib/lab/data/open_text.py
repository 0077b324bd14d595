"""Facts and running text that others published: CounterFact, known_1000, WikiText-2. No chapter needs them.

Each is read from `ENGRAM_DATA` (there or in its folder `text`), from `~/.cache/engramlib/text`, or fetched from its
public home.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path

from engramlib.lab.data._folders import folders, writable
from engramlib.lab.data.image_data import DatasetUnavailable

Pair = tuple[str, str]
_ROME = "https://rome.baulab.info/data/dsets/"
_WIKI = "https://raw.githubusercontent.com/pytorch/examples/main/word_language_model/data/wikitext-2/"
HOMES = {
    "counterfact.json": _ROME + "counterfact.json",  # 45 MB; 21,919 facts
    "known_1000.json": _ROME + "known_1000.json",
    "wikitext-2-valid.txt": _WIKI + "valid.txt",
    "wikitext-2-test.txt": _WIKI + "test.txt",
}
SHORTEST = 200  # characters of a paragraph that is kept: headings are not running text


def counterfact() -> list[Pair]:
    """(prompt, " " + true answer) of CounterFact (Meng et al. 2022, MIT). Raises `DatasetUnavailable`.

    Reads the published form (`requested_rewrite`) and the flat one of editing benchmarks (`prompt`, `ground_truth`).
    """
    found = []
    for row in _json("counterfact.json"):
        asked = row.get("requested_rewrite")
        if asked:
            found.append((asked["prompt"].format(asked["subject"]), " " + asked["target_true"]["str"]))
        else:
            found.append((row["prompt"], " " + row["ground_truth"]))
    return found


def known_1000() -> list[Pair]:
    """(prompt, " " + answer) of 1,209 facts that GPT-2 XL knew (Meng et al. 2022, MIT). Raises `DatasetUnavailable`."""
    return [(row["prompt"], " " + row["attribute"].strip()) for row in _json("known_1000.json")]


def wikitext2(split: str = "test") -> list[str]:
    """Paragraphs of WikiText-2 (Merity et al. 2017, CC BY-SA), with their `<unk>`. Raises `DatasetUnavailable`."""
    if split not in ("valid", "test"):
        raise ValueError(f"wikitext2: split must be valid or test, got {split!r}.")
    lines = _find(f"wikitext-2-{split}.txt").read_text(encoding="utf-8").splitlines()
    return [text for line in lines if len(text := line.strip()) >= SHORTEST]


def _json(file: str) -> Sequence[dict]:
    path = _find(file)
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DatasetUnavailable(f"{path} is not JSON ({error}). Delete it, so that it is fetched again.") from error
    if not isinstance(rows, list) or not rows or not isinstance(rows[0], dict):
        raise DatasetUnavailable(f"{path} holds no list of facts. Delete it, so that it is fetched again.")
    return rows


def _find(file: str) -> Path:
    tops = folders(None)
    places = [place for top in tops for place in (top / "text" / file, top / file)]
    for place in places:
        if place.is_file():
            return place
    target = next((top / "text" / file for top in tops if writable(top)), None)
    home = HOMES[file]
    try:
        if target is None:
            raise OSError("no folder there can be written")
        target.parent.mkdir(parents=True, exist_ok=True)
        side = target.with_suffix(".part")
        with urllib.request.urlopen(home, timeout=30) as answer, side.open("wb") as out:
            while block := answer.read(1 << 16):
                out.write(block)
        side.replace(target)  # a broken download is never taken for the data
        return target
    except (OSError, HTTPException) as error:
        tried = " or ".join(map(str, tops))
        raise DatasetUnavailable(
            f"{file} is not in {tried}, and {home} could not be fetched ({error}). Go online, or put the file there, or"
            " set ENGRAM_DATA to the folder that holds it in `text`. Chapters do without."
        ) from error
