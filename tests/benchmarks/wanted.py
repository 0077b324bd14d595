"""What was wanted, what is reached, and where the floor is: one table, every number of it from the record."""
# ruff: noqa: E501, sentences of a table

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Parts = dict[str, Any]

# Llama 6 × 512, one block without its last product: the width of its three Σ, and the rows of W that read each.
WIDTH, HEIGHTS = 512, (768, 512, 2816)
TOKENS = 256 * 16  # of all concepts
# ResNet-18's first stage: four Σ, and the rows of W that read each.
STAGE = {"sigmas": 4, "width": 9 * 64, "rows": 64}


def lines(parts: Parts) -> list[list[str]]:
    """Step, wanted, reached, met, floor, why: of what there is in the record."""
    rows = [part for make in ROWS for part in make(parts)]
    return [
        [step, wanted, reached, "yes" if met else "no", floor, why] for step, wanted, reached, met, floor, why in rows
    ]


Row = tuple[str, str, str, bool, str, str]


def _last(parts: Parts, stem: str) -> tuple[dict[str, Any], str] | tuple[None, str]:
    """The newest part of this name, and its number of threads in words."""
    keys = [key for key in parts if key.startswith(f"{stem}/")]
    if not keys:
        return None, ""
    count = keys[-1].rpartition("/")[2]
    return parts[keys[-1]], f"{count} thread" + "s" * (count != "1")


def _rates(parts: Parts, model: str, like: str) -> dict[str, Any] | None:
    """The roofline of a model with as many threads."""
    return parts.get(f"roofline/{model}/{like.split()[0]}") if like else None


def _solve(parts: Parts) -> list[Row]:
    part, threads = _last(parts, "steps/llama")
    if part is None:
        return []
    found = []
    for n, wanted in ((10, 8.0), (100, 30.0)):
        mine = next((r for r in part["peer"]["rows"] if r["ours"] == f"extract {n} concepts"), None)
        if mine is None:
            continue
        floor, why = "–", ""
        if roof := _rates(parts, "llama", threads):
            least = solving(n, roof["rates"])
            floor = f"{mine['seconds'] / least:.1f} ×"
            need = mine["seconds"] / wanted
            why = (
                f"{wanted:g} × would be {need:.2g} s; the arithmetic of {n} engrams takes {least:.2g} s at the machine's rate, their"
                f" last product with W alone {last_product(n, roof['rates']):.2g} s"
            )
        reached = f"{mine['ratio']:.1f} × the authors' speed, {threads}"
        found.append(
            (f"Solve, {n} concepts, Llama 6 × 512", f"≥ {wanted:g} ×", reached, mine["ratio"] >= wanted, floor, why)
        )
    return found


def columns(n: int) -> int:
    return TOKENS // n


def is_few(n: int) -> bool:
    """Whether a concept has so few columns that products are made with those."""
    return columns(n) <= WIDTH // 8


def last_product(n: int, rates: dict[str, float]) -> float:
    """Seconds: W times what is one concept's, in float32, and W⁺ written."""
    wide = columns(n) if is_few(n) else WIDTH
    return n * sum(HEIGHTS) * WIDTH * max(2 * wide / rates["float32"], 4 / rates["bytes"])


def solving(n: int, rates: dict[str, float]) -> float:
    """Seconds that n engrams of the block take at least: two factorisations of each Σ, and the products."""
    d, r, high = WIDTH, columns(n), sum(HEIGHTS)
    operations = len(HEIGHTS) * 2 * d**3 / 3
    if is_few(n):
        operations += n * len(HEIGHTS) * 2 * r * d**2
        return operations / rates["float64"] + n * 2 * high * r * d / rates["float32"] + last_product(n, rates)
    return (operations + n * len(HEIGHTS) * 2 * d**3) / rates["float64"] + last_product(n, rates)


def _collect(parts: Parts) -> list[Row]:
    found = []
    for model, title, wanted in (("llama", "Llama 6 × 512", 1.55), ("smollm2", "SmolLM2-135M's shape", 1.6)):
        part, threads = _last(parts, f"steps/{model}")
        if part is None:
            continue
        ratio = next(r["ratio"] for r in part["rows"] if (r["step"], r["beside"]) == ("collect", "forward"))
        floor, why = "–", "as above; its operations are not counted"
        if roof := _rates(parts, model, threads):
            work = next(r for r in roof["rows"] if r["step"] == "collect")
            floor = f"{1 + work['Gflop float64'] / work['Gflop float32']:.2f} ×"
            why = "floor: the operations of half of XXᵀ beside those of the pass, both in float32, and nothing read, checked or added"
        found.append(
            (
                f"Collect, {title}",
                f"≤ {wanted:g} × a forward pass",
                f"{ratio:.2f} ×, {threads}",
                ratio <= wanted,
                floor,
                why,
            )
        )
    return found


def _bytes(parts: Parts) -> list[Row]:
    found = parts.get("reach/concepts")
    if not found:
        return []
    one, most = found["MB of one"], found["MB"]
    return [
        (
            "Bytes of a concept, SmolLM2-135M's shape",
            "≤ 250 MB",
            f"{one['float32']:.0f} MB with sums in float32, {one['float64']:.0f} MB by default",
            one["float32"] <= 250,
            "–",
            "half of Σ is kept; float64 is the default",
        ),
        (
            f"{found['concepts']} concepts, SmolLM2-135M's shape",
            "≤ 6,000 MB",
            f"{most:,} MB at the peak, sums in float32",
            most <= 6000,
            f"{found['concepts'] * one['float32']:,.0f} MB",
            "floor: the sums themselves",
        ),
    ]


def _conv(parts: Parts) -> list[Row]:
    part, threads = _last(parts, "conv")
    if part is None:
        return []
    speed, gap = [r["speed-up"]["ratio"] for r in part], max(r["gap"] for r in part)
    found = [
        (
            "Collect, Conv2d",
            "≥ 4 × unfolding in float64, exact to 1e-5",
            f"{min(speed):.2g} to {max(speed):.2g} ×, exact to {gap:.0e}, {threads}",
            min(speed) >= 4 and gap <= 1e-5,
            "–",
            "correlations need 13 products where patches need 45; few channels, large strides and small images have too little to share",
        )
    ]
    if weighed := parts.get("memory/conv"):
        shares = [r["MB"] / r["unfold MB"] for r in weighed]
        reached = f"{min(shares):.2f} to {max(shares):.2f}"
        why = "the worst is the widest layer: correlations are put in order before they are added, two more copies of Σ"
        found.append(("Memory, Conv2d", "≤ 1/4 of unfolding", reached, max(shares) <= 0.25, "–", why))
    return found


def _classes(parts: Parts) -> list[Row]:
    part, threads = _last(parts, "steps/resnet18")
    if part is None:
        return []
    pairs = {(r["step"], r["beside"]): r for r in part["rows"]}
    hundred = pairs.get(("extract 100 concepts", "extract 10 concepts"))
    ten = pairs.get(("extract 10 concepts", "extract 1 concept"))
    if not (hundred and ten):
        return []
    ratio, floor = hundred["ratio"] * ten["ratio"], "–"
    if roof := _rates(parts, "resnet18", threads):
        one = ten["seconds"] / ten["ratio"]
        work = 100 * STAGE["sigmas"] * 4 * STAGE["rows"] * STAGE["width"] ** 2
        floor = f"{work / roof['rates']['float64'] / one:.1f} ×"
    why = "floor: the products of 100 engrams at the machine's rate, beside the measured time of one"
    return [
        ("100 classes, ResNet-18's shape", "≤ 3 × the time of one", f"{ratio:.1f} ×, {threads}", ratio <= 3, floor, why)
    ]


def _sweep(parts: Parts) -> list[Row]:
    steps = [part for key, part in parts.items() if key.startswith("steps/")]
    ratios = {part["title"]: r["ratio"] for part in steps for r in part["rows"] if r["step"] == "sweep"}
    if not ratios:
        return []
    worst = max(ratios, key=lambda title: ratios[title])
    reached = f"{min(ratios.values()):.2f} to {ratios[worst]:.2f} ×"
    why = f"weights are edited where they are, no copies; the worst: {worst}"
    return [("α sweep of 20", "≤ 1.1 × its forward passes", reached, ratios[worst] <= 1.1, "1 ×", why)]


def _forget(parts: Parts) -> list[Row]:
    found = parts.get("reach/forget")
    if not found:
        return []
    reached = f"{found['seconds']:.0f} s, {found['MB']:,} MB, 1 thread"
    met = found["seconds"] <= 45 and found["MB"] <= 2500
    why = f"floor: one forward pass over the {found['tokens']:,} tokens; a thousand items are not measured"
    step = f"`el.forget`, SmolLM2-135M's shape, {found['items']} items"
    return [(step, "≤ 45 s, ≤ 2,500 MB", reached, met, f"{found['forward']:.0f} s", why)]


def _import(parts: Parts) -> list[Row]:
    found = parts.get("reach/import")
    if not found:
        return []
    seconds = found["seconds"]
    return [("`import engramlib`", "≤ 0.2 s over `import torch`", f"{seconds:.2g} s", seconds <= 0.2, "–", "")]


def _make(parts: Parts) -> list[Row]:
    why = "not in the record: they take a machine that does nothing else; the README says what they take"
    return (
        [("`make test`, `make book`", "≤ 9 and ≤ 7 minutes at 15 chapters", "not recorded", False, "–", why)]
        if parts
        else []
    )


ROWS: tuple[Callable[[Parts], list[Row]], ...] = (
    _solve, _collect, _bytes, _conv, _classes, _sweep, _forget, _import, _make,
)  # fmt: skip
