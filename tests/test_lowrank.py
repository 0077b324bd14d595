"""Σ of low rank: the two bounds, sums of sums, and the estimator without a d × d matrix."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import engramlib as el
from engramlib import _products
from engramlib._products import Half
from engramlib.lowrank import Factored, LowRank, pays, rows_for, truncated
from tests.test_files import rewritten

pytestmark = pytest.mark.filterwarnings("ignore:too little data")


def stream(n: int, d: int, decay: float, seed: int) -> Tensor:
    """Columns (as rows) whose variances fall by ``decay``, in turned coordinates."""
    draw = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(d, d, generator=draw, dtype=torch.float64)).Q
    return torch.randn(n, d, generator=draw, dtype=torch.float64) * decay ** torch.arange(d) @ turn


def sketch(x: Tensor, rank: int, piece: int = 37) -> LowRank:
    kept = LowRank(x.shape[1], rank, torch.float64)
    for part in x.split(piece):
        kept.add(part)
    return kept.settled()


def gap(x: Tensor, kept: LowRank) -> float:
    return float(torch.linalg.matrix_norm(x.T @ x - kept.whole(), 2))


# ------------------------------------------------------------------------------------------------------ the bounds


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 200),
    st.integers(2, 24),
    st.floats(0.3, 1.0),
    st.integers(1, 24),
    st.integers(0, 10**6),
    st.integers(1, 4),
)
def test_both_bounds_hold_for_every_k_and_for_sums_of_sums(
    n: int, d: int, decay: float, rank: int, seed: int, parts: int
) -> None:
    rank, x = min(rank, d), stream(n, d, decay, seed)
    pieces = [sketch(part, rank, piece=1 + seed % 50) for part in x.tensor_split(parts)]
    kept = pieces[0].joined(*pieces[1:]) if parts > 1 else pieces[0]
    values = torch.linalg.svdvals(x) ** 2
    slack = 1e-9 * float(values[0])
    under = x.T @ x - kept.rows.T @ kept.rows
    eigenvalues = torch.linalg.eigvalsh(under)
    assert eigenvalues[0] >= -slack and eigenvalues[-1] <= kept.error + slack  # 0 ≼ Σ − BᵀB ≼ error
    assert gap(x, kept) <= kept.error + slack
    for k in range(rank + 1):
        assert kept.error <= float(values[k:].sum()) / (rank + 1 - k) + slack
    assert len(kept.rows) <= rank
    torch.testing.assert_close(kept.whole().diagonal(), (x**2).sum(0), rtol=1e-9, atol=slack)


def test_few_columns_are_kept_as_they_are() -> None:
    x = stream(9, 30, 1.0, 0)
    kept = sketch(x, 9)
    assert kept.error == 0 and gap(x, kept) < 1e-12
    low = stream(500, 30, 1.0, 1)[:, :4] @ stream(4, 30, 1.0, 2)  # of rank 4, however many
    assert sketch(low, 5).error == 0 and gap(low, sketch(low, 5)) < 1e-9 * float(low.norm()) ** 2


def test_a_stream_that_fools_truncation_does_not_fool_it() -> None:
    """A direction that comes last and slowly: who keeps only the largest each time never sees it."""
    d, rank = 12, 4
    strong = 3.0 * torch.eye(d, dtype=torch.float64)[torch.arange(200) % rank]
    slow = torch.eye(d, dtype=torch.float64)[[rank + 1]].repeat(900, 1)
    x = torch.cat([strong, slow])
    rows = torch.zeros(0, d, dtype=torch.float64)
    for part in x.split(1):  # incremental truncation
        _, s, v = torch.linalg.svd(torch.cat([rows, part]), full_matrices=False)
        rows = (s.unsqueeze(1) * v)[:rank]
    kept = sketch(x, rank, piece=1)
    assert (rows[:, rank + 1] ** 2).sum() < 1e-9  # 900 columns, all lost
    assert 900 - (kept.rows[:, rank + 1] ** 2).sum() <= kept.error + 1e-9 and kept.error < 600


def test_truncated_is_the_best_and_says_so() -> None:
    x = stream(300, 20, 0.8, 3)
    kept, values = truncated(x.T @ x, 6, torch.float64), torch.linalg.svdvals(x) ** 2
    assert kept.error == pytest.approx(float(values[6]))
    gone = torch.linalg.matrix_norm(x.T @ x - kept.rows.T @ kept.rows, 2)
    assert float(gone) == pytest.approx(float(values[6])) and gap(x, kept) <= kept.error + 1e-9
    assert kept.error <= sketch(x, 6).error
    assert truncated(x.T @ x, 20).error == 0


@pytest.mark.parametrize("share", [0.05, 0.1, 0.25, 0.5])
@pytest.mark.parametrize("d", [65, 257, 1537])
def test_a_share_is_one_of_bytes(share: float, d: int) -> None:
    rows = rows_for(share, d)
    assert rows is not None
    x = torch.randn(3 * rows, d)
    kept = LowRank(d, rows)
    kept.add(x[: rows + 1])
    assert 0.9 * share - 0.02 < kept.settled().nbytes / (4 * d * (d + 1)) <= share
    assert rows_for(0.1, 3) is None and rows_for(10**6, d) is None


# ----------------------------------------------------------------------------------------------------- collecting


def net(*sizes: int, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for a, b in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(a, b, bias), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def spread(n: int, d: int, seed: int) -> Tensor:
    return (stream(n, d, 0.95, seed) + 0.2).float()


@pytest.mark.parametrize("bias", ["absorb", "keep"])
def test_collecting_keeps_the_bound_the_diagonal_and_the_count(bias: str) -> None:
    model, x = net(60, 40, 50, 3), spread(400, 60, 0)
    whole, few = (el.collect(model, list(x.split(70)), bias=bias, **how) for how in ({}, {"rank": 0.25}))
    assert few.count == whole.count and set(few) == set(whole) and few.nbytes < 0.27 * whole.nbytes
    for name in whole:
        apart = float(torch.linalg.matrix_norm(whole[name] - few[name], 2))
        assert 0 < apart <= few.error(name) * 1.001 and whole.error(name) == 0
        torch.testing.assert_close(few[name].diagonal(), whole[name].diagonal(), rtol=1e-5, atol=1e-5)
        assert few.stored(name).shape == whole.stored(name).shape


def test_by_concept_convolutions_attention_and_groups() -> None:
    torch.manual_seed(0)
    conv = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.Flatten(), nn.Linear(288, 3))
    x, y = torch.randn(60, 4, 10, 10), torch.arange(60) % 2
    whole, few = (el.collect_by_concept(conv, [(x, y)], lambda batch: batch[1], **how) for how in ({}, {"rank": 0.2}))
    for concept in whole:
        assert few[concept].count == whole[concept].count
        assert few[concept].stored("2").ndim == 3  # grouped: whole
        for name in ("0", "4"):
            apart = torch.linalg.matrix_norm(whole[concept][name] - few[concept][name], 2)
            assert float(apart) <= few[concept].error(name) * 1.001 + 1e-3
    block = nn.MultiheadAttention(32, 4, batch_first=True)
    tokens = torch.randn(6, 9, 32)
    few_ = el.collect(block, [tokens], forward=lambda m, b: m(b, b, b), rank=5)
    assert few_.stored("q_proj") is few_.stored("v_proj") is not few_.stored("out_proj")


def test_what_does_not_fit_into_rows_says_so() -> None:
    model, x = net(40, 30, 3), spread(200, 40, 0)
    few = el.collect(model, [x], rank=8)
    with pytest.raises(ValueError, match="add, but .* subtracted: collect target and reference apart"):
        few - few
    with pytest.raises(ValueError, match="specificity=inf"):
        el.extract(model, few, few, specificity=float("inf"))
    for wrong in (0, -1, 1.5, 0.0, float("nan")):
        with pytest.raises(ValueError, match="rank: expected"):
            el.collect(model, [x], rank=wrong)
        with pytest.raises(ValueError, match="rank: expected"):
            few.compress(wrong)
    with pytest.raises(TypeError, match="rank: expected"):
        el.collect(model, [x], rank="few")
    with pytest.raises(ValueError, match="outside the range of torch.float32"):
        el.collect(model.double(), [x.double() * 1e39], rank=8)
    broken = x.clone()
    broken[3, 3] = torch.nan
    with pytest.raises(ValueError, match="layer '0': its input has NaN"):
        el.collect(model.float(), [broken], rank=8)


def test_sums_of_low_rank_and_of_both_kinds() -> None:
    model, x = net(60, 40, 3), spread(500, 60, 1)
    whole = el.collect(model, [x])
    few = [el.collect(model, [part], rank=10) for part in x.split(170)]
    total = sum(few)
    assert total.count == whole.count
    for name in whole:
        assert total.error(name) >= sum(part.error(name) for part in few)
        assert float(torch.linalg.matrix_norm(whole[name] - total[name], 2)) <= total.error(name) * 1.001
        assert total.stored(name).nbytes <= max(part.stored(name).nbytes for part in few)
    mixed = el.collect(model, [x[:300]]) + el.collect(model, [x[300:]], rank=10)
    assert isinstance(mixed.stored("0"), Tensor)
    smaller = total.compress(5)
    assert smaller.error("0") > total.error("0") and len(smaller.stored("0").rows) <= 5
    assert smaller.compress(5).stored("0").rows.shape == smaller.stored("0").rows.shape


def test_asking_whether_a_layer_is_there_writes_nothing_out() -> None:
    found = el.collect(net(300, 4), [spread(20, 300, 0)])
    before = found.nbytes
    assert "0" in found and "9" not in found and found.nbytes == before


# ----------------------------------------------------------------------------------------------------- extracting


def written_out(moments: el.Moments) -> el.Moments:
    """The same Σ̂ as d × d matrices."""
    return el.Moments({name: moments[name] for name in moments}, moments.count)


@pytest.mark.parametrize("lam", [0.0, 1.0, 7.0])
@pytest.mark.parametrize("bias", ["absorb", "keep"])
def test_the_engram_is_that_of_the_same_matrix_written_out(lam: float, bias: str) -> None:
    model = net(60, 40, 50, 3).double()
    parts = [spread(300, 60, seed).double() for seed in (1, 2)]
    few = [el.collect(model, [x], rank=12, exact=True, bias=bias) for x in parts]
    assert pays([few[0].stored("0"), few[1].stored("0")])
    mine = el.extract(model, *few, specificity=lam, rcond=0.0)
    wanted = el.extract(model, *map(written_out, few), specificity=lam, rcond=1e-12)
    for name in wanted:
        torch.testing.assert_close(mine[name].weight, wanted[name].weight, rtol=1e-6, atol=1e-8)
        if bias == "absorb":
            torch.testing.assert_close(mine[name].bias, wanted[name].bias, rtol=1e-6, atol=1e-8)
        else:
            assert mine[name].bias is None


def test_where_nothing_was_lost_it_is_the_papers_engram_at_any_cut() -> None:
    model = net(60, 40, 50, 3)
    parts = [spread(9, 60, seed) for seed in (1, 2)]
    few, whole = ([el.collect(model, [x], rank=r, exact=True) for x in parts] for r in (10, None))
    found = el.extract(model, *few, rcond=[1e-6, 1e-2], specificity=[1.0, 3.0])
    wanted = el.extract(model, *whole, rcond=[1e-6, 1e-2], specificity=[1.0, 3.0])
    assert set(found) == set(wanted)
    for key in wanted:
        for name in wanted[key]:
            torch.testing.assert_close(found[key][name].weight, wanted[key][name].weight, rtol=1e-4, atol=1e-6)


def test_extract_all_shares_one_inverse_and_is_extract() -> None:
    model, x = net(80, 60, 4).double(), spread(300, 80, 0).double()
    moments = {c: el.collect(model, [x[c::3]], rank=8, exact=True) for c in range(3)}
    for lam in (1.0, 4.0):
        together = el.extract_all(model, moments, specificity=lam)
        for c, engram in together.items():
            others = {o: m for o, m in moments.items() if o != c}
            sigma = {n: sum(m[n] for m in others.values()) for n in moments[c]}
            wanted = el.extract(model, written_out(moments[c]), el.Moments(sigma, dict.fromkeys(sigma, 200)))
            if lam == 1:
                for name in wanted:
                    torch.testing.assert_close(engram[name].weight, wanted[name].weight, rtol=1e-4, atol=1e-6)
    total = sum(el.extract_all(model, moments).values())
    torch.testing.assert_close(total["0"].weight, model[0].weight.detach(), rtol=1e-6, atol=1e-8)


def test_many_rows_are_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = net(60, 40, 3), spread(300, 60, 0)
    few = [el.collect(model, [part], rank=25) for part in x.split(150)]
    assert not pays([m.stored("0") for m in few])
    monkeypatch.setattr(Factored, "__init__", None)  # it may not be asked
    assert set(el.extract(model, *few)) == {"0", "2"}


def test_no_square_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = net(300, 200, 3), spread(300, 300, 0)
    few = [el.collect(model, [part], rank=20) for part in x.split(150)]
    monkeypatch.setattr(LowRank, "whole", None)
    largest, real = [0], torch.Tensor.__matmul__

    def watched(a: Tensor, b: Tensor) -> Tensor:
        found = real(a, b)
        largest[0] = max(largest[0], found.numel())
        return found

    monkeypatch.setattr(torch.Tensor, "__matmul__", watched)
    el.extract(model, *few)
    assert largest[0] <= 300 * 201 and largest[0] < 301 * 301  # W⁺ itself


def test_an_unused_input_and_a_constant_in_other_units() -> None:
    model, x = net(60, 40, 3), spread(400, 60, 0)
    x[:, 7] = 0
    few = [el.collect(model, [part], rank=10) for part in (x[:100], x[100:])]
    for cut in (0.0, 1e-6):
        assert float(el.extract(model, *few, rcond=cut)["0"].weight[:, 7].abs().max()) < 1e-9
    scaled = nn.Sequential(*[nn.Linear(60, 40), nn.ReLU(), nn.Linear(40, 3)])
    scaled.load_state_dict(model.state_dict())
    with torch.no_grad():
        scaled[0].weight /= 1e4
    other = [el.collect(scaled, [1e4 * part], rank=10) for part in (x[:100], x[100:])]
    a, b = el.extract(model, *few, balance=True)["0"], el.extract(scaled, *other, balance=True)["0"]
    assert float((b.weight * 1e4 - a.weight).norm() / a.weight.norm()) < 0.05  # rows know units, the cut does not


# ------------------------------------------------------------------------------------------------------- on disk


def test_files_hold_what_is_kept(tmp_path: Path) -> None:
    model, x = net(300, 150, 3), spread(500, 300, 0)
    for kept in (el.collect(model, [x]), el.collect(model, [x], rank=20)):
        path = tmp_path / "m"
        kept.save(path)
        size = kept.nbytes  # before somebody asks for a whole Σ
        assert path.stat().st_size < size + 8000
        for mapped in (False, True):
            again = el.Moments.load(path, mapped=mapped)
            assert again.nbytes == size and again.count == kept.count and again.identity == kept.identity
            assert all(torch.equal(again[n], kept[n]) and again.error(n) == kept.error(n) for n in kept)
            torch.testing.assert_close((again + kept)["0"].diagonal(), 2 * kept["0"].diagonal())


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h["kept"]["0"].__setitem__(1, 3),  # more rows than its rank
        lambda h: h["kept"]["0"].__setitem__(2, -1.0),
        lambda h: h["kept"].__setitem__("7", ["rows", 3, 0.0]),
        lambda h: h["kept"].pop("0"),
    ],
)
def test_a_file_that_was_tampered_with_is_damaged(tmp_path: Path, change) -> None:
    el.collect(net(60, 40, 3), [spread(200, 60, 0)], rank=10).save(tmp_path / "m")
    rewritten(tmp_path / "m", lambda _, header: change(header))
    with pytest.raises(ValueError, match="damaged"):
        el.Moments.load(tmp_path / "m")


def test_half_a_matrix_of_the_wrong_length_is_damaged(tmp_path: Path) -> None:
    el.collect(net(200, 4), [spread(300, 200, 0)]).save(tmp_path / "m")
    rewritten(tmp_path / "m", lambda _, header: header["kept"]["0"].__setitem__(1, 150))
    with pytest.raises(ValueError, match="half of Σ in"):
        el.Moments.load(tmp_path / "m")


def _anonymous() -> int:
    """Bytes of this process that are of no file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux how much memory is in use")
def test_sums_on_disk_are_the_same_and_not_in_memory(tmp_path: Path) -> None:
    model = nn.Sequential(*[nn.Linear(1500, 1500) for _ in range(6)])
    x = spread(64, 1500, 0)
    wanted = el.collect(model, [x])
    assert wanted.nbytes > 50e6
    before = _anonymous()
    found = el.collect(model, [x], folder=tmp_path)
    grown = _anonymous() - before
    assert grown < 0.4 * wanted.nbytes, grown
    assert all(torch.equal(found.stored(n).flat, wanted.stored(n).flat) for n in wanted)
    assert not list(tmp_path.iterdir())  # nameless: nothing to clear away
    with pytest.raises(ValueError, match="folder: expected"):
        el.collect(model, [x], folder=tmp_path / "none")


# ------------------------------------------------------------------ few columns, beside a Σ that is written out


def few_columns(d: int, out: int, condition: float, bias: bool, dtype: torch.dtype) -> tuple[nn.Linear, Tensor, Tensor]:
    """A layer, inputs of a given conditioning in mixed units, and labels: 3 has one column, 4 many, the others few."""
    turn = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64))[0]
    lengths = torch.logspace(0, -math.log10(condition) / 2, d, dtype=torch.float64)
    x = (torch.randn(4 * d, d, dtype=torch.float64) * lengths) @ turn + 0.1
    concept = torch.full((4 * d,), 4)
    concept[: 3 * (d // 16)], concept[-1] = torch.arange(3 * (d // 16)) % 3, 3
    return nn.Linear(d, out, bias=bias).to(dtype), x.to(dtype), concept


@pytest.mark.parametrize("lam", [1.0, 0.3, math.inf])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("d", "out", "condition", "dtype"),
    [
        (160, 300, 1e2, torch.float32),
        (257, 40, 1e5, torch.float32),
        (160, 300, 1e13, torch.float32),
        (300, 160, 1e13, torch.float64),
        (160, 200, 1e3, torch.bfloat16),
    ],
)
def test_products_with_few_columns_are_products_with_their_sum(
    d: int, out: int, condition: float, dtype: torch.dtype, bias: bool, lam: float
) -> None:
    model, x, concept = few_columns(d, out, condition, bias, dtype)
    batches = [(x[i::3], concept[i::3]) for i in range(3)]  # a concept's columns come in parts

    def found(exact: bool, keep: bool) -> dict[int, el.Engram]:
        moments = el.collect_by_concept(model, batches, lambda batch: batch[1], exact=exact)
        for c, part in moments.items():
            sigma = part.stored("")
            assert isinstance(sigma, Half) and (sigma.rows is None) == (c == 4), c
            if sigma.rows is not None:
                rows = sigma.rows.double()
                assert torch.allclose(rows.T @ rows, sigma.whole(), rtol=1e-5, atol=1e-5 * float(sigma.flat.max()))
                sigma.rows = rows if keep else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return el.extract_all(model, moments, specificity=lam, rcond=1e-6)

    slow, fast = found(True, False), found(True, True)
    for c, engram in fast.items():
        size = model.weight.detach().double().norm() if lam == math.inf else slow[c][""].weight.double().norm()
        assert (engram[""].weight.double() - slow[c][""].weight.double()).norm() <= 1e-4 * size, c


def test_what_changes_a_sum_forgets_its_columns(tmp_path: Path) -> None:
    model, x, concept = few_columns(160, 8, 10.0, True, torch.float32)
    parts = el.collect_by_concept(model, [(x, concept)], lambda batch: batch[1])
    kept = parts[0].stored("")
    assert isinstance(kept, Half) and kept.rows is not None and kept.rows.shape == (10, 161)
    assert parts[0].nbytes == kept.flat.nbytes + kept.rows.nbytes  # they are counted
    parts[0].save(tmp_path / "one")
    others = [
        parts[0] + parts[1],
        (parts[0] + parts[4]) - parts[4],
        parts[0].to("cpu"),
        el.Moments.load(tmp_path / "one"),
    ]
    assert all(other.stored("").rows is None for other in others)  # type: ignore[union-attr]
    _products.add_outer(kept, x[:2], True)
    assert kept.rows is None
    many = el.collect(model, [x[:40]]).stored("")
    assert isinstance(many, Half) and many.rows is None  # more than an eighth of the width


def test_engrams_of_few_columns_add_up_and_are_the_formula() -> None:
    """Also of products in float32, whose rounding an ill-conditioned Σ would enlarge."""
    d, n = 300, 3000
    model, turn = nn.Linear(d, 40), torch.linalg.qr(torch.randn(d, d, dtype=torch.float64))[0]
    x = (torch.randn(n, d, dtype=torch.float64) * torch.logspace(0, -2.5, d, dtype=torch.float64)) @ turn + 0.05
    x, concept = x.float(), torch.arange(n) % 100
    engrams = el.extract_all(model, el.collect_by_concept(model, [(x, concept)], lambda batch: batch[1]))
    columns = torch.cat([x.double(), torch.ones(n, 1, dtype=torch.float64)], 1)
    matrix = torch.cat([model.weight, model.bias[:, None]], 1).detach().double()
    inverse = torch.linalg.inv(columns.T @ columns)
    for c in (0, 7, 99):
        own = columns[concept == c]
        right = (matrix @ own.T @ own @ inverse)[:, :d]
        assert (engrams[c][""].weight - right).norm() < 1e-5 * right.norm()
    whole = sum(engram[""].weight.double() for engram in engrams.values())
    assert (whole - model.weight).norm() < 1e-5 * model.weight.norm()
