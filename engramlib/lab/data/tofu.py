"""TOFU, a task of fictitious unlearning: 200 invented authors, from a folder or from its public home."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

from engramlib._progress import track
from engramlib.lab.data._folders import folders as search_folders
from engramlib.lab.data._folders import writable
from engramlib.lab.data.image_data import DatasetUnavailable
from engramlib.lab.data.questions import Question, QuestionData, author_splits, read_questions

URL = "https://huggingface.co/datasets/locuslab/TOFU/resolve/main/"
PER_AUTHOR = 20
FILES = {  # SHA-256 of the files that the recorded numbers rest on
    "full.json": "30740b2273ee7c1c4839d27d7fa7fb872fe5a1b8c0aad017a82e2ffeb11bd1f4",
    "forget10_perturbed.json": "8a9bfad51f1f063cf9f6ccdfefd750c974aff979d12b90c6bbfb078f79934708",
    "retain_perturbed.json": "b240b2fea871bb0ed58b4b3c650d172540d177fe49fbf542cfddb43590bfa5e6",
    "real_authors_perturbed.json": "00eaf2e886942563d1d242c5ebf36035c90d768f352b4f2d41cfb3acdf472dda",
    "world_facts_perturbed.json": "92f2f1dd3e2e4a7e835752fa745bc93df090c8b380d1fe39357cd931fe574207",
}
HOLDOUT = "holdout10.json"
BLOCK = 1 << 16  # bytes


def tofu(root: str | Path | None = None, *, authors: int | None = None) -> QuestionData:
    """TOFU: 4,000 questions on 200 fictitious authors, 20 each, 100 on real authors, 117 on world facts.

    Reads the JSON lines of the Hugging Face hub's `locuslab/TOFU` (see `FILES`) from `root`, else from the folder that
    the environment variable `ENGRAM_DATA` names, else from `~/.cache/engramlib`; there directly or in a folder `tofu`.
    Downloads what is missing (2.5 MB) into the first of these that can be written.

    The author of a question is its row in `full.json` divided by 20. Splits: see `author_splits` (`rehearsal10` is
    authors 160 to 179), and
    - `retain_eval`: TOFU's own 400 (authors 0 to 19), less any of `forget10` and `rehearsal10`;
    - `real_authors` and `world_facts`: short answers, three wrong ones, no paraphrases;
    - `holdout10`: from `holdout10.json`, only where the folder or the hub has that file.
    `authors`: fewer of them, an even number from 20 on: the first half of that many, whom `retain_eval` is about, and
    the last, who are to be forgotten. They are numbered anew, the splits are made of them, and `retain_eval` keeps as
    many questions as `forget10` has. The wrong answers for `forget10` stay TOFU's.
    TOFU holds paraphrases and five wrong answers for `forget10` and `retain_eval` alone: for all other questions,
    `rehearsal10` among them, they are empty. There is no corpus.

    Raises `DatasetUnavailable` where files are missing and cannot be downloaded, or do not belong together, and
    `ValueError` for another number of authors. Source: Maini et al. 2024 (arXiv:2401.06121), MIT licence.
    """
    if authors is not None and (isinstance(authors, bool) or not isinstance(authors, int) or authors < 20):
        raise ValueError(f"tofu: authors must be an even number from 20 on, or None for all; got {authors!r}.")
    folder = _find(root)
    try:
        data = _assemble(folder)
    except (ValueError, OSError) as error:
        raise DatasetUnavailable(
            f"TOFU in {folder} cannot be read: {error} Delete the file, so that it is fetched again."
        ) from error
    return data if authors is None else _fewer(data, authors)


def _fewer(data: QuestionData, count: int) -> QuestionData:
    """The first and the last authors, `count` together, numbered from 0."""
    there = data.authors("full")
    if count % 2 or count > len(there):
        raise ValueError(f"tofu: authors must be an even number from 20 to {len(there)}, got {count}.")
    number = {author: i for i, author in enumerate((*there[: count // 2], *there[-count // 2 :]))}
    full = [_numbered(q, number[q.author]) for q in data["full"] if q.author in number]
    splits = author_splits(full, count)
    taken = {q.author for name in ("forget10", "rehearsal10") for q in splits[name]}
    asked = [q for q in full if q.perturbed_answers and q.author not in taken]
    splits["retain_eval"] = tuple(asked[: len(splits["forget10"])])
    splits |= {name: data[name] for name in ("real_authors", "world_facts", "holdout10") if name in data}
    return QuestionData(f"{data.name}, {count} authors", splits)


def _assemble(folder: Path) -> QuestionData:
    rows = read_questions(folder / "full.json")
    n, rest = divmod(len(rows), PER_AUTHOR)
    if rest or n < 10:
        raise ValueError(f"full.json has {len(rows)} questions, not {PER_AUTHOR} for each of at least 10 authors.")
    # One question is asked of two authors in the same words; only with its answer it is one row.
    author = {(q.question, q.answer): row // PER_AUTHOR for row, q in enumerate(rows)}
    evaluated = {
        file: [_of_author(q, author, file) for q in read_questions(folder / file)]
        for file in ("forget10_perturbed.json", "retain_perturbed.json")
    }
    rich = {(q.question, q.answer): q for questions in evaluated.values() for q in questions}
    full = [rich.get((q.question, q.answer)) or _numbered(q, row // PER_AUTHOR) for row, q in enumerate(rows)]
    splits = author_splits(full, n)
    bare = sum(not q.perturbed_answers for q in splits["forget10"])
    if bare:
        raise ValueError(f"forget10_perturbed.json lacks {bare} of the {len(splits['forget10'])} questions.")
    taken = {q.author for name in ("forget10", "rehearsal10") for q in splits[name]}
    splits["retain_eval"] = tuple(q for q in evaluated["retain_perturbed.json"] if q.author not in taken)
    if (folder / HOLDOUT).is_file():
        holdout = read_questions(folder / HOLDOUT)
        known = sum((q.question, q.answer) in author for q in holdout)
        if known:
            raise ValueError(f"{HOLDOUT} has {known} questions of full.json; it must have none.")
        splits["holdout10"] = tuple(_numbered(q, n + row // PER_AUTHOR) for row, q in enumerate(holdout))
    for name in ("real_authors", "world_facts"):
        splits[name] = read_questions(folder / f"{name}_perturbed.json")
    return QuestionData("TOFU", splits)


def _of_author(question: Question, author: dict[tuple[str, str], int], file: str) -> Question:
    key = question.question, question.answer
    if key not in author:
        raise ValueError(f"{file} asks {question.question!r}, which full.json does not ask with that answer.")
    return _numbered(question, author[key])


def _numbered(q: Question, author: int) -> Question:
    texts = q.question, q.answer, q.paraphrased_question, q.paraphrased_answer
    return Question(*texts, q.perturbed_answers, author)


# ----------------------------------------------------------------------------------------------- folders and files


def _find(root: str | Path | None) -> Path:
    """A folder with all files; where there is none, one that they were downloaded to."""
    tops = search_folders(root)
    places = [place for top in tops for place in (top / "tofu", top)]
    missing = {place: [file for file in FILES if not (place / file).is_file()] for place in places}
    complete = [place for place in places if not missing[place]]
    if complete:
        return complete[0]
    begun = [place for place in places if len(missing[place]) < len(FILES)]
    target = next((place for place in (*begun, *(top / "tofu" for top in tops)) if writable(place)), None)
    tried = " and ".join(map(str, tops))
    where = f"TOFU ({', '.join(FILES)}) is not complete in {tried}"
    if begun:
        where += f" ({begun[0]} lacks {', '.join(missing[begun[0]])})"
    if target is None:
        raise DatasetUnavailable(f"{where}, and no folder there can be written. Set ENGRAM_DATA to one that can.")
    try:
        target.mkdir(parents=True, exist_ok=True)
        for file in missing.get(target, FILES):
            _download(file, target)
        _download(HOLDOUT, target, optional=True)
    except (OSError, HTTPException) as error:  # URLError and timeouts are OSErrors
        raise DatasetUnavailable(
            f"{where}, and the download from {URL} failed ({error}). Go online and try again, or put the files into "
            f"{target}, or set ENGRAM_DATA to the folder that holds them in `tofu`. The chapters run without them: on "
            "generated authors."
        ) from error
    return target


def _download(file: str, target: Path, optional: bool = False) -> None:
    """Fetch to a side file first, so that a broken download is never taken for the data."""
    part = target / f"{file}.part"
    try:
        with urllib.request.urlopen(URL + file, timeout=30) as answer:
            size = int(answer.headers.get("Content-Length") or 0)
            with part.open("wb") as out:
                for block in track(_blocks(answer), desc=f"downloading {file}", total=-(-size // BLOCK) or None):
                    out.write(block)
        got = part.stat().st_size
        if size and got != size:
            raise OSError(f"{file}: {got:,} of {size:,} bytes came")
        if file in FILES and hashlib.sha256(part.read_bytes()).hexdigest() != FILES[file]:
            warnings.warn(
                f"TOFU: {file} at {URL} is not the file that the recorded numbers rest on: yours may differ.",
                stacklevel=4,
            )
        part.replace(target / file)
    except urllib.error.HTTPError:
        if not optional:
            raise
    finally:
        part.unlink(missing_ok=True)


def _blocks(answer) -> Iterator[bytes]:
    while block := answer.read(BLOCK):
        yield block
