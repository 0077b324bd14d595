"""The fast ways of summing against the slow one: half of Σ, products in float32, parts of a batch, other devices."""

from __future__ import annotations

import copy
import itertools
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import engramlib as el
from engramlib import _products, _recorder, analysis
from engramlib._products import Half, add_outer, as_tensor, joined, total, zeros
from tests.conftest import with_one

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def gap(a: Tensor, b: Tensor) -> float:
    """The largest difference of two Σ, beside √(Σᵢᵢ Σⱼⱼ)."""
    size = b.diagonal().clamp_min(0).sqrt()
    return float(((a - b).abs() / (size.unsqueeze(-1) * size).clamp_min(1e-300)).max())


def wide(x: Tensor) -> Tensor:
    """The same rows, laid out like patches: each coordinate side by side."""
    return x.mT.contiguous().mT


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("absorbed", [False, True])
@pytest.mark.parametrize(("n", "d"), [(1, 130), (5, 129), (300, 128), (700, 257), (9000, 150), (64, 385)])
def test_every_way_of_summing(n: int, d: int, absorbed: bool, device: str) -> None:
    for dtype, lay in itertools.product((torch.float64, torch.float32, torch.bfloat16, torch.float16), (Tensor, wide)):
        x = (torch.randn(n, d) + 0.5).to(dtype)
        x = wide(x) if lay is wide else x
        columns = with_one(x.double()) if absorbed else x.double()
        expected = columns.T @ columns
        for sums, exact in itertools.product((torch.float64, torch.float32), (False, True)):
            sigma = zeros(d + absorbed, None, sums, torch.device(device))
            add_outer(sigma, x.to(device), absorbed, exact)
            add_outer(sigma, x.to(device), absorbed, exact)
            found = as_tensor(sigma).cpu().double()
            if not isinstance(sigma, Half):
                found = found.triu() + found.triu(1).T
            rounds = sums == torch.float32 or (isinstance(sigma, Half) and not exact and dtype != torch.float64)
            assert gap(found, 2 * expected) < (1e-5 if rounds else 1e-13)
            assert torch.equal(found, found.T)


@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1.0, 1e12, 1e17])
def test_products_in_float32_have_the_range_of_float64(scale: float) -> None:
    x = torch.randn(50, 200) * scale
    sigma = zeros(201, None, torch.float64, torch.device("cpu"))
    add_outer(sigma, x, True)
    expected = with_one(x.double()).T @ with_one(x.double())
    assert gap(as_tensor(sigma), expected) < 1e-5
    conv, image = nn.Conv2d(32, 2, 3), scale * torch.randn(4, 32, 20, 20)
    found, exact = (el.collect(conv, [image], exact=exact)[""] for exact in (False, True))
    assert gap(found, exact) < 1e-5
    nothing = zeros(200, None, torch.float64, torch.device("cpu"))
    add_outer(nothing, torch.zeros(50, 200), False)
    assert float(as_tensor(nothing).abs().max()) == 0


def data(kind: str, n: int, d: int) -> Tensor:
    x = torch.randn(n, d)
    return {
        "white": x,
        "a mean": x + 5,
        "rectified": x.relu(),
        "few directions": torch.randn(n, 8) @ torch.randn(8, d),
        "half of the directions": torch.randn(n, d // 2) @ torch.randn(d // 2, d) / d**0.5,
        "down to 1e-6": x * torch.logspace(3, -3, d),
        "one large input": torch.cat([1e4 * x[:, :1], x[:, 1:]], 1),
        "turned, down to 1e-13": (x * torch.logspace(0, -6.5, d)) @ torch.linalg.qr(torch.randn(d, d))[0],
    }[kind]


KINDS = ["white", "a mean", "rectified", "few directions", "half of the directions", "down to 1e-6", "one large input"]
KINDS += ["turned, down to 1e-13"]


@pytest.mark.parametrize("d", [160, 400])
@pytest.mark.parametrize("kind", KINDS)
def test_what_products_in_float32_leave_of_ill_conditioned_data(kind: str, d: int) -> None:
    """The promise of ``RESOLVED``: eigenvalues move by less, and W⁺ at the default cut acts on the data as before."""
    for n in (d // 2, 3 * d, 5000):
        x = data(kind, n, d)
        layer = nn.Linear(d, 20, bias=False)
        labels = torch.arange(n) % 3
        fast, slow = (
            el.collect_by_concept(layer, [(x, labels)], lambda b: b[1], exact=exact) for exact in (False, True)
        )
        a, b = sum(fast.values()), sum(slow.values())
        assert a.identity[""].resolved == _products.RESOLVED and b.identity[""].resolved == 0.0
        values = torch.linalg.eigvalsh(b[""])
        assert float(torch.linalg.matrix_norm(a[""] - b[""], 2)) < _products.RESOLVED * float(values[-1])
        ours, theirs = el.extract_all(layer, fast), el.extract_all(layer, slow)
        between = (values > 1e-7 * values[-1]) & (values < 1e-5 * values[-1])
        for c in ours:
            moved = (ours[c][""].weight - theirs[c][""].weight).double()
            acts = float((moved @ b[""] * moved).sum()) / float(
                (theirs[c][""].weight.double() @ b[""] * theirs[c][""].weight.double()).sum()
            )
            assert acts < 1e-5
            if not between.any():  # nothing is near the cut: the weights themselves are the same
                assert float(moved.norm()) < 1e-2 * float(theirs[c][""].weight.norm())


def test_a_cut_finer_than_the_sums_is_said() -> None:
    layer, x = nn.Linear(200, 3, bias=False), data("turned, down to 1e-13", 900, 200)
    batches = [x.split(300)[:2], x.split(300)[2:]]
    coarse, exact = ([el.collect(layer, b, exact=e) for b in batches] for e in (False, True))
    sums = [el.collect(layer, b, dtype=torch.float32) for b in batches]
    with pytest.warns(UserWarning, match="layer ''.*float32.*5e-07.*rcond=1e-09.*exact=True"):
        el.extract(layer, *coarse, rcond=1e-9)
    with pytest.warns(UserWarning, match="float32"):
        el.extract_all(layer, dict(enumerate(sums)), rcond=[1e-3, 1e-9])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        el.extract(layer, *exact, rcond=1e-9)
        el.extract(layer, *coarse)
        easy = [el.collect(layer, b.split(300)) for b in torch.randn(2, 900, 200)]
        el.extract(layer, *easy, rcond=1e-9)  # nothing lies below


def test_a_filter_that_needs_exact_sums_says_so() -> None:
    layer, (x, y) = nn.Linear(200, 3, bias=False), torch.randn(2, 900, 200)
    rounded, exact = ([el.collect(layer, [z], exact=e) for z in (x, y)] for e in (False, True))
    for jumps in (analysis.specificity(float("inf")), analysis.specificity(0)):
        with pytest.warns(UserWarning, match="share of 1.*exact=True"):
            el.extract_filtered(layer, *rounded, filter=jumps)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        el.extract_filtered(layer, *exact, filter=analysis.specificity(float("inf")))
        for smooth in (None, analysis.specificity(30), analysis.threshold(0.5)):
            el.extract_filtered(layer, *rounded, filter=smooth)


def test_half_of_a_sum_is_kept_until_it_is_asked_for(tmp_path: Path) -> None:
    model = nn.ModuleDict({"q": nn.Linear(300, 3), "k": nn.Linear(300, 2), "o": nn.Linear(300, 2, bias=False)})
    x, y = torch.randn(2, 500, 300)

    def forward(m: nn.ModuleDict, batch: Tensor) -> None:
        m["q"](batch), m["k"](batch), m["o"](batch)

    first, second = (el.collect(model, [z], forward=forward) for z in (x, y))
    half = first.stored("q")
    assert isinstance(half, Half) and half.flat.nbytes < 0.75 * 301**2 * 8
    assert first.stored("k") is half and first.stored("o") is not half
    both = first + second
    assert isinstance(both.stored("q"), Half) and both.stored("q").is_gram and both.stored("k") is both.stored("q")
    assert not (both - second).stored("q").is_gram  # a difference is looked at where it is used
    assert torch.equal(both.select(["q"])["q"], both["q"])
    saved = tmp_path / "moments.safetensors"
    both.save(saved)
    again = el.Moments.load(saved)
    assert torch.equal(again["q"], both["q"]) and again["q"] is again["k"]
    assert again.identity == both.identity and again.identity["q"].resolved > 0
    assert first["q"] is first["k"] and first["q"] is first["q"] and first["q"] is not first["o"]
    assert torch.equal((first + second)["q"], both["q"])  # one is whole now, the other is not
    assert torch.equal(copy.deepcopy(second)["q"], second["q"])
    nothing = both - both
    assert nothing.count["q"] == 0 and float(nothing["q"].abs().max()) == 0
    with pytest.raises(ValueError, match="not contained"):
        second - both


def test_a_part_that_was_not_in_the_total_is_found_in_half_sums_too() -> None:
    layer = nn.Linear(200, 3, bias=False)
    first, second = (el.collect(layer, [z]) for z in torch.randn(2, 900, 200))
    turned = el.collect(layer, [0.2 * torch.randn(300, 4) @ torch.randn(4, 200)])
    with pytest.raises(ValueError, match="semi-definite.*total - part"):
        el.extract(layer, first, first + second - second - turned)


def test_sums_of_halves() -> None:
    parts = [zeros(200, None, torch.float64, torch.device("cpu")) for _ in range(3)]
    x = torch.randn(3, 400, 200).double()
    for part, columns in zip(parts, x, strict=True):
        add_outer(part, columns, False)
    dense = [as_tensor(part) for part in parts]
    assert torch.allclose(total(parts), sum(dense)) and torch.equal(total(parts[:1]), dense[0])
    assert torch.allclose(total([parts[0], dense[1], parts[2]]), sum(dense))
    assert torch.equal(as_tensor(parts[0]), dense[0])  # nothing was added to what came in
    assert torch.allclose(as_tensor(joined(parts[0], dense[1], -1)), dense[0] - dense[1])
    assert torch.equal(parts[0].diagonal(), dense[0].diagonal())
    other = Half(torch.zeros(200 * 201), 200, 7)
    other.flat = torch.zeros(sum((min(s + 7, 200) - s) * (200 - s) for s in range(0, 200, 7))).double()
    assert torch.equal(as_tensor(joined(parts[0], other, 1)), dense[0])  # halves of different blocks


@pytest.mark.parametrize("exact", [True, False])
def test_many_concepts_in_one_batch(exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some are missing in a batch, some have one row, some rows have none; whatever waits is multiplied at the end."""
    layer, x = nn.Linear(150, 4), torch.randn(6, 90, 150)
    labels = torch.randint(-1, 12, (6, 90), generator=torch.Generator().manual_seed(0))
    labels[0], labels[1, :80], labels[2:, 0] = 3, -1, 77
    expected = {}
    for c in labels.unique().tolist():
        if c >= 0:
            columns = with_one(x[labels == c].double())
            expected[c] = (columns.T @ columns, len(columns))
    for kept in (0, 2**28):
        monkeypatch.setattr(_recorder, "_KEPT_BYTES", kept)
        found = el.collect_by_concept(layer, list(zip(x, labels, strict=True)), lambda b: b[1], exact=exact)
        assert found.keys() == expected.keys()
        for c, (sigma, count) in expected.items():
            assert found[c].count[""] == count
            assert gap(found[c][""], sigma) < (1e-12 if exact else 1e-5)


def test_a_small_part_of_a_batch_does_not_keep_the_rest_alive() -> None:
    layer = nn.Linear(150, 4, bias=False)
    running = _recorder.Running({""}, False, False)
    running.sigma[0], running.count[0] = zeros(150, None, torch.float64, torch.device("cpu")), 0
    batch = torch.randn(4000, 150)
    running.add(0, batch[:3])
    (kept,) = running.kept[0]
    assert kept.untyped_storage().nbytes() == 3 * 150 * 4
    assert layer.weight.shape[1] == batch.shape[1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3, 200), (700, 200), (5, 130), (300, 260)])
def test_one_projection_for_all_rows(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """Both orders of the products, tall weights and flat ones, in every precision, against the dense formula."""
    out, d = shape
    layer = nn.Linear(d, out, bias=False).to(dtype)
    x = torch.randn(900, d) @ torch.diag(torch.logspace(0, -1, d))
    parts = {c: el.collect(layer.float(), [x[c::3]], exact=True) for c in range(3)}
    layer.to(dtype)
    sums = {c: m[""] for c, m in parts.items()}
    w = layer.weight.double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "collected at other weights": rounded ones
        for lam in (1.0, 3.0):
            for c, engram in el.extract_all(layer, parts, specificity=lam).items():
                rest = sum(s for other, s in sums.items() if other != c)
                expected = w @ sums[c] @ torch.linalg.inv(sums[c] + lam * rest)
                found = engram[""].weight.double()
                assert float((found - expected).norm() / expected.norm()) < (1e-10 if dtype == torch.float64 else 1e-5)
