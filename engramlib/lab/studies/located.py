"""Which matrices an edit needs, and where a memory is: what chapter 14 does to the models of `trained`.

It reads the maps that `forgetting` records. Nothing is recorded here.
"""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median

import torch
from torch import nn

import engramlib as el
from engramlib import language
from engramlib.lab.metrics import share_taken
from engramlib.lab.records import runs
from engramlib.lab.records.runs import Row
from engramlib.lab.studies.forgetting import Case
from engramlib.lab.unlearning import text as unlearning

KINDS = ("q", "k", "v", "o", "gate", "up", "down")
Map = Mapping[str, float]  # layer -> a number


# ------------------------------------------------------------------------------------------------------------ maps


def kind_of(layer: str) -> str:
    """The kind of a Llama's matrix: "q" for `model.layers.1.self_attn.q_proj`."""
    return layer.rsplit(".", 1)[-1].removesuffix("_proj")


def by_kind(found: Map) -> dict[str, float]:
    """Kind -> the mean over its layers."""
    return {k: fmean(value for layer, value in found.items() if kind_of(layer) == k) for k in KINDS}


def alike(one: Map, other: Map) -> float:
    """Correlation of the logarithms of two maps, over all layers: 1 where they differ by a factor only."""
    both = torch.tensor([[one[n] for n in one], [other[n] for n in one]], dtype=torch.float64).log()
    return float(torch.corrcoef(both)[0, 1])


def in_order(one: Map, other: Map) -> int:
    """Of all pairs of kinds, how many come in the same order in two maps by kind."""
    return sum((one[a] > one[b]) == (other[a] > other[b]) for a, b in itertools.combinations(KINDS, 2))


def factor(one: Map, other: Map) -> float:
    """By how much two maps differ in the median layer: 1.25 where r is a quarter larger or smaller."""
    return math.exp(median(abs(math.log(one[n] / other[n])) for n in one))


def recorded(rows: Iterable[Row], model: str, target: str, cut: float, key: str = "r") -> dict[str, float]:
    """A map out of `<data>-maps`: layer -> `key` (`r`, or `selective`, see `selective`)."""
    found = runs.select(rows, {"study": "maps", "model": model, "target": target, "cut": cut})
    if key == "selective":
        return {row["layer"]: row["share_target"] / row["share_others"] for row in found}
    return {row["layer"]: row[key] for row in found}


def selective(model: nn.Module, engram: el.Engram, plus: el.Moments, minus: el.Moments) -> dict[str, float]:
    """Layer -> how many times as large a share the engram takes of the response to the target as of that to the rest
    (`metrics.share_taken`). 1 = it cannot tell them apart.
    """
    ours, theirs = (share_taken(model, engram, side) for side in (plus, minus))
    return {name: ours[name] / theirs[name] for name in engram}


def random_weights(plus: el.Moments, minus: el.Moments, *, rcond: float = 1e-6) -> dict[str, float]:
    """Layer -> ‖P⁺‖ / √d, the relative norm that random numbers for weights would have there (root mean square)."""
    known: dict[int, float] = {}
    for name in plus:
        if id(plus[name]) not in known:
            P = plus[name] @ torch.linalg.pinv(plus[name] + minus[name], rtol=rcond, hermitian=True)
            known[id(plus[name])] = float(P.norm()) / len(P) ** 0.5
    return {name: known[id(plus[name])] for name in plus}


# ----------------------------------------------------------------------------------------------------------- edits


def look(case: Case, model: nn.Module) -> Row:
    """`forget`, `retain`: mean NLL of an answer's tokens (nats), of half of `forget10` and a quarter of `retain_eval`;
    `exact`, `kept`: the shares of whole answers right.
    """
    found: Row = {}
    for split, every, loss, right in (("forget10", 2, "forget", "exact"), ("retain_eval", 4, "retain", "kept")):
        pairs = case.data.pairs(split)[::every]
        answers = language.answer_logprobs(model, case.tokenizer, pairs, batch_size=80)
        found[loss] = fmean(-float(answer.logprobs.mean()) for answer in answers)
        found[right] = fmean(bool(answer.greedy.all()) for answer in answers)
    return found


def curve(case: Case, engram: el.Engram, price: float, start: float = 1.0, factor: float = 1.6) -> list[Row]:
    """`look` at the full model without α W⁺, for α growing by `factor` until the retained NLL has passed `price`."""
    points: list[Row] = []
    alpha = start
    while not points or (points[-1]["retain"] < price and alpha < 30):
        with el.edited(case.model("full"), -alpha * engram) as edited:
            points.append({"alpha": alpha} | look(case, edited))
        alpha *= factor
    return points


def at_price(points: Sequence[Row], price: float) -> Row:
    """`forget` and `alpha` where the retained NLL is `price`: between the last two points, straight in logarithms."""
    if len(points) < 2 or not points[-2]["retain"] <= price <= points[-1]["retain"]:
        raise ValueError(f"at_price: {price} does not lie between the last two points; begin with a smaller α.")
    a, b = points[-2:]
    t = math.log(price / a["retain"]) / math.log(b["retain"] / a["retain"])
    return {key: math.exp((1 - t) * math.log(a[key]) + t * math.log(b[key])) for key in ("forget", "alpha")}


def priced(case: Case, engram: el.Engram, price: float, start: float = 1.0) -> Row:
    """`at_price` of the `curve`: what an edit forgets, and at which α, where it costs the retained answers `price`."""
    return at_price(curve(case, engram, price, start), price)


def transplant(into: nn.Module, source: nn.Module, part: str, rows: Sequence[int] | None = None) -> nn.Module:
    """A copy of a model with the parameters of another whose names match `part`, or some `rows` of them."""
    donor, model = dict(source.named_parameters()), copy.deepcopy(into)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if re.search(part, name):
                which = slice(None) if rows is None else list(rows)
                weight[which] = donor[name][which]
    return model


def words_of(case: Case, split: str) -> set[int]:
    """The tokens that the questions and answers of a split are made of."""
    texts = [question + answer for question, answer in case.data.pairs(split)]
    return {token for line in case.tokenizer(texts)["input_ids"] for token in line}


# ---------------------------------------------------------------------------------------------------------- shifts


def inputs(case: Case, model: nn.Module, split: str, layers: Iterable[str]) -> dict[str, torch.Tensor]:
    """What each layer reads at the answers' tokens of a split: (tokens × width), in the model's order."""
    found: dict[str, list[torch.Tensor]] = {name: [] for name in layers}
    rows: list[torch.Tensor] = []

    def keep(name: str):
        return lambda module, args: found[name].append(args[0][rows[-1]])

    handles = [model.get_submodule(name).register_forward_pre_hook(keep(name)) for name in found]
    try:
        with torch.no_grad():
            for batch in language.batches(case.tokenizer, case.data.pairs(split), batch_size=80):
                rows.append(language.answer_rows(batch))
                model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    finally:
        for handle in handles:
            handle.remove()
    return {name: torch.cat(parts) for name, parts in found.items()}


def shift(case: Case, edited: nn.Module, split: str, layers: Iterable[str]) -> dict[str, float]:
    """Layer -> ‖X' - X‖ / ‖X‖: how far an edit moves what the layer reads."""
    layers = list(layers)
    before, after = (inputs(case, model, split, layers) for model in (case.model("full"), edited))
    return {name: float((after[name] - X).norm() / X.norm()) for name, X in before.items()}


# ------------------------------------------------------------------------------------------------------- the bill


LLAMAS = {
    "1B": {"L": 16, "d": 2048, "m": 8192, "k": 512, "V": 128256},
    "8B": {"L": 32, "d": 4096, "m": 14336, "k": 1024, "V": 128256},
    "70B": {"L": 80, "d": 8192, "m": 28672, "k": 1024, "V": 128256},
}
_READS = {
    "q": "attention",
    "k": "attention",
    "v": "attention",
    "o": "heads",
    "gate": "mlp",
    "up": "mlp",
    "down": "inner",
}


def moments_bytes(
    shape: Mapping[str, int], number: int = 8, *, half: bool = False, kinds: Sequence[str] = KINDS
) -> int:
    """Bytes of one set of moments of these kinds of matrices, a Σ for each distinct input: d × d, *down*'s m × m.

    `number`: bytes a number; `half`: without what is there twice by symmetry. A second set, Σ⁻, costs the same again.
    """
    widths = [shape["m" if read == "inner" else "d"] for read in {_READS[kind] for kind in kinds}]
    return shape["L"] * number * sum(w * (w + 1) // 2 if half else w * w for w in widths)


def shape_of(config) -> dict[str, int]:
    """A Llama's numbers, from its configuration: L blocks, width d, inner width m, key-value width k, V words."""
    d, heads = config.hidden_size, config.num_attention_heads
    kv = d // heads * config.num_key_value_heads
    return {"L": config.num_hidden_layers, "d": d, "m": config.intermediate_size, "k": kv, "V": config.vocab_size}


def padded_tokens(case: Case, split: str, batch_size: int = 64) -> int:
    """Tokens that a pass over a split reads, padding included: sorted by length, `batch_size` at a time."""
    masks = [batch["attention_mask"] for batch in language.batches(case.tokenizer, case.data.pairs(split))]
    lengths = sorted((int(n) for mask in masks for n in mask.sum(1)), reverse=True)
    return sum(
        len(part) * part[0] for part in (lengths[i : i + batch_size] for i in range(0, len(lengths), batch_size))
    )


def trained_tokens(problem: unlearning.Problem) -> int:
    """Tokens, padding included, that an epoch of a method reads which draws as many retained items as forgotten."""
    total = 0
    for _, forget, retain in problem.draws():
        for pairs, rows in ((problem.forget_pairs, forget), (problem.retain_pairs, retain)):
            total += problem.encode([pairs[i] for i in rows.tolist()])["input_ids"].numel()
    return total
