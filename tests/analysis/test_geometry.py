"""Theorem 6.1, Corollary 6.3 and Remark 6.2 as tests, and the curvature against curvlinops."""

from __future__ import annotations

import copy
import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import engramlib as el
from engramlib import analysis

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import curvlinops


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


def close(a: Tensor, b: Tensor, tolerance: float = 1e-8) -> bool:
    return bool((a - b).norm() <= tolerance * max(1e-300, float(b.norm())))


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


# ------------------------------------------------------------------------------------------------- against curvlinops


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 6, bias=False), nn.ReLU(), nn.Linear(6, 3)).double()


def convnet() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, stride=2), nn.Tanh(), nn.Conv2d(3, 4, 2, bias=False), nn.ReLU(), nn.Flatten(),
        nn.Identity(), nn.Linear(16, 3),
    ).double()  # fmt: skip


NETWORKS = {"mlp": (mlp, (4,)), "conv": (convnet, (2, 5, 5))}


def block(matrix: Tensor, model: nn.Module, layer: str) -> Tensor:
    """The block of one layer in a matrix over all parameters, reordered from (W, b) to the rows of [W b]."""
    start, index = 0, {}
    for name, p in model.named_parameters():
        index[name] = torch.arange(start, start + p.numel())
        start += p.numel()
    rows = index[f"{layer}.weight"].view(len(model.get_submodule(layer).weight), -1)
    if f"{layer}.bias" in index:
        rows = torch.cat([rows, index[f"{layer}.bias"][:, None]], 1)
    return matrix[rows.flatten()][:, rows.flatten()]


LOSSES = {"cross_entropy": (nn.CrossEntropyLoss, 1.0), "squared": (nn.MSELoss, 2.0)}  # theirs is ‖f − y‖², ours half


def reference_matrix(operator: type, model: nn.Module, x: Tensor, loss: str, **options: object) -> Tensor:
    kind, factor = LOSSES[loss]
    y = torch.randint(0, 3, (len(x),)) if loss == "cross_entropy" else torch.randn(len(x), 3).double()
    found = operator(model, kind(reduction="sum"), list(model.parameters()), [(x, y)], **options)
    return (found @ torch.eye(found.shape[1]).double()) / factor


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("network", NETWORKS)
class TestAgainstCurvlinops:
    def test_kfac(self, network: str, loss: str) -> None:
        make, shape = NETWORKS[network]
        model, x = make(), torch.randn(12, *shape).double()
        reference = reference_matrix(
            curvlinops.KFACLinearOperator, model, x, loss,
            fisher_type=curvlinops.FisherType.TYPE2, separate_weight_and_bias=False,
        )  # fmt: skip
        moments = el.collect(model, x.split(5))
        factors = analysis.output_factors(model, x.split(5), loss=loss)
        assert list(factors) == list(moments)
        for name, g in factors.items():
            assert close(torch.kron(g, moments[name]), block(reference, model, name))

    def test_exact_fisher(self, network: str, loss: str) -> None:
        make, shape = NETWORKS[network]
        model, x = make(), torch.randn(12, *shape).double()
        reference = reference_matrix(curvlinops.GGNLinearOperator, model, x, loss)
        for name in el.collect(model, [x]):
            exact = analysis.fisher_block(model, x.split(5), name, loss=loss)
            assert close(exact, block(reference, model, name))
        assert close(
            analysis.fisher_block(model, [x], "0", loss=loss, bias="keep"),
            reference[: (n := model[0].weight.numel()), :n],
        )


class TestFactors:
    def test_sampling_is_unbiased(self) -> None:
        model, x = mlp(), torch.randn(10, 4).double()
        for loss in LOSSES:
            exact = analysis.output_factors(model, [x], loss=loss)
            many = [analysis.output_factors(model, [x], loss=loss, fisher="sample", seed=s) for s in range(300)]
            for name, g in exact.items():
                mean = sum(sample[name] for sample in many) / len(many)
                assert (mean - g).norm() < 0.12 * g.norm()
            assert not torch.equal(many[0]["4"], many[1]["4"])

    def test_grouped_convolution_is_a_convolution_for_each_group(self) -> None:
        grouped = nn.Sequential(nn.Conv2d(4, 6, 2, groups=2), nn.Tanh(), nn.Flatten(), nn.Linear(24, 3)).double()
        plain = copy.deepcopy(grouped)
        plain[0] = nn.Conv2d(4, 6, 2).double()
        plain[0].weight.data.zero_()
        plain[0].bias.data = grouped[0].bias.data
        for group in range(2):
            outs, ins = slice(3 * group, 3 * group + 3), slice(2 * group, 2 * group + 2)
            plain[0].weight.data[outs, ins] = grouped[0].weight.data[outs]
        x = torch.randn(7, 4, 3, 3).double()
        a, b = (analysis.output_factors(m, [x])["0"] for m in (grouped, plain))
        assert a.shape == (2, 3, 3)
        assert close(a[0], b[:3, :3]) and close(a[1], b[3:, 3:])

    def test_tokens_are_independent_predictions(self) -> None:
        """A network that treats tokens alike has the G of its tokens as a batch; a causal one has not."""
        model, x = mlp(), torch.randn(5, 4, 4).double()
        tokens, flat = analysis.output_factors(model, [x]), analysis.output_factors(model, [x.flatten(0, 1)])
        assert all(close(tokens[n], flat[n]) for n in flat)

        class Causal(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner, self.outer = nn.Linear(4, 5), nn.Linear(5, 3)

            def forward(self, x: Tensor) -> Tensor:
                return self.outer(self.inner(x).tanh().cumsum(1))

        causal = Causal().double()
        exact = analysis.output_factors(causal, [x])
        sampled = [analysis.output_factors(causal, [x], fisher="sample", seed=s)["inner"] for s in range(300)]
        assert (sum(sampled) / 300 - exact["inner"]).norm() < 0.12 * exact["inner"].norm()

    def test_a_layer_used_twice_and_in_place(self) -> None:
        class Twice(nn.Module):
            def __init__(self, inplace: bool) -> None:
                super().__init__()
                self.fc, self.act, self.head = nn.Linear(4, 4), nn.ReLU(inplace=inplace), nn.Linear(4, 3)

            def forward(self, x: Tensor) -> Tensor:
                return self.head(self.act(self.fc(self.act(self.fc(x)))))

        a, b = Twice(True).double(), Twice(False).double()
        b.load_state_dict(a.state_dict())
        x = torch.randn(9, 4).double()
        assert close(analysis.output_factors(a, [x])["fc"], analysis.output_factors(b, [x])["fc"])
        jacobian = torch.func.jacrev(lambda w: torch.func.functional_call(b, {"fc.weight": w}, (x,)))(b.fc.weight)
        p = b(x).softmax(-1).detach()
        hessian = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        exact = torch.einsum("ncij,ncd,ndkl->ijkl", jacobian, hessian, jacobian).reshape(16, 16).detach()
        assert close(analysis.fisher_block(a, [x], "fc", bias="keep"), exact)

    def test_frozen_parameters_and_flags(self) -> None:
        model, x = mlp(), torch.randn(9, 4).double()
        expected = analysis.output_factors(model, [x])
        model.requires_grad_(False).train()
        found = analysis.output_factors(model, [x])
        assert all(close(found[n], expected[n]) for n in expected)
        assert model.training and not any(p.requires_grad for p in model.parameters())
        assert all(p.grad is None for p in model.parameters())
        assert not any(module._forward_hooks for module in model.modules())

    def test_softmax_has_a_null_direction(self) -> None:
        g = analysis.output_factors(mlp(), [torch.randn(9, 4).double()])["4"]
        assert (g @ torch.ones(3).double()).norm() < 1e-12  # the same number on every logit changes no prediction


class TestSteps:
    def test_loss_gradient_is_autograd(self) -> None:
        model, x, y = convnet(), torch.randn(9, 2, 5, 5).double(), torch.arange(9) % 3
        model.requires_grad_(False)
        loss = lambda z, batch: F.cross_entropy(z, batch[1], reduction="sum")  # noqa: E731
        found = analysis.loss_gradient(model, [(x[:4], y[:4]), (x[4:], y[4:])], loss)
        assert not any(p.requires_grad for p in model.parameters())
        model.requires_grad_(True)
        loss(model(x), (x, y)).backward()
        for name, entry in found.items():
            module = model.get_submodule(name)
            assert close(entry.weight, module.weight.grad) and (entry.bias is None) == (module.bias is None)
            assert entry.bias is None or close(entry.bias, module.bias.grad)
        assert analysis.loss_gradient(model, [(x, y)], loss, bias="keep")["6"].bias is None

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
    def test_anisotropy(self) -> None:
        turn = torch.linalg.qr(torch.randn(6, 6).double())[0]
        round_ = analysis.anisotropy(7 * torch.eye(6))
        assert (round_.largest_over_mean, round_.effective_rank, round_.distance, round_.size) == pytest.approx(
            (1, 6, 0, 6)
        )
        values = torch.tensor([9.0, 3, 1, 1, 1, 0]).double()
        g = (turn * values) @ turn.T
        found = analysis.anisotropy(1e-6 * g)
        best = min(float((g - c * torch.eye(6)).norm() / g.norm()) for c in torch.linspace(0, 5, 5001))
        assert found.distance == pytest.approx(best, abs=1e-6)
        assert found.largest_over_mean == pytest.approx(9 / 2.5)
        cosine = float(g.trace()) / (6**0.5 * float(g.norm()))
        assert found.distance == pytest.approx(math.sqrt(1 - cosine**2))

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

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda m, x: analysis.output_factors(m, [x], loss="hinge"), "loss"),
            (lambda m, x: analysis.output_factors(m, [x], fisher="empirical"), "fisher"),
            (lambda m, x: analysis.output_factors(m, []), "batches"),
            (lambda m, x: analysis.output_factors(m, [x], layers=["9"]), "'9'"),
            (lambda m, x: analysis.output_factors(m, [x], forward=lambda m, b: m[0](b)), "never called layer '2'"),
            (
                lambda m, x: analysis.output_factors(m, [x], forward=lambda m, b: (m[0](b), m(b))[0]),
                "does not depend on it",
            ),
            (lambda m, x: analysis.fisher_block(m, [x], "1"), "full name"),
            (lambda m, x: analysis.fisher_block(m, [x], "0", limit=10), "25 parameters.*GB"),
            (lambda m, x: analysis.fisher_block(m, [x], "0", bias="no"), "bias"),
            (lambda m, x: analysis.loss_gradient(m, [x], lambda z, b: z), "scalar"),
            (lambda m, x: analysis.loss_gradient(m, [], lambda z, b: z.sum()), "batches"),
            (lambda m, x: analysis.loss_gradient(m, [x], lambda z, b: m[0](b).sum()), "layer '2'"),
            (lambda m, x: analysis.anisotropy(torch.zeros(3, 3)), "zero"),
            (lambda m, x: analysis.anisotropy(torch.ones(2, 3)), "factor"),
        ],
    )
    def test_values(self, call: object, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            call(mlp(), self.x)

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
