"""What an edit will do to each layer, from moments: against the edit itself, layer by layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import engramlib as el
from engramlib.analysis import Foresight, foresee, overall

SHAPES = {
    "wide": (lambda: nn.Linear(7, 3), (60, 7)),
    "no bias": (lambda: nn.Linear(4, 9, bias=False), (60, 4)),
    "one row": (lambda: nn.Linear(5, 1), (60, 5)),
    "convolution": (lambda: nn.Conv2d(4, 6, 3, padding=1), (20, 4, 5, 5)),
    "groups": (lambda: nn.Conv2d(4, 6, 3, groups=2), (20, 4, 5, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 4, 2, stride=2, bias=False), (20, 3, 3, 3)),
}


@pytest.fixture(params=list(SHAPES))
def case(request):
    make, shape = SHAPES[request.param]
    torch.manual_seed(3)
    model, x = nn.Sequential(make()).double(), torch.randn(shape, dtype=torch.float64)
    x = x * torch.linspace(0.2, 3, shape[1], dtype=torch.float64).reshape(1, -1, *(1,) * (len(shape) - 2))
    quarter = len(x) // 4
    return model, x.split(quarter)[:4]


def response(model: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float(model(x).square().sum())


@pytest.mark.parametrize("alpha", [-0.5, 0.0, 0.7, 1.0, 2.5])
def test_it_is_what_the_edited_layer_does_on_data_that_no_moment_of_the_engram_saw(case, alpha):
    model, (target, reference, fresh, others) = case
    engram = el.extract(model, el.collect(model, [target]), el.collect(model, [reference]), specificity=2.0)
    seen = foresee(model, engram, el.collect(model, [fresh]), el.collect(model, [others]))["0"]
    edited = el.ablate(model, engram, alpha)
    left = response(edited, fresh) / response(model, fresh)
    assert seen.left(alpha) == pytest.approx(left, rel=1e-5, abs=1e-9)
    with torch.no_grad():
        moved = float((edited(others) - model(others)).square().sum()) / response(model, others)
    assert seen.moved(alpha) == pytest.approx(moved, rel=1e-5, abs=1e-9)


def test_its_alpha_leaves_least(case):
    model, (target, reference, fresh, others) = case
    engram = el.extract(model, el.collect(model, [target]), el.collect(model, [reference]), specificity=4.0)
    seen = foresee(model, engram, el.collect(model, [fresh]), el.collect(model, [others]))["0"]
    for step in (-0.1, 0.1):
        assert seen.left(seen.alpha) < seen.left(seen.alpha + step)
        edited = el.ablate(model, engram, seen.alpha + step)
        assert response(edited, fresh) > response(el.ablate(model, engram, seen.alpha), fresh)


def test_on_its_own_columns_the_papers_engram_wants_at_least_its_own_strength():
    """λ = 1: P⁺ shrinks every direction by the target's share, so the best α on X⁺ itself is at least 1."""
    torch.manual_seed(0)
    model, x = nn.Linear(6, 4).double(), torch.randn(80, 6, dtype=torch.float64)
    plus, minus = el.collect(model, [x[:30]]), el.collect(model, [x[30:]])
    seen = foresee(model, el.extract(model, plus, minus), plus, minus)[""]
    assert seen.alpha > 1 and 0 < seen.left(seen.alpha) < seen.left(1.0) < 1


def test_layers_count_alike_and_a_silent_one_has_nothing_to_lose():
    parts = {"a": Foresight(1.0, 2.0, 0.5), "b": Foresight(0.5, 1.0, 0.1)}
    mean = overall(parts)
    assert (mean.overlap, mean.size, mean.spill) == (0.75, 1.5, pytest.approx(0.3))
    assert mean.alpha == 0.5 and mean.left(0.5) == pytest.approx(1 - 0.75 + 0.375)
    assert Foresight(0.0, 0.0, 0.0).alpha == 0

    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    nn.init.zeros_(model[2].weight)
    nn.init.zeros_(model[2].bias)
    x = torch.randn(20, 3)
    plus, minus = el.collect(model, [x[:9]]), el.collect(model, [x[9:]])
    found = foresee(model, el.extract(model, plus, minus), plus, minus)
    assert list(found) == ["0", "2"] and found["2"] == Foresight(0.0, 0.0, 0.0)
