"""Shares, filters and cuts: the algebra that chapter 03 rests on."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import engramlib as el
from engramlib import analysis
from engramlib.analysis import extract_filtered
from engramlib.spectral import Spectrum


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """W (out, d), Σ⁺, Σ⁻: not square, of any rank, at scales from 1e-4 to 1e4."""
    out, d = draw(st.integers(1, 6)), draw(st.integers(1, 7))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    rank, scale = draw(st.integers(1, d)), 10.0 ** draw(st.integers(-4, 4))
    basis = torch.linalg.qr(torch.randn(d, d, generator=generator).double())[0][:rank]
    basis = basis * torch.logspace(0, -draw(st.integers(0, 2)), rank).double()[:, None] * scale
    plus, minus = (torch.randn(draw(st.integers(1, 12)), rank, generator=generator).double() @ basis for _ in range(2))
    return torch.randn(out, d, generator=generator).double(), plus.T @ plus, minus.T @ minus


EXACT = analysis.relative(1e-11)  # leaves out only what has no data


def close(a: Tensor, b: Tensor, tolerance: float = 1e-8) -> bool:
    return bool((a - b).norm() <= tolerance * max(1.0, float(b.norm())))


def extracted(w: Tensor, plus: Tensor, minus: Tensor, **options: object) -> Tensor:
    layer = nn.Linear(w.shape[1], w.shape[0], bias=False).double()
    layer.weight.data = w
    return el.extract(layer, *(el.Moments({"": s}, {"": 1}) for s in (plus, minus)), **options)[""].weight


@settings(max_examples=60, deadline=None)
@given(cases())
def test_shares_diagonalise_target_and_reference_at_once(case: tuple[Tensor, Tensor, Tensor]) -> None:
    _, plus, minus = case
    share = analysis.target_share(plus, minus, cut=EXACT)
    s, p = share.shares, share.patterns
    assert ((0 <= s) & (s <= 1)).all() and (s.diff() <= 0).all()
    assert close(share.readouts @ p, torch.eye(share.rank).double())
    scale = float((plus + minus).norm())
    assert close((p * s) @ p.T / scale, plus / scale) and close((p * (1 - s)) @ p.T / scale, minus / scale)
    assert share.owned == pytest.approx(float(share.projection().trace()), abs=1e-8)


@settings(max_examples=60, deadline=None)
@given(cases(), st.sampled_from([None, 0.2, 1.0, 3.0, 30.0]))
def test_filters_give_the_estimator(case: tuple[Tensor, Tensor, Tensor], lam: float | None) -> None:
    """f(s) = s is extract, f(s) = s/(s + λ(1 − s)) is extract with specificity λ."""
    w, plus, minus = case
    filter = None if lam is None else analysis.specificity(lam)
    expected = extracted(w, plus, minus, specificity=lam or 1.0, rcond=1e-11)
    assert close(analysis.filtered(w, plus, minus, filter=filter, cut=EXACT), expected)


@settings(max_examples=40, deadline=None)
@given(cases(), st.floats(0.05, 1.0))
def test_what_the_filters_do(case: tuple[Tensor, Tensor, Tensor], at: float) -> None:
    w, plus, minus = case
    share = analysis.target_share(plus, minus, cut=EXACT)
    kept = share.patterns @ share.readouts
    hard = share.projection(analysis.threshold(at))
    assert close(hard @ hard, hard, 1e-7)  # a projection, unlike P⁺
    some = lambda s: s.sqrt()  # noqa: E731
    rest = lambda s: 1 - s.sqrt()  # noqa: E731
    both = analysis.filtered(w, plus, minus, filter=some, cut=EXACT) + analysis.filtered(
        w, plus, minus, filter=rest, cut=EXACT
    )
    assert close(both, w @ kept)
    # Swapping target and reference is 1 − s.
    assert close(
        analysis.filtered(w, minus, plus, cut=EXACT),
        analysis.filtered(w, plus, minus, filter=lambda s: 1 - s, cut=EXACT),
    )


@settings(max_examples=40, deadline=None)
@given(cases(), st.sampled_from([1e-2, 1e-1, 0.5]))
def test_a_cut_through_data_is_the_engram_of_the_kept_part_of_the_weights(
    case: tuple[Tensor, Tensor, Tensor], rcond: float
) -> None:
    w, plus, minus = case
    spectrum = Spectrum(plus + minus, rcond)
    basis = spectrum.vectors[:, spectrum.kept]
    found = analysis.filtered(w, plus, minus, cut=analysis.relative(rcond))
    assert close(found, extracted(w @ basis @ basis.T, plus, minus, rcond=rcond))
    gap = w @ (torch.eye(len(plus)).double() - basis @ basis.T) @ plus @ spectrum.pinv()
    assert close(extracted(w, plus, minus, rcond=rcond) - found, gap)


@settings(max_examples=30, deadline=None)
@given(cases(), st.sampled_from([1e-6, 1e-2, 1.0]))
def test_a_ridge_is_isotropic_reference_data(case: tuple[Tensor, Tensor, Tensor], strength: float) -> None:
    w, plus, minus = case
    gamma = strength * float((plus + minus).trace()) / len(plus) * torch.eye(len(plus)).double()
    found = analysis.filtered(w, plus, minus, cut=analysis.ridge(strength))
    assert close(found, w @ plus @ torch.linalg.inv(plus + minus + gamma))
    assert close(found, extracted(w, plus, minus + gamma, rcond=1e-13))


@settings(max_examples=30, deadline=None)
@given(cases())
def test_shares_do_not_depend_on_the_units_of_the_inputs(case: tuple[Tensor, Tensor, Tensor]) -> None:
    _, plus, minus = case
    torch.manual_seed(1)
    mix = torch.linalg.qr(torch.randn_like(plus))[0] * torch.logspace(0, 1, len(plus)).double()
    before = analysis.target_share(plus, minus, cut=EXACT).shares
    after = analysis.target_share(mix @ plus @ mix.T, mix @ minus @ mix.T, cut=EXACT).shares
    assert close(before, after, 1e-7)


def test_a_direction_that_all_data_use_alike_has_the_targets_share() -> None:
    x = torch.cat([torch.ones(100, 1), torch.randn(100, 3)], 1).double()
    x = torch.cat([x[:, :1], torch.zeros(100, 3).double()], 1)
    s = analysis.target_share(x[:10].T @ x[:10], x[10:].T @ x[10:]).shares
    assert s.tolist() == pytest.approx([0.1])


@pytest.mark.parametrize("lam", [0.0, math.inf])
def test_the_two_limits_of_specificity(lam: float) -> None:
    """Soft everywhere: the target has one direction of its own, the reference two, and one is shared."""
    w = torch.randn(3, 4).double()
    mix = torch.linalg.qr(torch.randn(4, 4).double())[0]
    plus, minus = (mix @ torch.diag(torch.tensor(v).double()) @ mix.T for v in ([5.0, 1, 0, 0], [0.0, 2, 1, 3]))
    found = analysis.filtered(w, plus, minus, filter=analysis.specificity(lam))
    assert close(found, extracted(w, plus, minus, specificity=lam))
    assert torch.linalg.matrix_rank(found, rtol=1e-6) == (1 if lam else 2)


class TestCuts:
    def test_the_default_keeps_what_spectrum_keeps(self) -> None:
        values = torch.logspace(-9, 0, 10).double()
        sigma = torch.diag(values)
        row = analysis.compare_cuts(sigma, cuts=[analysis.relative()])[0]
        assert row["kept"] == int(Spectrum(sigma).rank) == 6
        assert row["threshold"] == pytest.approx(1e-5) and row["condition"] == pytest.approx(1e5)

    def test_energy_keeps_the_fewest_that_hold_the_share(self) -> None:
        values = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0]).double()
        for share, kept in ((0.39, 1), (0.41, 2), (0.7, 2), (0.71, 3), (0.9, 3), (0.91, 4), (1.0, 4)):
            row = analysis.compare_cuts(torch.diag(values), cuts=[analysis.energy(share)])[0]
            assert (row["kept"], row["energy"] >= share) == (kept, True), share

    @pytest.mark.parametrize(("n", "d"), [(2000, 200), (400, 380), (150, 400)])
    @pytest.mark.parametrize("noise", [1e-3, 30.0])
    def test_the_edge_finds_planted_directions_in_noise(self, n: int, d: int, noise: float) -> None:
        for planted in (0, 7):
            x = torch.randn(n, d).double()
            strong = 40 * math.sqrt(d / n + 0.1)  # far above the transition, where a direction is lost in noise
            x[:, :planted] *= strong
            sigma = noise**2 * x.T @ x
            assert analysis.compare_cuts(sigma, n, [analysis.edge()])[0]["kept"] == planted

    @pytest.mark.parametrize(("n", "d"), [(3000, 300), (800, 800), (600, 500), (200, 900)])
    def test_the_edge_is_where_theory_puts_it(self, n: int, d: int) -> None:
        x = 3 * torch.randn(n, d).double()
        values = torch.linalg.eigvalsh(x.T @ x)[-min(n, d) :]
        theory = 9 * (math.sqrt(n) + math.sqrt(d)) ** 2
        assert analysis.bulk_edge(values, n, d) == pytest.approx(theory * (1 + min(n, d) ** (-2 / 3)), rel=0.02)
        assert float(values[-1]) == pytest.approx(theory, rel=0.05)

    def test_the_edge_ignores_directions_without_data(self) -> None:
        x = torch.randn(2000, 200).double()
        x[:, :3] *= 20
        x[:, 100:] = 0
        assert analysis.compare_cuts(x.T @ x, 2000, [analysis.edge()])[0]["kept"] == 3

    def test_compare_lists_all(self) -> None:
        x = torch.randn(50, 6).double()
        rows = analysis.compare_cuts(x.T @ x, 50)
        assert [row["cut"].split()[0] for row in rows] == ["relative", "relative", "energy", "edge", "ridge"]
        assert len(analysis.compare_cuts(x.T @ x)) == 4
        assert all(set(r) == {"cut", "kept", "dimension", "threshold", "energy", "condition"} for r in rows)
        assert analysis.compare_cuts(torch.zeros(3, 3))[0] == {
            "cut": "relative 1e-06", "kept": 0, "dimension": 3, "threshold": 0.0, "energy": 0.0, "condition": 1.0,
        }  # fmt: skip

    def test_effective_rank(self) -> None:
        assert analysis.effective_rank(torch.ones(7)) == pytest.approx(7)
        assert 1 < analysis.effective_rank(torch.tensor([1.0, 1e-3])) < 1.02


class TestExtractFiltered:
    def model(self) -> tuple[nn.Sequential, el.Moments, el.Moments]:
        model = nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 2, groups=2), nn.Flatten(), nn.Linear(24, 3)
        )
        model = model.double()
        x = torch.randn(90, 2, 5, 5).double()
        return model, el.collect(model, [x[:40]]), el.collect(model, [x[40:]])

    @pytest.mark.parametrize("lam", [1.0, 4.0])
    def test_equals_extract_for_every_kind_of_layer(self, lam: float) -> None:
        model, target, reference = self.model()
        expected = el.extract(model, target, reference, specificity=lam, rcond=1e-12)
        found = extract_filtered(
            model, target, reference, filter=analysis.specificity(lam), cut=analysis.relative(1e-12)
        )
        assert list(found) == list(expected) and found.norms == expected.norms
        for name in expected:
            for a, b in zip(found[name], expected[name], strict=True):
                assert a.shape == b.shape and close(a, b)

    def test_base_and_dtype(self) -> None:
        model, target, reference = self.model()
        start = {k: torch.randn_like(v) for k, v in model.state_dict().items()}
        found, expected = (f(model, target, reference, base=start) for f in (extract_filtered, el.extract))
        assert all(close(found[n].weight, expected[n].weight) for n in found)
        assert extract_filtered(model.float(), target, reference)["0"].weight.dtype == torch.float32

    def test_shared_inputs_are_factorised_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = nn.ModuleDict({n: nn.Linear(4, out, bias=False) for n, out in (("q", 3), ("k", 5), ("o", 2))})
        parts = []
        for _ in range(2):
            x = torch.randn(9, 4).double()
            sigma = x.T @ x
            parts.append(el.Moments({"q": sigma, "k": sigma, "o": 2 * sigma}, dict.fromkeys("qko", 9)))
        calls = []
        eigh = torch.linalg.eigh
        monkeypatch.setattr(torch.linalg, "eigh", lambda s: calls.append(s.shape) or eigh(s))
        found = extract_filtered(model, *parts)
        assert len(calls) == 4  # two factorisations for each of two distinct Σ
        monkeypatch.undo()
        assert all(close(found[n].weight, el.extract(model, *parts)[n].weight, 1e-6) for n in model)

    def test_the_edge_gets_the_count(self) -> None:
        model, target, reference = self.model()
        with pytest.raises(ValueError, match="count"):
            analysis.target_share(target["0"], reference["0"], cut=analysis.edge())
        found = extract_filtered(model, target, reference, cut=analysis.edge())
        expected = extract_filtered(model, target, reference)
        assert 0 <= found.norm() < expected.norm()

    def test_a_layer_that_saw_nothing_has_an_engram_of_zero(self) -> None:
        layer, none = nn.Linear(3, 2, bias=False), el.Moments({"": torch.zeros(3, 3)}, {"": 0})
        assert analysis.target_share(none[""], none[""]).rank == 0
        assert extract_filtered(layer, none, none).norm() == el.extract(layer, none, none).norm() == 0

    def test_errors_name_the_layer(self) -> None:
        model, target, reference = self.model()
        turned = {n: -0.3 * s if n == "4" else s for n, s in reference.items()}
        bad = el.Moments._known(turned, reference.count, {})  # built by hand it would be refused at once
        with pytest.raises(ValueError, match="layer '4': .*outside"):
            extract_filtered(model, target, bad)
        with pytest.raises(TypeError, match="target: expected Moments"):
            extract_filtered(model, {}, reference)


class TestErrors:
    s = torch.eye(3)

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda s: analysis.relative(2), "rcond"),
            (lambda s: analysis.energy(0), "share"),
            (lambda s: analysis.energy(1.1), "share"),
            (lambda s: analysis.ridge(0), "strength"),
            (lambda s: analysis.ridge(math.inf), "strength"),
            (lambda s: analysis.specificity(-1), "lam"),
            (lambda s: analysis.specificity(math.nan), "lam"),
            (lambda s: analysis.threshold(0), "at"),
            (lambda s: analysis.effective_rank(torch.zeros(3)), "values"),
            (lambda s: analysis.effective_rank(torch.tensor([1.0, -1.0])), "values"),
            (lambda s: analysis.target_share(s, torch.eye(2)), "differ in shape"),
            (lambda s: analysis.target_share(torch.ones(2, 3), s), "plus: expected a square matrix"),
            (lambda s: analysis.target_share(s, s * math.nan), "minus: NaN"),
            (lambda s: analysis.target_share(2 * s, -s), "outside \\[0, 1\\]"),
            (lambda s: analysis.target_share(s, s, cut=analysis.edge()), "count"),
            (lambda s: analysis.compare_cuts(torch.ones(2, 3)), "sigma"),
            (lambda s: analysis.filtered(torch.ones(2, 4), s, s), "does not act on"),
            (lambda s: analysis.filtered(torch.ones(2, 2, 3), s.expand(3, 3, 3), s.expand(3, 3, 3)), "groups"),
            (lambda s: analysis.filtered(s, s, s, filter=lambda v: v[:1]), "filter: expected 3 finite"),
            (lambda s: analysis.filtered(s, s, s, filter=lambda v: v / 0), "filter: expected 3 finite"),
            (lambda s: analysis.target_share(s, s, cut=analysis.Cut("mine", lambda v, n: v[1:])), "cut 'mine'"),
            (lambda s: analysis.target_share(s, s, cut=analysis.Cut("mine", lambda v, n: -v)), "cut 'mine'"),
        ],
    )
    def test_values(self, call: object, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            call(self.s)

    def test_types(self) -> None:
        with pytest.raises(TypeError, match="filter"):
            analysis.filtered(self.s, self.s, self.s, filter=0.5)
        with pytest.raises(TypeError, match="cut: expected a Cut"):
            analysis.target_share(self.s, self.s, cut=1e-6)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e3, 1e6])
def test_the_units_of_the_inputs_do_not_matter_to_a_filter_or_a_step(scale: float) -> None:
    """x → s x with W → W / s is the same network, also with a bias, whose constant does not scale."""
    layer, x = nn.Linear(5, 3).double(), torch.randn(80, 5).double()
    other = nn.Linear(5, 3).double()
    other.weight.data, other.bias.data = layer.weight.data / scale, layer.bias.data
    for make in (
        lambda m, *sums: extract_filtered(m, *sums, filter=analysis.specificity(3)),
        lambda m, *sums: analysis.forgetting_step(m, *sums),
    ):
        one, two = (
            make(m, el.collect(m, [s * x[:30]]), el.collect(m, [s * x[30:]])) for m, s in ((layer, 1.0), (other, scale))
        )
        assert close(two[""].weight * scale, one[""].weight, 1e-6) and close(two[""].bias, one[""].bias, 1e-6)
        assert one.norm() > 0.1
