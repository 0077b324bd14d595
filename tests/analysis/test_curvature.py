"""The curvature against curvlinops and autograd: every layer type, every layout, example by example."""

from __future__ import annotations

import copy
import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import engramlib as el
from engramlib import analysis
from engramlib.layers import LinearKind, find_layers, register
from tests.analysis.networks import NETWORKS, close, convnet, mlp
from tests.test_examples import LAYOUTS, Laid, encoder

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import curvlinops


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


def test_loss_gradient_is_autograd() -> None:
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


def test_anisotropy() -> None:
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


# ------------------------------------------------------------------------------------------ example by example, densely


def dense_fisher(model: nn.Module, parts: list[Tensor], name: str, loss: str, bias: bool = True) -> Tensor:
    """F = Σ over examples, each alone in its batch, of Jᵀ H J, with J by autograd and H the loss's Hessian."""
    layer = find_layers(model, ".*")[name]
    own = [layer.stored("weight")] + ([layer.stored("bias")] if bias and layer.has_bias else [])
    total: Tensor | float = 0.0
    for part in parts:
        f = model(part)
        rows = []
        for value in f.flatten():
            grads = torch.autograd.grad(value, own, retain_graph=True)
            grads = [layer.rows(g, which) for g, which in zip(grads, ("weight", "bias"), strict=False)]
            rows.append(layer.matrix(grads[0], grads[1] if len(grads) > 1 else None).flatten())
        jacobian = torch.stack(rows).view(-1, f.shape[-1], len(rows[0]))  # a position, its numbers, the parameters
        p = f.detach().reshape(-1, f.shape[-1]).softmax(-1)
        hessian = torch.diag_embed(p) - p[:, :, None] * p[:, None, :] if loss == "cross_entropy" else None
        right = jacobian if hessian is None else hessian @ jacobian
        total = total + torch.einsum("pci,pcj->ij", jacobian, right)
    return total


class Tail(nn.Module):
    """Something nonlinear behind a layer, that tells its positions apart: (n, ..., numbers)."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.numbers, self.scale = numbers, 0.0

    def forward(self, z: Tensor) -> Tensor:
        z = z.flatten(1) * (1 + torch.arange(z[0].numel()).to(z) % 7)
        return torch.stack([part.tanh().sum(1) for part in z.chunk(self.numbers, 1)], 1)


def attention() -> nn.Module:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.attn(x, x, x)[0]

    return Block()


def huggingface() -> nn.Module:
    layer = pytest.importorskip("transformers.pytorch_utils").Conv1D(5, 4)
    nn.init.normal_(layer.bias)
    return layer


KINDS = {
    "linear": (lambda: nn.Linear(4, 3), (4,)),
    "tokens": (lambda: nn.Linear(4, 3), (3, 4)),
    "huggingface": (huggingface, (3, 4)),
    "conv1d": (lambda: nn.Conv1d(4, 3, 2, stride=2, padding=1), (4, 5)),
    "conv2d, groups": (lambda: nn.Conv2d(4, 6, 2, groups=2, dilation=2, padding="same"), (4, 3, 4)),
    "depthwise": (lambda: nn.Conv2d(3, 6, (2, 3), groups=3, bias=False), (3, 4, 3)),
    "transposed 1d": (lambda: nn.ConvTranspose1d(2, 3, 3, stride=2, padding=1, output_padding=1), (2, 4)),
    "transposed 2d": (lambda: nn.ConvTranspose2d(2, 3, (2, 3), stride=(1, 2), dilation=(2, 1), padding=1), (2, 3, 3)),
    "transposed 2d, groups": (lambda: nn.ConvTranspose2d(4, 6, 2, groups=2, stride=2, output_padding=1), (4, 2, 3)),
    "transposed 3d": (lambda: nn.ConvTranspose3d(2, 1, (1, 2, 3), stride=(2, 1, 1), output_padding=0), (2, 2, 2, 2)),
    "layer norm": (lambda: nn.LayerNorm(4), (3, 4)),
    "layer norm, no bias": (lambda: nn.LayerNorm(4, bias=False), (4,)),
    "batch norm 1d": (lambda: nn.BatchNorm1d(4), (4,)),
    "batch norm 1d, sequence": (lambda: nn.BatchNorm1d(4), (4, 3)),
    "batch norm 2d": (lambda: nn.BatchNorm2d(3), (3, 2, 4)),
    "attn.q_proj": (attention, (3, 4)),
    "attn.v_proj": (attention, (3, 4)),
    "attn.out_proj": (attention, (3, 4)),
}


def of_kind(kind: str, n: int = 5) -> tuple[nn.Module, str, Tensor]:
    make, shape = KINDS[kind]
    model = nn.Sequential(make(), Tail(2)).double().eval()
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            tensor.data = torch.rand_like(tensor) + 0.2 * torch.randn_like(tensor)
    return model, f"0.{kind}" if kind.startswith("attn") else "0", torch.randn(n, *shape).double()


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_type_against_autograd(kind: str, loss: str) -> None:
    model, name, x = of_kind(kind)
    exact = dense_fisher(model, list(x.split(1)), name, loss)
    assert exact.norm() > 0 and close(analysis.fisher_block(model, x.split(3), name, loss=loss), exact)
    keep = analysis.fisher_block(model, [x], name, loss=loss, bias="keep")
    assert close(keep, dense_fisher(model, list(x.split(1)), name, loss, bias=False))
    # With one column an example, K-FAC's G is F's trace over the columns of 1: the bias's own block.
    g = analysis.output_factors(model, [x], loss=loss, layers=[name])[name]
    layer = find_layers(model, ".*")[name]
    assert g.shape == (*layer.matrix(layer.module.weight, None).shape[:-1], layer.height)
    if kind in ("linear", "batch norm 1d"):
        groups = layer.matrix(layer.module.weight, None).shape[:-2]
        block = exact.view(-1, layer.height, layer.width(True), exact.shape[0] // layer.height // layer.width(True),
                           layer.height, layer.width(True))[:, :, -1, :, :, -1]  # fmt: skip
        own = torch.stack([block[i, :, i] for i in range(len(block))]).view(*groups, layer.height, layer.height)
        assert close(g * len(x), own)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("kind", KINDS)
def test_the_exact_step_of_every_layer_type(kind: str) -> None:
    """In the metric F = σ² I ⊗ A the exact step is W⁺, of grouped layers too."""
    model, name, x = of_kind(kind, 9)
    how = dict(layers=[name] if kind.startswith("attn") else ["0"])
    target, reference = el.collect(model, [x[:4]], **how), el.collect(model, [x[4:]], **how)
    a = (target + reference)[name]
    layer = find_layers(model, ".*")[name]
    metric = [2.0 * torch.kron(torch.eye(layer.height).double(), part) for part in a.view(-1, *a.shape[-2:])]
    step = analysis.exact_forgetting_step(model, target, reference, name, torch.block_diag(*metric))
    for mine, theirs in zip(step[name], el.extract(model, target, reference)[name], strict=True):
        assert (mine is None and theirs is None) or close(mine, theirs, 1e-5)


def test_a_layer_type_that_does_not_know_its_outputs_is_refused() -> None:
    class Secret(nn.Linear):
        pass

    class SecretKind(LinearKind):
        def matches(self, module: nn.Module) -> bool:
            return isinstance(module, Secret)

        def outputs(self, module: nn.Module, z: Tensor, x: Tensor, shape: torch.Size) -> None:
            return None

    from engramlib import layers

    register(SecretKind())
    try:
        with pytest.raises(TypeError, match="layer '0': a SecretKind does not say where"):
            analysis.output_factors(nn.Sequential(Secret(4, 3)), [torch.randn(5, 4)])
    finally:
        del layers._KINDS[0]


# --------------------------------------------------------------------------------- layouts, precision, checkpointing


@pytest.mark.parametrize("n, tokens", [(4, 4), (2, 4), (4, 2), (3, 4), (1, 4), (2, 2)])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pooled", [True, False])
def test_fisher_of_a_batch_is_the_sum_over_its_examples(layout: str, n: int, tokens: int, pooled: bool) -> None:
    model, x = Laid(*LAYOUTS[layout]).double(), torch.randn(n, tokens, 6).double()
    whole = (lambda m, b: m(b).mean(1)) if pooled else (lambda m, b: m(b)[..., :2])
    exact = dense_fisher(Called(model, whole), list(x.split(1)), "model.a", "squared")
    assert close(analysis.fisher_block(model, [x], "a", loss="squared", forward=whole), exact)
    alone = [analysis.fisher_block(model, [one], "a", loss="squared", forward=whole) for one in x.split(1)]
    assert close(sum(alone), exact)
    g = analysis.output_factors(model, [x], loss="squared", forward=whole)
    ones = [analysis.output_factors(model, [one], loss="squared", forward=whole) for one in x.split(1)]
    assert all(close(g[name], sum(one[name] for one in ones) / n) for name in g)


class Called(nn.Module):
    def __init__(self, model: nn.Module, forward: object) -> None:
        super().__init__()
        self.model, self.call = model, forward

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.model, x)


@pytest.mark.parametrize("tokens", [2, 3, 4])
@pytest.mark.parametrize("shape", ["first", "flat", "last"])
@pytest.mark.parametrize("batch_first", [True, False])
def test_the_transformer_of_torch_in_both_orders(batch_first: bool, shape: str, tokens: int) -> None:
    model, n = encoder(batch_first), 3
    dim = 0 if batch_first else 1
    x = torch.randn(*((n, tokens) if batch_first else (tokens, n)), 8).double()
    forward = {
        "first": lambda m, b: m(b)[..., :3],
        "flat": lambda m, b: m(b).flatten(0, 1)[..., :3],
        "last": lambda m, b: m(b).mean(1 - dim)[..., :3],
    }[shape]
    for name in ("layers.0.linear2", "layers.1.self_attn.k_proj"):
        exact = dense_fisher(Called(model.eval(), forward), list(x.split(1, dim)), f"model.{name}", "cross_entropy")
        assert close(analysis.fisher_block(model, [x, x], name, forward=forward), 2 * exact, 1e-7)
        assert close(analysis.fisher_block(model, [x], name, forward=forward, examples=dim), exact, 1e-7)
    single = x.narrow(dim, 0, 1)
    exact = dense_fisher(Called(model, forward), [single], f"model.{name}", "squared")
    assert close(analysis.fisher_block(model, [single], name, forward=forward, loss="squared"), exact, 1e-7)


def test_examples_that_see_each_other_have_no_fisher_of_their_own() -> None:
    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return self.b(x - x.mean((0, 1), keepdim=True))

    with pytest.raises(ValueError, match="is not clear"):
        analysis.fisher_block(Centred(), [torch.randn(5, 3, 4)], "a")
    with pytest.raises(ValueError, match="is not clear"):
        analysis.output_factors(Centred(), ["?"], forward=lambda m, b: m(torch.ones(5, 3, 4)))


def test_rows_for_examples_are_not_asked_about() -> None:
    for make, shape in NETWORKS.values():
        model, calls = make(), []
        model[0].register_forward_hook(lambda *_, calls=calls: calls.append(1))
        analysis.output_factors(model, [torch.randn(6, *shape).double()] * 2)
        assert len(calls) == 2


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.reentrant = reentrant

    def block(self, x: Tensor) -> Tensor:
        return self.c(self.b(x).tanh()).relu()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if self.reentrant is None:
            return self.head(self.block(x))
        return self.head(checkpoint(self.block, x, use_reentrant=self.reentrant))


@pytest.mark.parametrize("frozen", [False, True])
def test_checkpointing_that_is_not_reentrant_changes_nothing(frozen: bool) -> None:
    plain, other, x = Checkpointed(None).double(), Checkpointed(False).double(), torch.randn(7, 4).double()
    other.load_state_dict(plain.state_dict())
    plain.requires_grad_(not frozen), other.requires_grad_(not frozen)
    batches = [x[:3], x[3:]]
    for fisher in ("exact", "sample"):
        a, b = (analysis.output_factors(m, batches, fisher=fisher) for m in (plain, other))
        assert all(close(a[name], b[name]) for name in "abc") and list(a) == list(b)
    for name in ("a", "b", "head"):
        assert close(analysis.fisher_block(other, batches, name), analysis.fisher_block(plain, batches, name))
    a, b = (analysis.loss_gradient(m, batches, lambda z, _: z.square().sum()) for m in (plain, other))
    assert all(close(a[name].weight, b[name].weight) for name in a)


class Silent(Checkpointed):
    """A block without gradients, in one of the ways there are."""

    def __init__(self, how: object) -> None:
        super().__init__(None)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        with self.how():
            z = self.block(x)
        return self.head(x + z.clone())


@pytest.mark.parametrize("how", ["reentrant", torch.no_grad, torch.inference_mode])
def test_parts_that_run_without_gradients_are_named(how: object) -> None:
    model, x = (Checkpointed(True) if how == "reentrant" else Silent(how)).double(), torch.randn(7, 4).double()
    message = "layer 'b' runs without gradients.*use_reentrant=False"
    for call in (
        lambda: analysis.output_factors(model, [x]),
        lambda: analysis.fisher_block(model, [x], "b"),
        lambda: analysis.loss_gradient(model, [x], lambda z, _: z.sum()),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    if how == "reentrant":  # below the block: torch cannot send gradients through it here
        with pytest.raises(ValueError, match="use_reentrant=False"):
            analysis.fisher_block(model, [x], "a")
        with pytest.raises(ValueError, match="use_reentrant=False"):
            analysis.loss_gradient(model, [x], lambda z, _: z.sum(), layers=["a"])
    assert analysis.fisher_block(model, [x], "head").norm() > 0
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("network", NETWORKS)
def test_inside_autocast_as_outside(network: str) -> None:
    make, shape = NETWORKS[network]
    model, x = make().float(), torch.randn(8, *shape)
    loss = lambda z, _: (z @ z.mT).sum()  # noqa: E731

    def everything() -> list[Tensor]:
        factors = analysis.output_factors(model, [x])
        gradient = analysis.loss_gradient(model, [x], loss)
        return [*factors.values(), analysis.fisher_block(model, [x], "0"), *(e.weight for e in gradient.values())]

    outside = everything()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = everything()
        assert torch.is_autocast_enabled("cpu")
    assert all(close(a, b, 1e-6) for a, b in zip(inside, outside, strict=True))
    torch.set_float32_matmul_precision("medium")
    try:
        assert all(close(a, b, 1e-6) for a, b in zip(everything(), outside, strict=True))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_model_that_needs_autocast_keeps_it() -> None:
    model, x = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3).bfloat16()), torch.randn(8, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert analysis.output_factors(model, [x])["0"].norm() > 0


@pytest.mark.parametrize("part", ["model", "block", "method"])
def test_compiled_and_warm_networks_are_seen_in_every_batch(part: str) -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 6), nn.Tanh()), nn.Linear(6, 3)).double().eval()
    batches = list(torch.randn(9, 4).double().split(3))
    expected = analysis.output_factors(model, batches), analysis.fisher_block(model, batches, "0.0")
    if part == "model":
        model = torch.compile(model, backend="eager")
    elif part == "block":
        model[0] = torch.compile(model[0], backend="eager")
    else:
        model.compile(backend="eager")
    with torch.no_grad():
        for batch in batches:
            model(batch)
    found = analysis.output_factors(model, batches)
    assert all(close(found[name], g) for name, g in expected[0].items())
    assert close(analysis.fisher_block(model, batches, "0.0"), expected[1])
