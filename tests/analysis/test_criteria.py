"""The four scores: closed forms against data, what must be equal and what must not, and controls that fail."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import engramlib as el
from engramlib.analysis import CRITERIA, Criteria, CriteriaRow, random_engram, score_criteria
from tests.conftest import columns_of, with_one
from tests.test_examples import encoder


class Case:
    """A network, target and reference data that partly live in other directions, moments, and an engram."""

    def __init__(self, model: nn.Module, target: Tensor, reference: Tensor, **options: object) -> None:
        self.model, self.plus, self.minus = model.double(), target.double(), reference.double()
        self.target, self.reference = (el.collect(model, [x], **options) for x in (self.plus, self.minus))
        self.engram = el.extract(model, self.target, self.reference)

    def score(self, engram: el.Engram | None = None, **options: object) -> Criteria:
        options = {"batches": ([self.plus], [self.minus]), "draws": 0} | options
        return score_criteria(self.model, engram or self.engram, self.target, self.reference, **options)


def mlp_case(**options: object) -> Case:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3))
    mask = torch.tensor([1.0, 1, 1, 0.2, 0, 0])
    return Case(model, torch.randn(40, 6) * mask, torch.randn(60, 6) * mask.flip(0), **options)


def conv_case() -> Case:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 6, 2, groups=2), nn.Flatten(), nn.Linear(24, 3)
    )
    return Case(model, torch.randn(20, 2, 5, 5) + 1, torch.randn(30, 2, 5, 5))


def numbers(row: CriteriaRow) -> list[float]:
    return [getattr(row, name) for name in CRITERIA]


def closed(left: Tensor, gap: Tensor) -> float:
    return float((1 - left.square().sum() / gap.square().sum()).clamp(0, 1).detach())


@pytest.mark.parametrize("make", [mlp_case, conv_case])
def test_layer_scores_are_what_the_columns_say(make: object) -> None:
    """The traces of moments equal the definitions, evaluated on X itself, with a W0 that is not zero."""
    case = make()
    base = {k: 0.3 * torch.randn_like(v) for k, v in case.model.state_dict().items()}
    engram = el.extract(case.model, case.target, case.reference, base=base)
    rows = {row.layer: row for row in case.score(engram, base=base, batches=None).layers}
    x, y = case.plus, case.minus
    for name, module in case.model.named_children():
        if name in engram:
            xp, xm = with_one(columns_of(module, x)), with_one(columns_of(module, y))

            def act(weight: Tensor, bias: Tensor, columns: Tensor, module: nn.Module = module) -> Tensor:
                w = torch.cat([weight.flatten(1), bias[:, None]], 1)
                return columns @ (w.unflatten(0, (len(columns), -1)) if columns.ndim == 3 else w).mT

            w = (module.weight.detach(), module.bias.detach())
            w0 = (base[f"{name}.weight"], base[f"{name}.bias"])
            v = engram[name]
            gap = act(*w, xp) - act(*w0, xp)
            injected, ablated = act(*w0, xp) + act(*v, xp), act(*w, xp) - act(*v, xp)
            row = rows[name]
            assert row.sufficiency == pytest.approx(closed(injected - act(*w, xp), gap), abs=1e-8)
            assert row.necessity == pytest.approx(closed(ablated - act(*w0, xp), gap), abs=1e-8)
            assert row.specificity == pytest.approx(closed(act(*v, xm), act(*w, xm) - act(*w0, xm)), abs=1e-8)
            cosine = torch.nn.functional.cosine_similarity(act(*v, xp).flatten(), gap.flatten(), dim=0)
            assert row.reactivation == pytest.approx(float(cosine.detach().clamp(0, 1)), abs=1e-8)
        x, y = module(x.clone()), module(y.clone())


def test_layer_by_layer_sufficiency_is_necessity_and_in_the_network_it_is_not() -> None:
    scores = mlp_case().score(draws=2, wrong=mlp_case().engram)
    assert all(row.sufficiency == row.necessity for row in scores.layers)
    network = scores.network[0]
    assert abs(network.sufficiency - network.necessity) > 0.01


def test_a_linear_layer_alone_is_its_own_network() -> None:
    """With one linear layer the two definitions coincide: same gaps, same inputs."""
    x, y = torch.randn(30, 4), torch.randn(50, 4) * torch.tensor([0.1, 1, 1, 2])
    scores = Case(nn.Linear(4, 3), x, y).score()
    assert numbers(scores.layers[0]) == pytest.approx(numbers(scores.network[0]), abs=1e-9)
    assert scores.network[0].specificity_ablated == pytest.approx(scores.network[0].specificity_injected)


def test_two_linear_layers_already_tell_them_apart() -> None:
    """No nonlinearity is needed: the second layer reads other inputs in the injected and in the ablated network.

    With W⁺ = pW in both layers, injection leaves p² of the output and ablation (1 − p)².
    """
    model, p = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False)), 0.7
    case = Case(model, torch.randn(20, 3), torch.randn(20, 3))
    row = case.score(p * el.Engram({n: (m.weight.detach(), None) for n, m in model.named_children()})).network[0]
    assert row.sufficiency == pytest.approx(1 - (1 - p**2) ** 2)
    assert row.necessity == pytest.approx(1 - ((1 - p) ** 2) ** 2)
    assert row.reactivation == pytest.approx(1.0)
    assert row.specificity_ablated == pytest.approx(1 - (1 - (1 - p) ** 2) ** 2)
    assert row.specificity_injected == pytest.approx(1 - (p**2) ** 2)
    assert row.specificity == pytest.approx((row.specificity_ablated + row.specificity_injected) / 2)


def test_a_direction_with_share_s() -> None:
    """Along one direction shared by target and reference, W⁺ = sW: the scores are functions of s alone."""
    layer = nn.Linear(1, 2, bias=False)
    row = Case(layer, torch.ones(10, 1), torch.ones(30, 1)).score(batches=None).layers[0]
    s = 0.25
    assert numbers(row) == pytest.approx([1 - (1 - s) ** 2, 1 - (1 - s) ** 2, 1.0, 1 - s**2])


def test_the_whole_change_and_nothing() -> None:
    case = mlp_case()
    whole = el.Engram({n: (m.weight.detach(), m.bias.detach()) for n, m in case.model.named_children() if n in "024"})
    scores = case.score(whole)
    for row in (*scores.layers, *scores.network):
        assert (row.sufficiency, row.necessity, row.specificity) == pytest.approx((1, 1, 0), abs=1e-9)
        assert row.reactivation == pytest.approx(1)
    scores = case.score(0.0 * whole)
    for row in (*scores.layers, *scores.network):
        assert numbers(row) == pytest.approx([0, 0, 0, 1], abs=1e-9)


def test_a_perfect_engram() -> None:
    """Target and reference in orthogonal inputs, one layer: all four criteria are met, and a random subspace fails."""
    x = torch.randn(80, 12)
    x[:40, 6:], x[40:, :6] = 0, 0
    case = Case(nn.Linear(12, 3, bias=False), x[:40], x[40:])
    scores = case.score(draws=8, wrong=el.extract(case.model, case.reference, case.target))
    by_name = {row.engram: row for row in scores.network}
    assert numbers(by_name["engram"]) == pytest.approx([1, 1, 1, 1], abs=1e-8)
    assert numbers(by_name["wrong"]) == pytest.approx([0, 0, 0, 0], abs=1e-8)
    assert by_name["random"].sufficiency < 0.3 and by_name["random"].reactivation < 0.4


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(-3, 3).map(lambda a: round(a, 6)), st.sampled_from([1e-4, 1.0, 1e4]))
def test_scores_are_in_the_unit_interval_and_ignore_units(seed: int, alpha: float, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    model = nn.Linear(5, 3, bias=False).double()
    model.weight.data = torch.randn(3, 5, generator=generator).double()
    x, y = (scale * torch.randn(n, 5, generator=generator).double() for n in (3, 20))  # rank-deficient target
    case = Case(model, x, y)
    row = case.score(alpha * case.engram, batches=None).layers[0]
    assert all(0 <= value <= 1 for value in numbers(row))
    unit = Case(model, x / scale, y / scale)
    assert numbers(unit.score(alpha * unit.engram, batches=None).layers[0]) == pytest.approx(numbers(row), abs=1e-7)


class TestRandomEngram:
    @pytest.mark.parametrize("make", [mlp_case, conv_case])
    def test_keeps_norms_and_singular_values_and_is_another_subspace(self, make: object) -> None:
        case = make()
        turned = random_engram(case.model, case.engram, seed=3)
        for name, entry in turned.items():
            (a, b) = (torch.cat([e.weight.flatten(1), e.bias[:, None]], 1) for e in (entry, case.engram[name]))
            groups = getattr(case.model.get_submodule(name), "groups", 1)
            for part, other in zip(a.chunk(groups), b.chunk(groups), strict=True):
                assert torch.allclose(torch.linalg.svdvals(part), torch.linalg.svdvals(other), atol=1e-10)
                left = (part @ part.T - other @ other.T).abs().max()
                assert left < 1e-10  # W⁺Q(W⁺Q)ᵀ = W⁺W⁺ᵀ: only the inputs it answers to are others
            assert not torch.allclose(a, b, atol=1e-3)
        assert turned.norm() == pytest.approx(case.engram.norm())

    def test_the_direction_is_uniform(self) -> None:
        """A rank-one engram turned 400 times: the mean direction is 0 and the mean square is 1/d in each coordinate."""
        model = nn.Linear(4, 2, bias=False).double()
        engram = el.Engram({"": (torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0]]).double(), None)})
        rows = torch.stack([random_engram(model, engram, seed=i)[""].weight[0] for i in range(400)])
        assert rows.mean(0).abs().max() < 0.12
        assert (rows.square().mean(0) - 0.25).abs().max() < 0.06

    def test_seed(self) -> None:
        case = mlp_case()
        a, b, c = (random_engram(case.model, case.engram, seed=s)["0"].weight for s in (1, 1, 2))
        assert torch.equal(a, b) and not torch.equal(a, c)

    def test_of_another_model(self) -> None:
        with pytest.raises(ValueError, match="no supported layer 'x'"):
            random_engram(nn.Linear(2, 2), el.Engram({"x": (torch.ones(2, 2), None)}))


class TestNetwork:
    def test_definitions(self) -> None:
        """Against four copies of the network, edited one by one."""
        case = mlp_case()
        m, e = case.model, case.engram
        null = el.null_state(m, e)
        injected, ablated = el.inject(null, e), el.ablate(m, e)
        x, y = case.plus, case.minus
        row = case.score().network[0]
        assert row.sufficiency == pytest.approx(closed(injected(x) - m(x), null(x) - m(x)), abs=1e-9)
        assert row.necessity == pytest.approx(closed(ablated(x) - null(x), null(x) - m(x)), abs=1e-9)
        assert row.specificity_ablated == pytest.approx(closed(ablated(y) - m(y), null(y) - m(y)), abs=1e-9)
        assert row.specificity_injected == pytest.approx(closed(injected(y) - null(y), null(y) - m(y)), abs=1e-9)
        cosines = []
        for stop in (1, 3, 5):
            i, n, w = (net[:stop](x).flatten() for net in (injected, null, m))
            cosines.append(float(torch.nn.functional.cosine_similarity(i - n, w - n, dim=0).detach().clamp(0, 1)))
        assert list(row.reactivation_by_layer.values()) == pytest.approx(cosines, abs=1e-9)
        assert row.reactivation == pytest.approx(sum(cosines) / 3)

    def test_batches_of_any_kind_and_split(self) -> None:
        case = mlp_case()
        expected = numbers(case.score(draws=2).network[1])
        labels = torch.zeros(40, dtype=torch.long)
        target = [(case.plus[:7], labels[:7]), (case.plus[7:], labels[7:])]
        reference = (part for part in case.minus.split(13))
        assert numbers(case.score(draws=2, batches=(target, reference)).network[1]) == pytest.approx(expected)
        dicts = ([{"pixels": case.plus}], [{"pixels": case.minus}])
        forward = lambda model, batch: {"logits": model(batch["pixels"])}  # noqa: E731
        found = case.score(draws=2, batches=dicts, forward=forward)
        assert numbers(found.network[1]) == pytest.approx(expected)

    def test_rows_choose_tokens(self) -> None:
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
        x, y = torch.randn(6, 7, 4).double(), torch.randn(9, 4).double()
        keep = torch.rand(6, 7) < 0.5
        case = Case(model, x[keep], y)
        alone = case.score()
        masked = case.score(
            batches=([{"x": x, "keep": keep}], [{"x": y, "keep": torch.ones(9, dtype=torch.bool)}]),
            rows=lambda batch: batch["keep"],
            forward=lambda model, batch: model(batch["x"]),
        )
        assert numbers(masked.network[0]) == pytest.approx(numbers(alone.network[0]))
        with pytest.raises(ValueError, match="does not fit rows"):
            case.score(batches=([x], [x]), rows=lambda batch: torch.ones(5, dtype=torch.bool))

    def test_readout_decides_what_is_compared(self) -> None:
        case = mlp_case()
        plain, softmax = (case.score(readout=r).network[0] for r in (None, lambda z: z.softmax(-1)))
        assert plain.sufficiency != pytest.approx(softmax.sufficiency, abs=1e-4)
        assert plain.reactivation == softmax.reactivation

    def test_layers_that_write_in_place_are_read_before(self) -> None:
        case = conv_case()
        other = copy.deepcopy(case.model)
        other[1] = nn.ReLU()
        again = score_criteria(
            other, case.engram, case.target, case.reference, batches=([case.plus], [case.minus]), draws=0
        )
        assert again.network[0] == case.score().network[0]

    def test_the_model_comes_back_as_it_was(self) -> None:
        case = mlp_case()
        case.model.train()
        before = copy.deepcopy(case.model.state_dict())
        case.score(draws=1)

        def fail(model: nn.Module, batch: Tensor) -> Tensor:
            model(batch)
            raise RuntimeError("broken")

        with pytest.raises(RuntimeError, match="broken"):
            case.score(forward=fail)
        assert case.model.training and all(module.training for module in case.model)
        assert all(torch.equal(before[k], v) for k, v in case.model.state_dict().items())
        assert all(p.requires_grad for p in case.model.parameters())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in case.model.modules())

    def test_dropout_is_off(self) -> None:
        model = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 2)).train()
        case = Case(model, torch.randn(9, 4), torch.randn(9, 4))
        assert case.score().network == case.score().network

    def test_base_is_the_null_state(self) -> None:
        case = mlp_case()
        start = copy.deepcopy(case.model)
        for p in start.parameters():
            p.data += 0.1 * torch.randn_like(p)
        whole = el.extract(case.model, case.target, case.target, base=start)
        row = case.score(2 * whole, base=start).network[0]  # Σ⁺ = Σ⁻: W⁺ = ΔW/2 on the data
        assert (row.sufficiency, row.necessity) == pytest.approx((1, 1), abs=1e-6)
        assert case.score(2 * whole).network[0].sufficiency < 0.5

    def test_float32(self) -> None:
        case = mlp_case()
        double = numbers(case.score().network[0])
        case.model.float()
        case.engram = el.extract(case.model, case.target, case.reference)
        single = case.score(batches=([case.plus.float()], [case.minus.float()])).network[0]
        assert numbers(single) == pytest.approx(double, abs=1e-4)

    def test_only_some_layers(self) -> None:
        case = mlp_case()
        scores = case.score(case.engram.select(["4"]))
        assert [row.layer for row in scores.layers] == ["4"]
        assert list(scores.network[0].reactivation_by_layer) == ["4"]
        # The layers below stay as they are, so the last layer reads the same inputs in every state.
        assert numbers(scores.network[0]) == pytest.approx(numbers(scores.layers[0]), abs=1e-8)


def test_bias_keep() -> None:
    case = mlp_case(bias="keep")
    assert all(entry.bias is None for entry in case.engram.values())
    assert all(0 <= value <= 1 for row in case.score(draws=1).network for value in numbers(row))


def test_nothing_learned_is_not_an_error() -> None:
    case = mlp_case()
    same = case.model.state_dict()
    row = case.score(0.0 * case.engram, base=same).layers[0]
    assert numbers(row) == [1, 1, 1, 1]
    row = case.score(base=same).network[0]
    assert (row.sufficiency, row.necessity, row.specificity) == (0, 0, 0)


def test_table() -> None:
    scores = mlp_case().score(draws=2, wrong=mlp_case().engram)
    table = scores.table()
    assert len(table) == 3 * 4 and len(scores.network) == 3
    assert set(table[0]) == {"where", "engram", *CRITERIA}
    assert [row["engram"] for row in table[:3]] == ["engram", "random", "wrong"]
    assert [row["where"] for row in table[::3]] == ["0", "2", "4", "whole network"]
    with pytest.raises(AttributeError):
        scores.layers = ()


class TestErrors:
    def test_batches(self) -> None:
        case = mlp_case()
        with pytest.raises(TypeError, match="batches: expected a pair"):
            case.score(batches=[case.plus])
        with pytest.raises(ValueError, match="none of the reference"):
            case.score(batches=([case.plus], []))
        with pytest.raises(TypeError, match="pass `forward`"):
            case.score(forward=lambda model, batch: "text")

    def test_engrams(self) -> None:
        case = mlp_case()
        with pytest.raises(TypeError, match="engram: expected an Engram"):
            case.score({"0": case.engram})
        with pytest.raises(ValueError, match="engram: there are no moments of its layer 'x'"):
            case.score(el.Engram({"x": (torch.ones(1, 1), None)}))
        with pytest.raises(ValueError, match="engram: layer '0' has shape"):
            case.score(el.Engram({"0": (torch.ones(1, 1), None)}))
        with pytest.raises(ValueError, match="bias mode"):
            case.score(mlp_case(bias="keep").engram)
        with pytest.raises(ValueError, match="wrong: an engram of other layers"):
            case.score(wrong=case.engram.select(["0"]))

    @pytest.mark.parametrize("draws", [-1, 1.5, True])
    def test_draws(self, draws: object) -> None:
        with pytest.raises(ValueError, match="draws"):
            mlp_case().score(draws=draws)

    def test_nan(self) -> None:
        case = mlp_case()
        with pytest.raises(ValueError, match="NaN"):
            case.score(readout=lambda z: z * math.nan)


def test_nothing_chosen_is_no_perfect_score() -> None:
    model, x = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.randn(30, 4)
    a, b = el.collect(model, [x[:10]]), el.collect(model, [x[10:]])
    engram = el.extract(model, a, b)
    with pytest.raises(ValueError, match="rows: no example of the target"):
        el.score_criteria(model, engram, a, b, batches=([x], [x]), rows=lambda batch: torch.zeros(30).bool())
    with pytest.raises(ValueError, match="never called layer '0'"):
        el.score_criteria(model, engram, a, b, batches=([x], [x]), forward=lambda m, batch: m[2](batch[:, :3]))


class TestTheWayItRuns:
    def numbers(self, case: Case, batches: object, **options: object) -> list[float]:
        return numbers(case.score(batches=batches, **options).network[0])

    @pytest.mark.parametrize("cached", [True, False])
    def test_inside_autocast_as_outside(self, cached: bool) -> None:
        """Autocast keeps copies of the weights: an edit in place would not be seen."""
        case = mlp_case()
        case.model.float()
        batches = ([case.plus.float()], [case.minus.float()])
        outside = self.numbers(case, batches)
        with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=cached):
            assert self.numbers(case, batches) == pytest.approx(outside, abs=1e-7)
            case.model[2].bfloat16()  # what needs autocast keeps it, and sees the edits
            layers = case.engram.select(["0"])
            assert self.numbers(case, batches, engram=layers)[0] == pytest.approx(
                self.wide(case, batches, layers), abs=0.05
            )

    def wide(self, case: Case, batches: object, engram: el.Engram) -> float:
        case.model.float()
        with torch.autocast("cpu", enabled=False):
            return self.numbers(case, batches, engram=engram)[0]

    @pytest.mark.parametrize("part", ["model", "block", "method"])
    def test_compiled_and_warm(self, part: str) -> None:
        case = mlp_case()
        case.model = model = nn.Sequential(case.model[:3], case.model[3:]).eval()
        case.target, case.reference = (el.collect(model, [x]) for x in (case.plus, case.minus))
        case.engram = el.extract(model, case.target, case.reference)
        batches = (list(case.plus.split(10)), list(case.minus.split(20)))
        expected = self.numbers(case, batches)
        if part == "block":
            model[0] = torch.compile(model[0], backend="eager")
        elif part == "method":
            model.compile(backend="eager")
        else:
            case.model = torch.compile(model, backend="eager")
        with torch.no_grad():
            for side in batches:
                for x in side:
                    case.model(x)
        assert self.numbers(case, batches) == pytest.approx(expected)

    @pytest.mark.parametrize("tokens", [4, 6, 12])
    @pytest.mark.parametrize("batch_first", [True, False])
    def test_rows_are_examples_whatever_the_layout(self, batch_first: bool, tokens: int) -> None:
        model, dim = encoder(batch_first), 0 if batch_first else 1
        x = torch.randn(*((6, tokens) if batch_first else (tokens, 6)), 8).double()
        y = x.flip(0) + 1
        target, reference = el.collect(model, [x]), el.collect(model, [y])
        engram = el.extract(model, target, reference)
        keep = torch.tensor([True, False, True, True, False, False])
        how = dict(draws=0)
        masked = score_criteria(
            model, engram, target, reference, batches=([x], [y]), rows=lambda _: keep, **how
        ).network[0]
        parts = [z.index_select(dim, keep.nonzero()[:, 0]) for z in (x, y)]
        alone = score_criteria(model, engram, target, reference, batches=([parts[0]], [parts[1]]), **how).network[0]
        assert numbers(masked) == pytest.approx(numbers(alone))
        with pytest.raises(ValueError, match="does not fit"):
            score_criteria(
                model, engram, target, reference, batches=([x], [y]), rows=lambda _: torch.ones(5).bool(), **how
            )

    def test_a_mask_of_tokens_is_not_laid_over_channels(self) -> None:
        model = nn.Sequential(nn.Conv2d(2, 5, 3), nn.Flatten(), nn.Linear(45, 5))
        case = Case(model, torch.randn(6, 2, 5, 5), torch.randn(6, 2, 5, 5))
        with pytest.raises(ValueError, match="does not fit"):
            case.score(rows=lambda batch: torch.ones(6, 5).bool())
