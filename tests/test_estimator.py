"""The theorems behind the estimator, on well and badly behaved data."""

from __future__ import annotations

import copy
import math
import warnings
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import engramlib as el
from engramlib.spectral import Spectrum


def layer_with(out: int, d: int) -> nn.Linear:
    return nn.Linear(d, out, bias=False).double()


def moments(x: Tensor, name: str = "") -> el.Moments:
    return el.Moments({name: x.T @ x}, {name: len(x)})


@st.composite
def cases(draw: st.DrawFn) -> tuple[nn.Linear, Tensor, Tensor]:
    """A non-square layer, with target and reference data of any rank and badly different scales."""
    out, d = draw(st.integers(1, 6)), draw(st.integers(1, 7))
    n_plus, n_minus = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    rank = draw(st.integers(1, d))
    basis = torch.randn(rank, d, generator=generator).double()
    scale = 10.0 ** draw(st.integers(-4, 4))
    plus = torch.randn(n_plus, rank, generator=generator).double() @ basis * scale
    minus = torch.randn(n_minus, rank, generator=generator).double() @ basis * scale
    layer = layer_with(out, d)
    layer.weight.data = torch.randn(out, d, generator=generator).double()
    return layer, plus, minus


def extracted(layer: nn.Module, plus: Tensor, minus: Tensor, **options: object) -> Tensor:
    return el.extract(layer, moments(plus), moments(minus), **options)[""].weight


@settings(max_examples=60, deadline=None)
@given(cases(), st.sampled_from([0.2, 1.0, 3.0]))
def test_first_order_condition(case: tuple[nn.Linear, Tensor, Tensor], lam: float) -> None:
    """The gradient of ‖(W⁺ − W) X⁺‖² + λ‖W⁺X⁻‖² is zero, and W⁺ has nothing outside the span of the data."""
    layer, plus, minus = case
    e, w = extracted(layer, plus, minus, specificity=lam, rcond=1e-11), layer.weight.detach()
    a, b = plus.T @ plus, minus.T @ minus
    gradient = (e - w) @ a + lam * e @ b
    assert gradient.norm() <= 1e-8 * (w @ a).norm() + 1e-8 * float(a.norm())
    outside = torch.eye(a.shape[0]).double() - torch.linalg.pinv(a + b, rtol=1e-11, hermitian=True) @ (a + b)
    assert (e @ outside).norm() <= 1e-6 * (1 + e.norm())


@settings(max_examples=40, deadline=None)
@given(cases())
def test_no_other_matrix_has_a_smaller_loss(case: tuple[nn.Linear, Tensor, Tensor]) -> None:
    layer, plus, minus = case
    e, w = extracted(layer, plus, minus, rcond=1e-11), layer.weight.detach()
    loss = lambda m: float(((m - w) @ plus.T).square().sum() + (m @ minus.T).square().sum())  # noqa: E731
    best = loss(e)
    for _ in range(5):
        assert best <= loss(e + torch.randn_like(e) * 10.0 ** float(torch.randint(-3, 1, ()))) * (1 + 1e-9) + 1e-12


@settings(max_examples=30, deadline=None)
@given(cases(), st.integers(2, 4))
def test_engrams_of_all_concepts_add_up_to_the_weights(case: tuple[nn.Linear, Tensor, Tensor], n: int) -> None:
    """Completeness: Σ_c W_c⁺ = W on the span of the data."""
    layer, plus, minus = case
    x = torch.cat([plus, minus])
    parts = {c: moments(x[c::n]) for c in range(n)}
    whole = sum(el.extract_all(layer, parts, rcond=1e-11).values())[""].weight
    w = layer.weight.detach()
    assert ((whole - w) @ x.T).norm() <= 1e-6 * (w @ x.T).norm() + 1e-9


@pytest.mark.parametrize("lam", [0.0, 0.2, 1.0, 3.0, math.inf])
def test_all_at_once_equals_one_by_one(lam: float) -> None:
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()
    x, y = torch.randn(60, 5).double(), torch.arange(60) % 3
    parts = el.collect_by_concept(model, [(x, y)], lambda batch: batch[1])
    total = sum(parts.values())
    for concept, engram in el.extract_all(model, parts, specificity=lam).items():
        alone = el.extract(model, parts[concept], total - parts[concept], specificity=lam)
        for name in engram:
            for a, b in zip(engram[name], alone[name], strict=True):
                assert torch.allclose(a, b, rtol=1e-7, atol=1e-9)


class TestHardConstraint:
    def test_is_zero_on_the_reference_and_exact_where_only_the_target_lives(self) -> None:
        layer = layer_with(4, 6)
        plus, minus = torch.randn(20, 6).double(), torch.randn(3, 6).double()
        e = extracted(layer, plus, minus, specificity=math.inf)
        assert (e @ minus.T).abs().max() < 1e-9
        # first-order condition under the constraint: the residual is orthogonal to every allowed direction
        n = torch.eye(6).double() - torch.linalg.pinv(minus) @ minus
        assert ((e - layer.weight) @ plus.T @ plus @ n).abs().max() < 1e-9

    def test_is_zero_when_the_reference_spans_the_space(self) -> None:
        layer = layer_with(4, 3)
        assert (
            extracted(layer, torch.randn(9, 3).double(), torch.randn(9, 3).double(), specificity=math.inf).abs().max()
            == 0
        )

    def test_noise_in_the_null_space_is_not_a_memory(self) -> None:
        """Target inside the reference's span, in a bigger space: nothing is exclusive, whatever rounding leaves."""
        basis = torch.randn(3, 8).double()
        plus, minus = torch.randn(50, 3).double() @ basis, torch.randn(50, 3).double() @ basis
        assert extracted(layer_with(4, 8), plus, minus, specificity=math.inf).abs().max() < 1e-9

    def test_is_the_limit_of_large_lambda(self) -> None:
        layer = layer_with(4, 6)
        plus, minus = torch.randn(20, 6).double(), torch.randn(3, 6).double()
        hard = extracted(layer, plus, minus, specificity=math.inf)
        gaps = [
            float((extracted(layer, plus, minus, specificity=lam, rcond=1e-12) - hard).norm())
            for lam in (1e1, 1e3, 1e5)
        ]
        assert gaps[1] < gaps[0] / 10 and gaps[2] < gaps[1] / 50

    def test_nothing_to_protect(self) -> None:
        layer, plus = layer_with(4, 3), torch.randn(9, 3).double()
        assert torch.allclose(extracted(layer, plus, torch.zeros(1, 3).double(), specificity=math.inf), layer.weight)


def test_the_soft_solution_of_a_shared_direction_is_one_half() -> None:
    """X⁺ = X⁻ = W = 1: the paper's counterexample to a hard reading of its constraint."""
    layer, one = layer_with(1, 1), torch.ones(1, 1).double()
    layer.weight.data.fill_(1.0)
    assert float(extracted(layer, one, one)) == pytest.approx(0.5)
    assert float(extracted(layer, one, one, specificity=3)) == pytest.approx(0.25)
    assert float(extracted(layer, one, one, specificity=0)) == pytest.approx(1.0)
    assert float(extracted(layer, one, one, specificity=math.inf)) == 0.0


def test_the_sum_over_data_matters_not_its_scale() -> None:
    layer, plus, minus = layer_with(3, 4), torch.randn(9, 4).double(), torch.randn(20, 4).double()
    assert torch.allclose(extracted(layer, plus, minus), extracted(layer, 1e3 * plus, 1e3 * minus))
    assert not torch.allclose(extracted(layer, plus, minus), extracted(layer, plus, 10 * minus))


def test_directions_below_the_cut_are_left_out() -> None:
    layer = layer_with(2, 2)
    layer.weight.data = torch.tensor([[1.0, 1e6], [0.0, 1e6]]).double()
    x = torch.tensor([[1.0, 0.0], [0.0, 1e-4]]).double()  # variances 1 and 1e-8
    e = extracted(layer, x, 0 * x)
    assert torch.allclose(e, torch.tensor([[1.0, 0.0], [0.0, 0.0]]).double())
    assert torch.allclose(extracted(layer, x, 0 * x, rcond=1e-10), layer.weight)


def test_base_gives_the_engram_of_the_difference() -> None:
    model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3)).double()
    x = torch.randn(30, 5).double()
    target, reference = el.collect(model, [x[:10]]), el.collect(model, [x[10:]])
    start = {k: torch.randn_like(v) for k, v in model.state_dict().items()}
    found = el.extract(model, target, reference, base=start, specificity=3)
    other = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3)).double()
    other.load_state_dict({k: v - start[k] for k, v in model.state_dict().items()})
    expected = el.extract(other, target, reference, specificity=3)
    assert all(
        torch.allclose(found[n].weight, expected[n].weight) and torch.allclose(found[n].bias, expected[n].bias)
        for n in found
    )
    other.load_state_dict(start)
    again = el.extract(model, target, reference, base=other, specificity=3)
    assert torch.equal(again["0"].weight, found["0"].weight)
    same = el.extract_all(model, {"t": target, "r": reference}, base=model.state_dict())
    assert same["t"].norm() == 0


def test_one_factorisation_per_distinct_sigma(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    eigh = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda s: calls.append(s.shape) or eigh(s))
    x = {c: torch.randn(1, 4).double().expand(9, 4) for c in range(3)}  # so that one direction is cut
    parts = {}
    for c, columns in x.items():
        sigma = columns.T @ columns
        parts[c] = el.Moments({"q": sigma, "k": sigma, "o": 2 * sigma}, dict.fromkeys("qko", 9))
    model = nn.ModuleDict({name: layer_with(3, 4) for name in "qko"})
    el.extract_all(model, parts)
    assert len(calls) == 2  # three concepts, three layers, two distinct Σ
    calls.clear()
    el.extract(model, parts[0], parts[1], specificity=3)
    assert len(calls) == 2


def test_too_few_samples_are_no_error() -> None:
    layer = layer_with(3, 50)
    e = extracted(layer, torch.randn(2, 50).double(), torch.randn(3, 50).double())
    assert torch.isfinite(e).all() and torch.linalg.matrix_rank(e, rtol=1e-6) <= 2


class TestErrors:
    def parts(self) -> tuple[nn.Linear, el.Moments, el.Moments]:
        return layer_with(3, 4), moments(torch.randn(9, 4).double()), moments(torch.randn(9, 4).double())

    @pytest.mark.parametrize("lam", [-1, math.nan, "1", None])
    def test_specificity(self, lam: object) -> None:
        layer, a, b = self.parts()
        with pytest.raises(ValueError, match="specificity"):
            el.extract(layer, a, b, specificity=lam)

    @pytest.mark.parametrize("rcond", [-1e-6, 1.0, math.nan, "x"])
    def test_rcond(self, rcond: object) -> None:
        layer, a, b = self.parts()
        with pytest.raises(ValueError, match="rcond"):
            el.extract(layer, a, b, rcond=rcond)

    def test_moments_of_another_model(self) -> None:
        layer, a, b = self.parts()
        with pytest.raises(ValueError, match="another model"):
            el.extract(layer, moments(torch.randn(9, 4).double(), "fc"), b)
        with pytest.raises(ValueError, match="target: moments of layer ''.*another model"):
            el.extract(layer, moments(torch.randn(9, 5).double()), b)  # this layer has no bias to absorb
        with pytest.raises(ValueError, match="reference: moments of other layers"):
            el.extract(
                nn.ModuleDict({"a": layer, "b": layer_with(3, 4)}),
                el.Moments({"a": a[""]}, {"a": 1}),
                el.Moments({"b": b[""]}, {"b": 1}),
            )
        with pytest.raises(TypeError, match="target"):
            el.extract(layer, a[""], b)
        with pytest.raises(ValueError, match="bias mode"):
            el.extract(nn.Linear(4, 3), a, moments(torch.randn(9, 5).double()))
        grouped = el.Moments({"": torch.eye(4).repeat(2, 1, 1)}, {"": 1})
        with pytest.raises(ValueError, match="another model"):
            el.extract(layer, grouped, grouped)

    def test_base(self) -> None:
        layer, a, b = self.parts()
        with pytest.raises(ValueError, match="base: has no entry 'weight'"):
            el.extract(layer, a, b, base={})
        with pytest.raises(ValueError, match="base: 'weight' has shape"):
            el.extract(layer, a, b, base={"weight": torch.ones(4, 3)})
        with pytest.raises(TypeError, match="base"):
            el.extract(layer, a, b, base=7)

    def test_concepts(self) -> None:
        layer, a, b = self.parts()
        with pytest.raises(ValueError, match="at least two concepts"):
            el.extract_all(layer, {})
        with pytest.raises(ValueError, match="collect_by_concept"):
            el.extract_all(layer, a)
        with pytest.raises(ValueError, match="concept 'dog'"):
            el.extract_all(layer, {"cat": a, "dog": moments(torch.randn(9, 4).double(), "fc")})
        with pytest.raises(TypeError, match="concept 'cat'"):
            el.extract_all(layer, {"cat": a[""], "dog": a})


def test_spectrum_of_many_groups() -> None:
    x = torch.randn(3, 5, 4).double()
    x[1, :, 2:] = 0
    sigma = x.mT @ x
    spectrum = Spectrum(sigma)
    assert spectrum.rank.tolist() == [4, 2, 4]
    assert torch.allclose(spectrum.pinv(), torch.linalg.pinv(sigma, hermitian=True))


def test_a_small_reference_beside_a_large_target_is_not_lost() -> None:
    """total - target would round it away."""
    layer, plus, minus = layer_with(3, 6), 1e8 * torch.randn(20, 6).double(), torch.randn(4, 6).double()
    parts = {"large": moments(plus), "small": moments(minus)}
    together = el.extract_all(layer, parts, specificity=math.inf)["large"][""].weight
    alone = el.extract(layer, parts["large"], parts["small"], specificity=math.inf)[""].weight
    assert torch.allclose(together, alone, rtol=1e-6)


# ---------------------------------------------------------------------- units


def network(scale: float, seed: int, rank: int | None = None) -> tuple[nn.Linear, Tensor, Tensor]:
    """A layer with a bias on inputs of some scale: the same function of x / scale at every scale."""
    g = torch.Generator().manual_seed(seed)
    layer = nn.Linear(5, 3).double()
    layer.weight.data = torch.randn(3, 5, generator=g).double() / scale
    layer.bias.data = torch.randn(3, generator=g).double()
    mix = torch.linalg.qr(torch.randn(5, rank or 5, generator=g).double())[0].T
    x = torch.randn(40, rank or 5, generator=g).double() @ mix + 0.3
    return layer, x[:15] * scale, x[15:] * scale


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0, 10.0, math.inf])
@pytest.mark.parametrize(("rcond", "balance"), [(1e-6, None), (1e-6, True), (3e-2, True)])
@settings(max_examples=25, deadline=None)
@given(st.floats(-6, 6), st.integers(0, 10_000), st.sampled_from([None, 2]))
def test_units_of_the_inputs_do_not_matter(
    rcond: float, balance: bool | None, lam: float, exponent: float, seed: int, rank: int | None
) -> None:
    """x → s x with W → W / s is the same network: so is the edited one, wherever the data span the space."""
    fresh = torch.randn(20, 5, generator=torch.Generator().manual_seed(seed)).double()
    outputs = []
    for scale in (1.0, 10.0**exponent):
        layer, plus, minus = network(scale, seed, rank)
        target, reference = el.collect(layer, [plus]), el.collect(layer, [minus])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            engram = el.extract(layer, target, reference, specificity=lam, rcond=rcond, balance=balance)
        with torch.no_grad():
            places = (plus, minus, fresh * scale) if rank is None else (plus, minus)
            outputs.append(torch.cat([el.ablate(layer, engram)(x) for x in places]))
    assert torch.allclose(*outputs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0, math.inf])
def test_few_data_are_the_formula_in_any_units(lam: float, scale: float) -> None:
    """Where the cut takes nothing that the data used, the answer is that of the dense pseudo-inverses."""
    for seed in range(10):
        layer, plus, minus = network(1.0, seed, 3)
        plus, minus = plus[:2], minus[:1]
        w = torch.cat([layer.weight, layer.bias[:, None]], 1).detach()
        ones = [torch.cat([x * scale, torch.ones(len(x), 1).double()], 1) for x in (plus, minus)]
        a, b = (x.T @ x for x in ones)
        moments_ = [el.Moments({"": s}, {"": 9}) for s in (a, b)]
        found = el.extract(layer, *moments_, specificity=lam, balance=True)[""]
        if lam == math.inf:
            n = torch.eye(6).double() - torch.linalg.pinv(ones[1]) @ ones[1]
            inverse = n @ torch.linalg.pinv(ones[0] @ n) @ torch.linalg.pinv(ones[0] @ n).T @ n
        else:
            both = torch.cat([ones[0], lam**0.5 * ones[1]]) if lam else ones[0]
            inverse = torch.linalg.pinv(both) @ torch.linalg.pinv(both).T
        dense = w @ a @ inverse
        got = torch.cat([found.weight, found.bias[:, None]], 1)
        assert (got - dense).norm() <= 1e-5 * dense.norm()


def test_the_papers_cut_depends_on_them_and_stays_reachable() -> None:
    layer, plus, minus = network(1e-4, 0)
    target, reference = el.collect(layer, [plus]), el.collect(layer, [minus])
    with pytest.warns(UserWarning, match=r"5 of 6 directions are cut, with \d+% of the target's response"):
        plain = el.extract(layer, target, reference, balance=False)[""]
    w = torch.cat([layer.weight, layer.bias[:, None]], 1).detach()
    dense = w @ target[""] @ torch.linalg.pinv(target[""] + reference[""], rtol=1e-6, hermitian=True)
    assert torch.allclose(plain.weight, dense[:, :-1], atol=1e-9) and torch.allclose(plain.bias, dense[:, -1])
    balanced = el.extract(layer, target, reference)[""]  # the constant is 10,000 times as long as an input
    assert balanced.weight.norm() > 100 * plain.weight.norm()
    whole = w @ target[""] @ torch.linalg.inv(target[""] + reference[""])  # nothing is cut: exactly the formula
    assert torch.allclose(balanced.weight, whole[:, :-1]) and torch.allclose(balanced.bias, whole[:, -1])
    layer, plus, minus = network(1.0, 0)  # in ordinary units the default is the paper's cut, to the last bit
    pair = [el.collect(layer, [x]) for x in (plus, minus)]
    same, other = (el.extract(layer, *pair, rcond=0.03, balance=on)[""].weight for on in (None, False))
    assert torch.equal(same, other)
    kept = [el.collect(layer, [x], bias="keep") for x in (plus, minus)]
    for options in ({}, {"specificity": math.inf}, {"rcond": 0.5}):
        a, b = (el.extract(layer, *kept, balance=on, **options)[""].weight for on in (True, False))
        assert torch.equal(a, b)  # no constant, nothing to balance


@pytest.mark.parametrize("lam", [0.0, 1.0, math.inf])
def test_only_the_constant_is_alive(lam: float) -> None:
    layer = nn.Linear(4, 3).double()
    zero = torch.zeros(10, 4).double()
    target, nothing = el.collect(layer, [zero]), el.Moments({"": torch.zeros(5, 5).double()}, {"": 0})
    engram = el.extract(layer, target, nothing, specificity=lam)[""]
    assert torch.allclose(engram.bias, layer.bias) and engram.weight.abs().max() == 0
    assert el.extract(layer, nothing, nothing, specificity=lam).norm() == 0
    assert el.extract(
        layer, target, el.collect(layer, [torch.randn(30, 4).double()]), specificity=lam
    ).norm() < 1e-9 + (0 if lam == math.inf else 9)


# ---------------------------------------------------------------------- several λ and cuts


@pytest.mark.parametrize("absorb", ["absorb", "keep"])
def test_many_at_once_are_each_alone(absorb: str) -> None:
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()
    x, y = torch.randn(60, 5).double(), torch.arange(60) % 3
    parts = el.collect_by_concept(model, [(x, y)], lambda batch: batch[1], bias=absorb)
    total, lams, cuts = sum(parts.values()), [0, 0.3, 1, 3, math.inf], [1e-6, 1e-1]
    sweep = el.extract_all(model, parts, specificity=lams, rcond=cuts)
    one = el.extract(model, parts[0], total - parts[0], specificity=torch.tensor(lams, dtype=torch.float64), rcond=cuts)
    assert list(sweep) == list(one) == [(lam, cut) for lam in lams for cut in cuts]
    for lam, cut in sweep:
        for concept in parts:
            alone = el.extract(model, parts[concept], total - parts[concept], specificity=lam, rcond=cut)
            for found in (sweep[lam, cut][concept], *([one[lam, cut]] if concept == 0 else [])):
                assert float((found - alone).norm()) <= 1e-8 * (1 + alone.norm())
    assert list(el.extract(model, parts[0], parts[1], specificity=(3,))) == [3.0]
    assert list(el.extract_all(model, parts, rcond=[1e-3, 1e-6])) == [1e-3, 1e-6]
    for options in ({"specificity": []}, {"rcond": []}, {"specificity": [1, -1]}, {"rcond": [0.1, 2]}):
        with pytest.raises(ValueError, match=next(iter(options))):
            el.extract(model, parts[0], parts[1], **options)


def test_what_a_sweep_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, eigh = [], torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda s: calls.append(s.shape) or eigh(s))
    layer = layer_with(3, 4)
    full, thin = torch.randn(2, 30, 4).double(), torch.randn(2, 1, 4).double()
    el.extract(layer, *map(moments, thin), rcond=[1e-9, 1e-6, 1e-3])
    assert len(calls) == 1  # one factorisation, three cuts
    calls.clear()
    el.extract(layer, *map(moments, full), specificity=[1, 3, 10, 0.3])
    assert not calls  # nothing is cut: certified
    calls.clear()
    el.extract(layer, *map(moments, thin), specificity=[1, 3, 10])
    assert len(calls) == 3  # at every λ other noise is cut
    calls.clear()
    concepts = {c: moments(torch.randn(1, 4).double()) for c in range(3)}
    el.extract_all(layer, concepts)
    assert len(calls) == 1  # the sum over all concepts
    calls.clear()
    el.extract_all(layer, concepts, specificity=3)
    assert len(calls) == 3


# ---------------------------------------------------------------------- warnings, and moments that do not belong


def test_what_the_cut_leaves_out_is_said() -> None:
    layer, units = layer_with(3, 4), torch.tensor([1e4, 1.0, 1.0, 1.0]).double()
    layer.weight.data /= units
    x = torch.randn(60, 4).double() * units
    with pytest.warns(UserWarning, match=r"layer ''.*3 of 4 directions are cut, with \d+% .*smaller rcond.*standard"):
        extracted(layer, x[:30], x[30:])
    with pytest.warns(UserWarning, match="of [01], λ = 1, .*3 of 4 directions") as caught:
        el.extract_all(layer, {0: moments(x[:30]), 1: moments(x[30:])})
    assert len(caught) == 1
    # a huge finite λ pushes the target's own directions below the cut
    plus, minus = torch.eye(4).double()[:2], torch.eye(4).double()[1:3]
    layer.weight.data = torch.ones(3, 4).double()
    with pytest.warns(UserWarning, match=r"λ = 1e\+09.*50% .*float\('inf'\)"):
        assert extracted(layer, plus, minus, specificity=1e9).abs().max() < 1e-8
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        extracted(layer, plus, minus, specificity=math.inf)
        extracted(layer, plus, minus, specificity=1e3)
        extracted(layer, torch.randn(2, 4).double(), torch.randn(1, 4).double())  # nothing there is not cut away


def test_too_little_data_is_said_once(recwarn: pytest.WarningsRecorder) -> None:
    model, x = nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 2)), torch.randn(99, 20)
    few, many, thin = (el.collect(model, [part]) for part in (x[:3], x[20:], x[:25]))
    el.extract(model, thin, many)
    el.extract(model, thin, few, specificity=0)
    by_hand = el.Moments(dict(few), few.count)
    el.extract(model, by_hand, by_hand)
    assert not recwarn.list
    with pytest.warns(
        UserWarning, match=r"layer '1' reads 31 inputs, and reference has 25 columns.*At least 31"
    ) as one:
        el.extract(model, many, thin)
    with pytest.warns(UserWarning, match=r"target has 3 columns.*At least 10.*1 more") as two:
        el.extract(model, few, many)
    with pytest.warns(UserWarning, match=r"layer '1'.* 3 columns to tell concept 'b'.*more such cases") as three:
        el.extract_all(model, {"a": few, "b": thin})
    assert len(one) == len(two) == len(three) == 1 and one[0].filename == __file__


def collected(layer: nn.Module, **options: object) -> el.Moments:
    return el.collect(layer, [torch.randn(50, layer.weight.shape[1])], **options)


def test_moments_of_another_architecture_are_refused() -> None:
    model = nn.Linear(5, 3)
    four = collected(nn.Linear(4, 3))  # 4 inputs and the constant: as wide as 5 inputs
    with pytest.raises(ValueError, match=r"target: moments of layer '' .*another model.*\(3, 4\).*\(3, 5\)"):
        el.extract(model, four, four)
    wide = collected(nn.Linear(5, 7))
    good = collected(model)
    with pytest.raises(ValueError, match="reference: .*another model"):
        el.extract(model, good, wide)
    with pytest.raises(ValueError, match="concept 1: .*another model"):
        el.extract_all(model, {0: good, 1: wide})
    with pytest.raises(ValueError, match="bias mode"):
        el.extract(model, good, collected(model, bias="keep"))
    images = torch.randn(6, 2, 5, 5)
    one, other = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(2, 3, 3, stride=2)
    read = el.collect(one, [images])
    with pytest.raises(ValueError, match="read in two ways"):
        el.extract(other, read, read)
    with pytest.raises(ValueError, match="no layer"):
        el.extract(model, el.Moments({}, {}), el.Moments({}, {}))
    with pytest.raises(ValueError, match="concept 'cat' is alone.*extract"):
        el.extract_all(model, {"cat": good})


def test_moments_at_other_weights_are_said_once() -> None:
    model = nn.Sequential(nn.Linear(5, 40), nn.ReLU(), nn.Linear(40, 3))
    x = torch.randn(200, 5)
    target, reference = el.collect(model, [x[:100]]), el.collect(model, [x[100:]])
    engram = el.extract(model, target, reference)
    for other in (nn.Sequential(nn.Linear(5, 40), nn.ReLU(), nn.Linear(40, 3)), el.ablate(model, engram, 0.3)):
        with pytest.warns(UserWarning, match=r"target: moments of layer '0' \(and 3 more\) .*other weights") as caught:
            el.extract(other, target, reference)
        assert len(caught) == 1 and caught[0].filename == __file__
    with pytest.warns(UserWarning, match="other weights"):
        el.extract_all(el.ablate(model, engram), {0: target, 1: reference})


def test_the_same_weights_in_other_clothes_are_the_same(recwarn: pytest.WarningsRecorder) -> None:
    model = nn.Sequential(nn.Linear(5, 40), nn.ReLU(), nn.Linear(40, 3))
    x = torch.randn(200, 5)
    model[2].weight.data *= torch.logspace(-6, 1, 40)  # float16 rounds small numbers hard
    sides = [el.collect(model, [x[:100]]), el.collect(model, [x[100:]])]
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        el.extract(copy.deepcopy(model).to(dtype), *sides)
    el.extract(copy.deepcopy(model).half(), *[el.collect(model.double(), [part.double()]) for part in x.split(100)])
    el.extract(torch.compile(model.float(), backend="eager"), *sides)
    el.extract(nn.DataParallel(model), *sides)
    el.extract(model, *[side.to("cpu").select(["0", "2"]) for side in sides])
    norm, images = nn.BatchNorm2d(3), torch.randn(100, 3, 2, 2)
    el.extract(copy.deepcopy(norm), *[el.collect(norm, [images], layers=".*") for _ in range(2)])
    conv = nn.Conv2d(3, 4, 2)
    el.extract(copy.deepcopy(conv).to(memory_format=torch.channels_last), *[el.collect(conv, [images])] * 2)
    assert not recwarn.list


def test_sums_that_are_none_are_refused() -> None:
    layer = layer_with(3, 4)
    plus, total = moments(torch.randn(30, 4).double()), moments(torch.randn(90, 4).double())
    rest = total - moments(
        torch.diag(torch.tensor([9.0, 1, 1, 1])).double() @ torch.linalg.qr(torch.randn(4, 4))[0].double()
    )
    with pytest.raises(ValueError, match="layer '': 'reference': .*semi-definite.*not in the total"):
        el.extract(layer, plus, rest)
    with pytest.raises(ValueError, match="layer '': 1: .*semi-definite"):
        el.extract_all(layer, {0: plus, 1: rest})
    layer.weight.data[0, 0] = math.nan
    with pytest.raises(ValueError, match="weight has NaN"):
        el.extract(layer, plus, total)
    with pytest.raises(ValueError, match="base: expected a tensor"):
        el.extract(layer_with(3, 4), plus, total, base={"weight": [1.0]})


def test_the_same_moments_twice_share_everything() -> None:
    layer, m = layer_with(3, 4), moments(torch.randn(30, 4).double())
    assert torch.allclose(el.extract(layer, m, m, specificity=3)[""].weight, layer.weight / 4)
    pair = el.extract_all(layer, {0: m, 1: m}, specificity=3)
    assert torch.allclose(pair[0][""].weight, layer.weight / 4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("lam", [1.0, 3.0, math.inf])
def test_autocast_does_not_touch_the_estimator(dtype: torch.dtype, lam: float) -> None:
    model, x = nn.Sequential(nn.Linear(6, 40), nn.Linear(40, 3)), torch.randn(300, 6)
    sides = [el.collect(model, [part]) for part in x.split(100)][:2]
    plain = el.extract(model, *sides, specificity=lam)
    with torch.autocast("cpu", dtype=dtype):
        inside = el.extract(model, *sides, specificity=lam)
        many = el.extract_all(model, dict(enumerate(sides)), specificity=lam)[0]
    for name in plain:
        assert torch.equal(plain[name].weight, inside[name].weight) and torch.equal(plain[name].bias, inside[name].bias)
        assert torch.allclose(plain[name].weight, many[name].weight, atol=1e-7)


def test_moments_that_serve_once_are_let_go_layer_by_layer(mlp: nn.Sequential) -> None:
    """What forget does with its own: the same engram, and never more than one group's Σ beside it."""
    x = torch.randn(80, 6)
    target, reference = el.collect(mlp, [x[:30]]), el.collect(mlp, [x[30:]])
    kept = el.extract(mlp, target, reference)
    alive = [weakref.ref(target.stored(name)) for name in target]
    target.once = reference.once = True
    once = el.extract(mlp, target, reference)
    assert not len(target) and not len(reference)
    assert [ref for ref in alive if ref() is not None] == []
    for name, entry in kept.items():
        assert torch.equal(entry.weight, once[name].weight)
