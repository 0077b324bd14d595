"""Statistics: streamed = dense, sharing, masks, concepts, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import engramlib as el
from engramlib import _products, _recorder
from tests.conftest import columns_of, with_one


def dense_moments(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Σ of each layer of a Sequential from all its inputs at once."""
    result = {}
    for number, module in enumerate(model):
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            columns = columns_of(module, x)
            columns = with_one(columns) if module.bias is not None else columns
            result[str(number)] = columns.mT @ columns
        x = module(x)
    return {name: sigma.detach() for name, sigma in result.items()}


def same(a: el.Moments, b: dict[str, Tensor] | el.Moments) -> bool:
    return list(a) == list(b) and all(
        torch.allclose(a[n], b[n], rtol=1e-9, atol=1e-9 * float(b[n].abs().max())) for n in a
    )


def test_streamed_equals_dense_in_any_split_and_order(mlp: nn.Sequential) -> None:
    mlp, x = mlp.double(), torch.randn(50, 6).double()
    expected = dense_moments(mlp, x)
    for split in (1, 7, 50):
        assert same(el.collect(mlp, x.split(split)), expected)
    assert same(el.collect(mlp, x[torch.randperm(50)].split(9)), expected)
    assert el.collect(mlp, x.split(7)).count == {"0": 50, "2": 50, "4": 50}


def test_large_convolution_inputs_go_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2)).double()
    x = torch.randn(9, 3, 10, 10).double()
    expected = dense_moments(model, x)
    monkeypatch.setattr(_recorder, "_PIECE_BYTES", 3000)
    monkeypatch.setattr(_products, "BLOCK", {"cpu": 5})
    monkeypatch.setattr(_recorder, "_ENOUGH", 40)
    moments = el.collect(model, [x])
    assert same(moments, expected)
    assert moments.count == {"0": 900, "2": 576}


def test_sums_are_exactly_symmetric(mlp: nn.Sequential) -> None:
    assert all(torch.equal(s, s.mT) for s in el.collect(mlp, [torch.randn(40, 6)]).values())


def test_float32_activations_are_summed_in_float64(mlp: nn.Sequential) -> None:
    x = torch.randn(2000, 6) + 100
    sigma = el.collect(mlp, x.split(100))["0"]
    exact = with_one(x.double()).T @ with_one(x.double())
    assert sigma.dtype == torch.float64 and torch.allclose(sigma, exact, rtol=1e-12)
    assert el.collect(mlp, [x], dtype=torch.float32)["0"].dtype == torch.float32


def test_bias_keep_has_no_constant(mlp: nn.Sequential) -> None:
    x = torch.randn(10, 6)
    assert el.collect(mlp, [x], bias="keep")["0"].shape == (6, 6)
    assert el.collect(mlp, [x], bias="absorb")["0"].shape == (7, 7)
    assert el.collect(nn.Linear(6, 2, bias=False), [x], bias="absorb")[""].shape == (6, 6)


@pytest.mark.parametrize("kind", ["tensor", "tuple", "list", "dict", "bare tensor", "generator", "loader", "forward"])
def test_kinds_of_batches(mlp: nn.Sequential, kind: str) -> None:
    # In float64: in float32 some processors multiply five rows in another order than twenty.
    mlp, x, y = mlp.double(), torch.randn(20, 6).double(), torch.zeros(20)
    expected = el.collect(mlp, [x])
    forward = None
    batches = {
        "tensor": [x],
        "tuple": [(x[:5], y[:5]), (x[5:], y[5:])],
        "list": [[x, y]],
        "dict": [{"input": x}],
        "bare tensor": x,
        "generator": (part for part in x.split(6)),
        "loader": torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=8),
        "forward": [{"pixels": x}],
    }[kind]
    if kind == "forward":
        forward = lambda model, batch: model(batch["pixels"])  # noqa: E731
    assert same(el.collect(mlp, batches, forward=forward), expected)


class Attention(nn.Module):
    """Three projections of one tensor, in an order and with branches that a test chooses."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(4, 4, bias=False) for _ in range(4))
        self.skip_k = self.copy_v = self.twice = False

    def forward(self, x: Tensor) -> Tensor:
        a = self.q(x)
        b = x if self.skip_k else self.k(x)
        c = self.v(2 * x if self.copy_v else x)
        if self.twice:
            c = c + self.q(3 * x)
        return self.o(a + b + c)


def test_layers_that_read_one_tensor_share_one_sum() -> None:
    model, x = Attention(), torch.randn(10, 3, 4)
    moments = el.collect(model, x.split(3))
    assert moments["q"] is moments["k"] is moments["v"]
    assert moments["o"] is not moments["q"]
    assert moments.count["k"] == 30


@pytest.mark.parametrize("change", ["skip_k", "copy_v", "twice"])
@pytest.mark.parametrize("when", ["first", "later"])
def test_sharing_never_changes_the_answer(change: str, when: str) -> None:
    model, x = Attention().double(), torch.randn(6, 3, 4).double()
    halves = [x[:3], x[3:]]

    def forward(model: Attention, batch: Tensor) -> Tensor:
        setattr(model, change, (batch is halves[0]) == (when == "first"))
        return model(batch)

    moments = el.collect(model, halves, forward=forward)
    changed, plain = halves if when == "first" else halves[::-1]
    changed, plain = changed.flatten(0, 1), plain.flatten(0, 1)
    outer = lambda z: z.T @ z  # noqa: E731
    expected = {name: outer(changed) + outer(plain) for name in "qkv"}
    if change == "skip_k":
        expected["k"] = outer(plain)
    if change == "copy_v":
        expected["v"] = outer(2 * changed) + outer(plain)
    if change == "twice":
        expected["q"] = outer(changed) + outer(3 * changed) + outer(plain)
    for name, sigma in expected.items():
        assert torch.allclose(moments[name], sigma), name


def test_a_tensor_changed_in_place_is_not_the_same_tensor() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            x = x.clone()
            y = self.a(x)
            return y + self.b(x.mul_(2))

    x = torch.randn(5, 3)
    moments = el.collect(Model(), [x, x])
    assert torch.allclose(moments["b"], 4 * moments["a"])


def test_views_of_one_tensor_share_only_if_they_are_alike_and_unchanged() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name in "abcde":
                setattr(self, name, nn.Linear(3, 3, bias=False))

        def forward(self, x: Tensor) -> Tensor:
            x = x.clone()
            y = self.a(x) + self.b(x.T.T) + self.c(x.T) + self.d(x.clone())
            x.T.mul_(2)
            return y + self.e(x.T.T)

    x = torch.randn(3, 3)
    moments = el.collect(Model(), [x, x])
    assert moments["a"] is moments["b"] and len({id(s) for s in moments.values()}) == 4
    assert torch.allclose(moments["c"], 2 * x.double() @ x.double().T)
    assert torch.allclose(moments["e"], 4 * moments["a"])


def test_a_shared_module_is_counted_at_every_call() -> None:
    layer = nn.Linear(3, 3, bias=False)
    model = nn.Sequential(layer, layer).double()
    x = torch.randn(5, 3).double()
    z = layer(x).detach()
    moments = el.collect(model, [x])
    assert list(moments) == ["0"] and moments.count["0"] == 10
    assert torch.allclose(moments["0"], x.T @ x + z.T @ z)


class TestRowsAndConcepts:
    def test_rows_choose_examples(self, mlp: nn.Sequential) -> None:
        x, y = torch.randn(30, 6), torch.arange(30) % 3
        moments = el.collect(mlp, [(x, y)], rows=lambda batch: batch[1] == 2)
        assert same(moments, el.collect(mlp, [x[y == 2]])) and moments.count["0"] == 10

    def test_rows_choose_tokens(self) -> None:
        model, x = Attention(), torch.randn(4, 5, 4)
        mask = torch.rand(4, 5) > 0.5
        moments = el.collect(model, [x], rows=lambda _: mask)
        kept = x[mask].double()
        assert torch.allclose(moments["q"], kept.T @ kept) and moments.count["q"] == int(mask.sum())
        by_example = el.collect(model, [x], rows=lambda _: torch.tensor([True, False, False, True]))
        assert same(by_example, el.collect(model, [x[[0, 3]]]))

    def test_images_are_chosen_whole(self) -> None:
        conv, x = nn.Conv2d(2, 3, 3), torch.randn(6, 2, 5, 5)
        mask = torch.tensor([1, 0, 0, 1, 1, 0]).bool()
        assert same(el.collect(conv, [x], rows=lambda _: mask), el.collect(conv, [x[mask]]))

    def test_one_pass_for_all_concepts(self, mlp: nn.Sequential) -> None:
        mlp, x, y = mlp.double(), torch.randn(40, 6).double(), torch.randint(-1, 3, (40,))
        found = el.collect_by_concept(mlp, list(zip(x.split(9), y.split(9), strict=True)), lambda batch: batch[1])
        assert list(found) == [0, 1, 2]
        for concept, moments in found.items():
            assert same(moments, el.collect(mlp, [x[y == concept]]))

    def test_concepts_of_tokens_with_rows(self) -> None:
        model, x = Attention(), torch.randn(4, 5, 4)
        concept, attended = torch.randint(0, 2, (4, 5)), torch.rand(4, 5) > 0.3
        found = el.collect_by_concept(model, [x], lambda _: concept, rows=lambda _: attended)
        kept = x[(concept == 1) & attended].double()
        assert torch.allclose(found[1]["v"], kept.T @ kept)
        assert found[1]["q"] is found[1]["v"]
        # one value per example beside one per token
        per_example = torch.tensor([0, 1, 1, -1])
        found = el.collect_by_concept(model, [x], lambda _: per_example, rows=lambda _: attended)
        kept = x[1:3][attended[1:3]].double()
        assert torch.allclose(found[1]["v"], kept.T @ kept)

    def test_masked_rows_may_hold_anything(self) -> None:
        linear, x = nn.Linear(3, 2), torch.randn(4, 3)
        x[1] = torch.nan
        moments = el.collect(linear, [x], rows=lambda batch: ~batch.isnan().any(1))
        assert torch.isfinite(moments[""]).all()

    def test_a_layer_that_one_concept_never_reaches_has_zero(self) -> None:
        class Router(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)

            def forward(self, x: Tensor) -> Tensor:
                return self.a(x) if x.sum() > 0 else self.b(x)

        x = torch.ones(2, 2)
        found = el.collect_by_concept(
            Router(), [(x, torch.zeros(2).long()), (-x, torch.ones(2).long())], lambda b: b[1]
        )
        assert found[0]["b"].abs().sum() == 0 and found[0].count["b"] == 0 and found[1].count["b"] == 2


class TestErrors:
    @pytest.mark.parametrize("batches", [[], iter([])])
    def test_no_batches(self, mlp: nn.Sequential, batches: object) -> None:
        with pytest.raises(ValueError, match="batches"):
            el.collect(mlp, batches)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
    def test_values_that_are_not_numbers_name_the_layer(self, mlp: nn.Sequential, bad: float) -> None:
        mlp[2].weight.data[0, 0] = bad
        mlp[2].bias.data[1] = bad
        with pytest.raises(ValueError, match="layer '4'.*NaN or infinite"):
            el.collect(mlp, [torch.rand(5, 6), torch.rand(5, 6)])

    @pytest.mark.parametrize("mask", [torch.ones(4).bool(), torch.ones(5, 3).bool(), torch.ones(1).bool()])
    def test_masks_of_the_wrong_length(self, mlp: nn.Sequential, mask: Tensor) -> None:
        with pytest.raises(ValueError, match="layer '0'.*does not fit"):
            el.collect(mlp, [torch.rand(5, 6)], rows=lambda _: mask)

    def test_other_bad_masks(self, mlp: nn.Sequential) -> None:
        x = torch.rand(5, 6)
        with pytest.raises(ValueError, match="rows: expected a boolean"):
            el.collect(mlp, [x], rows=lambda _: torch.rand(5))
        with pytest.raises(ValueError, match="rows: no example"):
            el.collect(mlp, [x], rows=lambda _: torch.zeros(5).bool())
        with pytest.raises(ValueError, match="rows: expected shape"):
            el.collect(mlp, [x], rows=lambda _: torch.ones(5, 1, 1).bool())
        with pytest.raises(ValueError, match="concepts: expected integers"):
            el.collect_by_concept(mlp, [x], lambda _: torch.rand(5))
        with pytest.raises(ValueError, match="concepts: no example"):
            el.collect_by_concept(mlp, [x], lambda _: -torch.ones(5).long())
        with pytest.raises(ValueError, match="disagree"):
            el.collect_by_concept(mlp, [x], lambda _: torch.zeros(5).long(), rows=lambda _: torch.ones(4).bool())
        with pytest.raises(TypeError, match="concepts"):
            el.collect_by_concept(mlp, [x], torch.zeros(5).long())
        with pytest.raises(TypeError, match="rows"):
            el.collect(mlp, [x], rows=torch.ones(5).bool())

    def test_other_arguments(self, mlp: nn.Sequential) -> None:
        x = torch.rand(5, 6)
        with pytest.raises(ValueError, match="bias"):
            el.collect(mlp, [x], bias="drop")
        with pytest.raises(ValueError, match="dtype"):
            el.collect(mlp, [x], dtype=torch.float16)
        with pytest.raises(ValueError, match="layers"):
            el.collect(mlp, [x], layers=["fc9"])
        with pytest.raises(ValueError, match=r"\[\(x, y\)\]"):
            el.collect(mlp, (x, torch.zeros(5).long()))
        with pytest.raises(TypeError, match="batches"):
            el.collect(mlp, [7])
        with pytest.raises(TypeError, match="batches"):
            el.collect(mlp, 7)
        with pytest.raises(TypeError, match="model"):
            el.collect(lambda x: x, [x])

    def test_layers_that_are_never_called(self) -> None:
        class Half(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.used, self.unused = nn.Linear(2, 2), nn.Linear(2, 2)

            def forward(self, x: Tensor) -> Tensor:
                return self.used(x)

        with pytest.warns(UserWarning, match="'unused'"):
            assert list(el.collect(Half(), [torch.ones(1, 2)])) == ["used"]
        with pytest.raises(ValueError, match="never called layer 'unused'"):
            el.collect(Half(), [torch.ones(1, 2)], layers=["unused", "used"])


class TestTheModelIsLeftAlone:
    def model(self) -> nn.Sequential:
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(), nn.Flatten(), nn.Linear(18, 2))
        model.train()
        model[1].eval()
        return model

    def state(self, model: nn.Module) -> tuple[object, ...]:
        hooks = [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()]
        return hooks, [m.training for m in model.modules()], {k: v.clone() for k, v in model.state_dict().items()}

    @pytest.mark.parametrize("fail", [False, True])
    def test_hooks_flags_and_running_statistics(self, fail: bool) -> None:
        model = self.model()
        before = self.state(model)
        x = torch.randn(4, 1, 5, 5)
        if fail:
            with pytest.raises(ValueError, match="layer '0' cannot read"):
                el.collect(model, [x, torch.randn(4, 7, 5, 5)])
        else:
            el.collect(model, [x])
        after = self.state(model)
        assert before[:2] == after[:2]
        assert all(torch.equal(before[2][k], after[2][k]) for k in before[2])
        assert all(p.grad is None for p in model.parameters())

    def test_dropout_is_off_while_collecting(self) -> None:
        model, x = self.model(), torch.randn(4, 1, 5, 5)
        assert same(el.collect(model, [x]), el.collect(model.eval(), [x]))


@pytest.mark.parametrize("order", [(8, 3), (3, 8)])
def test_a_shared_input_may_be_overwritten(order: tuple[int, int]) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            x = x.clone()
            y = self.a(x)
            if len(x) > 5:
                y = y + self.b(x)
            x.relu_()
            return y + x

    parts = [torch.randn(n, 3) for n in order]
    moments = el.collect(Model(), parts)
    for name, seen in (("a", parts), ("b", [p for p in parts if len(p) > 5])):
        x = torch.cat(seen).double()
        assert torch.allclose(moments[name], x.T @ x) and moments.count[name] == len(x)


def test_transformer_encoder_with_a_padding_mask() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model, x = nn.TransformerEncoder(layer, 2), torch.randn(3, 5, 8)
    pad = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1]]).bool()
    fast = torch.backends.mha.get_fastpath_enabled()
    batch = {"src": x, "src_key_padding_mask": pad}
    moments = el.collect(model, [batch], layers=["linear1", "linear2"], rows=lambda b: ~b["src_key_padding_mask"])
    assert set(moments.count.values()) == {13} and torch.backends.mha.get_fastpath_enabled() == fast


def test_a_mask_of_tokens_on_vectors_names_the_layer() -> None:
    with pytest.raises(ValueError, match="layer ''"):
        el.collect(nn.Linear(4, 2), [torch.randn(3, 4)], rows=lambda _: torch.ones(3, 4).bool())
