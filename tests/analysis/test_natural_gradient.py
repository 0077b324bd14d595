"""Theorem 6.1, Corollary 6.3 and Remark 6.2 as tests, and the steps against dense solutions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import engramlib as el
from engramlib import analysis
from tests.analysis.networks import close, convnet, mlp


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """ΔW (out, d), Σ⁺, Σ⁻ of any rank and scale, and a metric G ≻ 0 that is far from isotropic."""
    out, d = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    rank, scale = draw(st.integers(1, d)), 10.0 ** draw(st.integers(-4, 4))
    basis = torch.linalg.qr(torch.randn(d, d, generator=generator).double())[0][:rank] * scale
    plus, minus = (torch.randn(draw(st.integers(1, 12)), rank, generator=generator).double() @ basis for _ in range(2))
    turn = torch.linalg.qr(torch.randn(out, out, generator=generator).double())[0]
    metric = (turn * torch.logspace(0, -draw(st.integers(0, 3)), out).double()) @ turn.T
    return torch.randn(out, d, generator=generator).double(), plus.T @ plus, minus.T @ minus, (metric + metric.T) / 2


def as_layer(w: Tensor, *sigmas: Tensor) -> tuple[nn.Linear, list[el.Moments]]:
    layer = nn.Linear(w.shape[1], w.shape[0], bias=False).double()
    layer.weight.data = w.clone()
    return layer, [el.Moments({"": s}, {"": 1}) for s in sigmas]


def engram_of(delta: Tensor, plus: Tensor, minus: Tensor) -> Tensor:
    layer, moments = as_layer(delta, plus, minus)
    return el.extract(layer, *moments, rcond=1e-10)[""].weight


class TestTheorems:
    @settings(max_examples=60, deadline=None)
    @given(cases(), st.floats(1e-6, 1e6), st.sampled_from([0.0, 0.1, 100.0]))
    def test_theorem_6_1_the_unit_step_is_the_engram(self, case: tuple[Tensor, ...], scale: float, damping: float):
        """With G = σ²I, W − (unit natural-gradient step of the forgetting loss) = W − W⁺."""
        w, plus, minus, _ = case
        layer, moments = as_layer(w, plus, minus)
        g = scale * torch.eye(len(w)).double()
        step = analysis.forgetting_step(layer, *moments, {"": g}, damping=damping, rcond=1e-10)
        assert close(step[""].weight, engram_of(w, plus, minus))
        assert close(analysis.forgetting_step(layer, *moments, rcond=1e-10)[""].weight, step[""].weight)

    @settings(max_examples=30, deadline=None)
    @given(cases(), st.floats(1e-3, 1e3))
    def test_theorem_6_1_from_autograd(self, case: tuple[Tensor, ...], sigma2: float) -> None:
        """The same from the loss itself: its gradient at W and its Hessian by automatic differentiation."""
        w, plus, minus, _ = case
        base = torch.randn_like(w)

        def loss(u: Tensor) -> Tensor:
            return 0.5 * sigma2 * ((((u - base) @ plus) * (u - base)).sum() + (((u - w) @ minus) * (u - w)).sum())

        gradient = torch.func.grad(loss)(w)
        assert close(gradient, sigma2 * (w - base) @ plus)
        hessian = torch.func.hessian(loss)(w).reshape(w.numel(), -1)
        fisher = torch.kron(sigma2 * torch.eye(len(w)).double(), plus + minus)  # A ⊗ σ²I, vec by rows
        assert close(hessian, fisher)
        step = (torch.linalg.pinv(fisher, hermitian=True, rtol=1e-10) @ gradient.flatten()).view_as(w)
        assert close(step, engram_of(w - base, plus, minus))
        landed = torch.func.grad(loss)(w - step)
        assert landed.norm() <= 1e-8 * gradient.norm()  # one step, and the loss is at its minimum

    @settings(max_examples=60, deadline=None)
    @given(cases())
    def test_the_minimiser_does_not_depend_on_the_metric(self, case: tuple[Tensor, ...]) -> None:
        """Stronger than Remark 6.2: for every G ≻ 0 the minimiser of Eq. 2 measured in G is W⁺."""
        delta, plus, minus, metric = case
        found = analysis.metric_minimiser(delta, plus, minus, metric)
        assert close(found, engram_of(delta, plus, minus))

    @settings(max_examples=40, deadline=None)
    @given(cases(), st.integers(0, 1000))
    def test_corollary_6_3_the_objective_is_a_distance(self, case: tuple[Tensor, ...], seed: int) -> None:
        """L_G(V) − L_G(W⁺) = ‖V − W⁺‖² in the metric A ⊗ G, for every V and every G."""
        delta, plus, minus, metric = case
        best = engram_of(delta, plus, minus)
        v = best + torch.randn(best.shape, generator=torch.Generator().manual_seed(seed)).double()
        excess = analysis.objective(v, delta, plus, minus, metric=metric)
        excess -= analysis.objective(best, delta, plus, minus, metric=metric)
        gap = (v - best).flatten()
        distance = float(gap @ torch.kron(metric, plus + minus) @ gap)
        size = abs(analysis.objective(v, delta, plus, minus, metric=metric))
        assert excess == pytest.approx(distance, abs=1e-9 * size)

    def test_the_objective_is_equation_2(self) -> None:
        x, y, v, delta = (torch.randn(n, 4).double() for n in (9, 7, 3, 3))
        metric = torch.randn(3, 3).double()
        metric = metric @ metric.T
        residual, leak = (v - delta) @ x.T, v @ y.T
        expected = float((residual * (metric @ residual)).sum() + (leak * (metric @ leak)).sum())
        assert analysis.objective(v, delta, x.T @ x, y.T @ y, metric=metric) == pytest.approx(expected)
        half = float(residual.square().sum() + leak.square().sum())
        assert analysis.objective(v, delta, x.T @ x, y.T @ y) == pytest.approx(half)

    def test_control_another_metric_for_the_reference_moves_the_minimiser(self) -> None:
        """G cancels because it stands in both terms. If it stands in one only, it does not."""
        x, y, delta = torch.randn(20, 4).double(), torch.randn(30, 4).double(), torch.randn(3, 4).double()
        plus, minus, metric = x.T @ x, y.T @ y, torch.diag(torch.tensor([1.0, 0.1, 10.0])).double()
        other = analysis.metric_minimiser(delta, plus, minus, metric, torch.eye(3).double())
        assert (other - engram_of(delta, plus, minus)).norm() > 0.1 * other.norm()
        # Row by row, in a diagonal metric, it is specificity λ = 1/g.
        layer, moments = as_layer(delta, plus, minus)
        for row, g in enumerate((1.0, 0.1, 10.0)):
            expected = el.extract(layer, *moments, specificity=1 / g)[""].weight[row]
            assert torch.allclose(other[row], expected)

    @settings(max_examples=40, deadline=None)
    @given(cases())
    def test_control_the_step_does_depend_on_the_metric(self, case: tuple[Tensor, ...]) -> None:
        """Another G turns the step into σ² G⁻¹ W⁺: it leaves W⁺, and does not minimise the forgetting loss."""
        w, plus, minus, metric = case
        layer, moments = as_layer(w, plus, minus)
        best = engram_of(w, plus, minus)
        step = analysis.forgetting_step(layer, *moments, {"": metric}, rcond=1e-10)[""].weight
        sigma2 = float(metric.diagonal().mean())
        assert close(step, sigma2 * torch.linalg.inv(metric) @ best)
        if (metric / sigma2 - torch.eye(len(w))).norm() > 0.1 and best.norm() > 0:
            assert analysis.objective(step, w, plus, minus) > analysis.objective(best, w, plus, minus)

    def test_where_the_step_reading_fails_by_any_factor(self) -> None:
        """W⁺ answers in a direction of the outputs where G is nearly flat: the step is 5000 times too long."""
        x = torch.randn(30, 4).double()
        layer, moments = as_layer(torch.tensor([[0.0] * 4, [1.0] * 4]).double(), x[:10].T @ x[:10], x[10:].T @ x[10:])
        step = analysis.forgetting_step(layer, *moments, {"": torch.diag(torch.tensor([1.0, 1e-4])).double()})
        row = analysis.compare(el.extract(layer, *moments), step)[0]
        assert row.cosine == pytest.approx(1) and row.norm_ratio == pytest.approx(5000, rel=1e-3)

    def test_strong_damping_brings_the_engram_back(self) -> None:
        x, root = torch.randn(30, 4).double(), torch.randn(3, 3).double()
        layer, moments = as_layer(torch.randn(3, 4).double(), x[:10].T @ x[:10], x[10:].T @ x[10:])
        engram, factors = el.extract(layer, *moments), {"": root @ root.T}
        distances = [
            analysis.compare(engram, analysis.forgetting_step(layer, *moments, factors, damping=d))[0].distance
            for d in (0.0, 1.0, 1e2, 1e4)
        ]
        assert distances[0] > distances[1] > 10 * distances[2] > 500 * distances[3]

    def test_base_and_network(self) -> None:
        """Several layers with biases, a W0, and float32: the isotropic step is extract, everywhere."""
        model = convnet()
        x = torch.randn(60, 2, 5, 5)
        target, reference = el.collect(model, [x[:20].double()]), el.collect(model, [x[20:].double()])
        base = {k: torch.randn_like(v) for k, v in model.state_dict().items()}
        factors = {
            n: 3.0 * torch.eye(m.out_channels if n in "02" else 3) for n, m in model.named_children() if n in "026"
        }
        for dtype, tolerance in ((torch.float64, 1e-8), (torch.float32, 1e-5)):
            model = model.to(dtype)
            step = analysis.forgetting_step(model, target, reference, factors, base=base)
            expected = el.extract(model, target, reference, base=base)
            assert step.norms == pytest.approx(expected.norms) and step["0"].weight.dtype == dtype
            for name in expected:
                for a, b in zip(step[name], expected[name], strict=True):
                    assert (a is None and b is None) or close(a, b, tolerance)


class TestSteps:
    def test_natural_gradient_is_the_dense_solution(self) -> None:
        model, x = convnet(), torch.randn(40, 2, 5, 5).double()
        loss = lambda z, batch: z[:, 0].sum()  # noqa: E731
        gradient, moments = analysis.loss_gradient(model, [x], loss), el.collect(model, [x])
        factors = analysis.output_factors(model, [x], loss="squared")
        step = analysis.natural_gradient(model, gradient, moments, factors, damping=0.3, rcond=1e-12)
        for name, g in factors.items():
            vector = lambda e: torch.cat([e.weight.flatten(1)] + ([] if e.bias is None else [e.bias[:, None]]), 1)  # noqa: E731
            mean = float(g.trace()) / len(g)
            fisher = torch.kron(g + 0.3 * mean * torch.eye(len(g)), moments[name])
            dense = torch.linalg.pinv(fisher, hermitian=True, rtol=1e-12) @ vector(gradient[name]).flatten()
            assert close(vector(step[name]).flatten(), 1.3 * mean * dense, 1e-6)

    def test_exact_step(self) -> None:
        """Equal to the K-FAC step where F = A ⊗ G, to W⁺ where F = A ⊗ σ²I, and to the dense solution elsewhere."""
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
        x = torch.randn(60, 4).double() * torch.tensor([1.0, 1, 0.1, 0])  # one input is never used
        target, reference = el.collect(model, [x[:20]]), el.collect(model, [x[20:]])
        total, factors = target + reference, analysis.output_factors(model, [x])
        flat = lambda e: torch.cat([e.weight, e.bias[:, None]], 1).flatten()  # noqa: E731
        for damping in (0.0, 0.5):
            kfac = analysis.forgetting_step(model, target, reference, factors, damping=damping)["0"]
            product = torch.kron(factors["0"], total["0"])
            same = analysis.exact_forgetting_step(model, target, reference, "0", product, damping=damping)["0"]
            assert close(flat(same), flat(kfac), 1e-7)
        squared = analysis.fisher_block(model, [x], "2", loss="squared")
        step = analysis.exact_forgetting_step(model, target, reference, "2", squared)
        assert analysis.compare(el.extract(model, target, reference).select(["2"]), step)[0].distance < 1e-8
        fisher = analysis.fisher_block(model, [x], "0")
        damped = fisher + 1e-2 * torch.kron(torch.eye(5).double(), total["0"])
        white = torch.linalg.pinv(total["0"], hermitian=True, rtol=1e-6)
        sigma2 = float(torch.einsum("aiaj,ij->", fisher.view(5, 5, 5, 5), white)) / (5 * 4)
        gradient = torch.cat([model[0].weight, model[0].bias[:, None]], 1).detach() @ target["0"]
        dense = torch.linalg.pinv(damped, hermitian=True, rtol=1e-9) @ gradient.flatten()
        delta = 1e-2 / sigma2
        found = analysis.exact_forgetting_step(model, target, reference, "0", fisher, damping=delta)["0"]
        assert close(flat(found), sigma2 * (1 + delta) * dense, 1e-6)


class TestMeasures:
    def test_compare(self) -> None:
        a = el.Engram({"fc": (torch.tensor([[3.0, 0.0]]), torch.tensor([4.0]))})
        row = analysis.compare(a, 2 * a)[0]
        assert (row.cosine, row.angle, row.distance, row.norm_ratio) == pytest.approx((1, 0, 1, 2))
        b = el.Engram({"fc": (torch.tensor([[0.0, 1.0]]), torch.tensor([0.0]))})
        row = analysis.compare(a, b)[0]
        assert (row.cosine, row.angle) == pytest.approx((0, 90))
        assert row.as_dict()["layer"] == "fc"
        tiny = a + 1e-9 * el.Engram({"fc": (torch.tensor([[0.0, 5.0]]).double(), torch.zeros(1).double())})
        assert analysis.compare(a, tiny)[0].angle == pytest.approx(math.degrees(1e-9), rel=1e-4)


class TestErrors:
    x = torch.randn(5, 4).double()

    def test_steps(self) -> None:
        model = mlp()
        a, b = el.collect(model, [self.x]), el.collect(model, [self.x + 1])
        with pytest.raises(ValueError, match="damping"):
            analysis.forgetting_step(model, a, b, damping=-1)
        with pytest.raises(ValueError, match="no G of layer '0'"):
            analysis.forgetting_step(model, a, b, {})
        with pytest.raises(ValueError, match="G of layer '0' has shape"):
            analysis.forgetting_step(model, a, b, {"0": torch.eye(4)})
        with pytest.raises(ValueError, match="fisher: expected shape"):
            analysis.exact_forgetting_step(model, a, b, "0", torch.eye(4))
        with pytest.raises(ValueError, match="no moments of '9'"):
            analysis.exact_forgetting_step(model, a, b, "9", torch.eye(4))
        gradient = analysis.loss_gradient(model, [self.x], lambda z, batch: z.sum(), bias="keep")
        with pytest.raises(ValueError, match="gradient: .*bias mode"):
            analysis.natural_gradient(model, gradient, a)

    def test_theorems(self) -> None:
        one, skew = torch.eye(3), torch.tensor([[1.0, 2.0], [0.0, 1.0]])
        with pytest.raises(ValueError, match="metric: expected a symmetric"):
            analysis.metric_minimiser(torch.ones(2, 3), one, one, skew)
        with pytest.raises(ValueError, match="plus: expected a symmetric"):
            analysis.metric_minimiser(torch.ones(2, 3), torch.eye(2), one, torch.eye(2))
        with pytest.raises(ValueError, match="too many"):
            analysis.metric_minimiser(torch.ones(100, 100), torch.eye(100), torch.eye(100), torch.eye(100))

    def test_compare(self) -> None:
        a = el.Engram({"fc": (torch.ones(2, 2), None)})
        with pytest.raises(ValueError, match="'x' is only in one"):
            analysis.compare(a, el.Engram({"fc": a["fc"], "x": a["fc"]}))
        with pytest.raises(ValueError, match="zero vector"):
            analysis.compare(a, 0.0 * a)
        with pytest.raises(ValueError, match="bias"):
            analysis.compare(a, el.Engram({"fc": (torch.ones(2, 2), torch.ones(2))}))
