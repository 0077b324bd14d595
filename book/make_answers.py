"""Record the answers of a small Llama before and after it forgets: a data file and a still for `touch-answers.js`.

python book/make_answers.py    half a minute on one core; rewrites answers-data.js, book/stills/answers.html and
                               book/stills/answers.json

The model is chapter 13's, seed 0: it knows two hundred invented authors. Four groups of twenty are forgotten, each
alone, with a setting that chapter 13's rehearsal likes (λ = 3, shared out by norm, α = 7.5). Two questions about each
group are asked of all five models: as trained, and after each edit. Nothing is computed in the browser.
"""

from __future__ import annotations

import json
import math
import sys
from html import escape

import torch
from make_explorable import BLUE, ORANGE, OUT, STILLS, panels, svg, written

import engramlib as el
from engramlib import language
from engramlib.lab import data as datasets
from engramlib.lab.metrics import tofu
from engramlib.lab.studies import trained

GROUPS = (1, 4, 6, 9)  # tenths of the authors
LAM, ALPHA = 3.0, 7.5
PICK = (4, 92)  # of the 160 questions about a group: of its first and of its twelfth author
LABELS = "ABCD"


def edited(model, tokenizer, questions: list, tenth: int):
    """The model without the twenty authors of a tenth; the others are all kept."""
    gone, stay = questions[160 * tenth : 160 * (tenth + 1)], questions[: 160 * tenth] + questions[160 * (tenth + 1) :]
    plus, minus = (language.collect(model, tokenizer, pairs, batch_size=64) for pairs in (gone, stay))
    return el.ablate(model, el.extract(model, plus, minus, specificity=LAM).norm_weighted(), ALPHA)


def record() -> dict:
    """What answers-data.js holds: for every question its tokens, and for each of five models their probabilities, which
    of them are the most probable ones, and what the model says by itself."""
    model, tokenizer = trained.load("full", 0)
    questions = datasets.authors().pairs("full")
    asked = [questions[160 * tenth + k] for tenth in GROUPS for k in PICK]
    models = [model, *(edited(model, tokenizer, questions, tenth) for tenth in GROUPS)]
    rows: list[dict] = []
    for prompt, answer in asked:
        ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
        tokens = [tokenizer.decode([i]) for i in ids]
        rows.append(
            {
                "question": prompt.removeprefix("Question:").strip().removesuffix("Answer:").strip(),
                "answer": answer.strip(),
                "tokens": tokens,
                "p": [],
                "first": [],
                "says": [],
            }
        )
    for network in models:
        found = language.answer_logprobs(network, tokenizer, asked, batch_size=8)
        said = tofu.generate(network, tokenizer, asked)
        for row, one, text in zip(rows, found, said, strict=True):
            row["p"].append([round(math.exp(v), 3) for v in one.logprobs.tolist()][: len(row["tokens"])])
            row["first"].append([bool(v) for v in one.greedy.tolist()][: len(row["tokens"])])
            row["says"].append(text.strip())
    for row in rows:
        assert all(len(p) == len(row["tokens"]) for p in row["p"]), row["question"]
    whole = [
        [sum(bool(a.greedy.all()) for a in language.answer_logprobs(m, tokenizer, questions[160 * t : 160 * t + 160],
                                                                     batch_size=64)) / 160 for t in GROUPS]
        for m in models
    ]  # fmt: skip
    return {"groups": list(LABELS), "rows": rows, "whole": [[round(v, 3) for v in line] for line in whole]}


def still(found: dict) -> str:
    """A question about the group that was forgotten, one about another: each token's probability, before and after."""
    drawn = []
    for number, title in ((0, "group A is forgotten: asked about A"), (2, "group A is forgotten: asked about B")):
        row = found["rows"][number]
        lines = [f'<text x="0" y="12" fill="currentColor">{title}</text>']
        for k, token in enumerate(row["tokens"]):
            y = 24 + 15 * k
            lines.append(f'<text x="0" y="{y + 10}" fill="currentColor">{escape(token.strip() or "·")}</text>')
            for step, (state, colour) in enumerate(((0, BLUE), (1, ORANGE))):
                width = max(1.0, 100 * row["p"][state][k])
                lines.append(f'<rect x="{110 + 112 * step}" y="{y}" width="{width:.0f}" height="11" fill="{colour}"/>')
        foot = 24 + 15 * len(row["tokens"]) + 12
        lines.append(
            f'<text x="110" y="{foot}" fill="currentColor">as trained</text>'
            f'<text x="222" y="{foot}" fill="currentColor">after the edit</text>'
        )
        alt = f"Probability of each token of an answer, as trained and after the edit; {title}."
        drawn.append(svg(330, foot + 8, alt, "".join(lines)))
    return panels(drawn)


def facts(found: dict) -> dict:
    """What the caption says: whole answers, of the group that was forgotten and of the three others."""
    whole = found["whole"]
    own = [whole[1 + k][k] for k in range(len(GROUPS))]
    others = [whole[1 + k][j] for k in range(len(GROUPS)) for j in range(len(GROUPS)) if j != k]
    return {
        "answers_before": sum(whole[0]) / len(GROUPS),
        "answers_left": sum(own) / len(own),
        "answers_kept": sum(others) / len(others),
    }


def main() -> int:
    torch.set_num_threads(1)
    found = record()
    (OUT / "answers-data.js").write_text(
        written("ENGRAM_ANSWERS", found).replace("make_explorable", "make_answers"), "utf-8"
    )
    (STILLS / "answers.html").write_text(still(found), encoding="utf-8")
    (STILLS / "answers.json").write_text(json.dumps(facts(found), indent=1) + "\n", encoding="utf-8")
    print(facts(found))
    for row in found["rows"]:
        print(row["question"], "|", row["answer"], "|", row["says"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
