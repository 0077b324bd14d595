"""Updates that leave a memory alone: the formula, what it minimises, and every kind of layer."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import engramlib as el
from engramlib.layers import find_layers


def pair(seed: int = 0, d: int = 5) -> tuple[Tensor, Tensor]:
    luck = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=luck, dtype=torch.float64)
    return tuple(torch.randn(n, d, generator=luck, dtype=torch.float64) @ m for n, m in ((30, mix), (40, mix.T)))


def moments(x: Tensor, name: str = "") -> el.Moments:
    return el.Moments({name: x.T @ x}, {name: len(x)})


@pytest.mark.parametrize("lam", [0.3, 1.0, 20.0])
def test_the_projected_update_minimises_what_it_says(lam: float) -> None:
    x, new = pair()
    P = el.projections(moments(x), moments(new), specificity=lam)[""]
    D = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    best = (D - D @ P).requires_grad_()
    loss = (best @ x.T).square().sum() + lam * ((best - D) @ new.T).square().sum()
    (gradient,) = torch.autograd.grad(loss, best)
    assert float(gradient.norm()) < 1e-8 * float(loss.detach())


def test_it_is_the_update_without_its_engram() -> None:
    """Of the change since W0, the paper's engram of the old data beside the new ones is taken out."""
    torch.manual_seed(0)
    model, (x, new) = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)).double(), pair()
    base = copy.deepcopy(model)
    old, now = (el.collect(base, [part], exact=True) for part in (x, new))
    with torch.no_grad():
        changed = copy.deepcopy(model)
        for p in changed.parameters():
            p.add_(torch.randn_like(p))
    with torch.no_grad(), el.protected(model, el.projections(old, now, specificity=2.0)):
        model.load_state_dict(changed.state_dict())
    with pytest.warns(UserWarning, match="other weights"):
        engram = el.extract(changed, old, now, specificity=2.0, base=base.state_dict())
    wanted = el.ablate(changed, engram)
    for a, b in zip(model.parameters(), wanted.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-10)


@pytest.mark.parametrize("energy", [0.3, 0.9, 1.0])
def test_energy_keeps_the_fewest_directions_that_hold_it(energy: float) -> None:
    x, _ = pair(3)
    sigma = x.T @ x
    P = el.projections(moments(x), energy=energy)[""]
    values = torch.linalg.eigvalsh(sigma).flip(0)
    fewest = int((values.cumsum(0) < energy * values.sum() - 1e-9).sum()) + 1
    assert torch.allclose(P @ P, P) and torch.allclose(P, P.T) and round(float(P.trace())) == fewest
    assert float((P @ sigma).trace()) >= energy * float(sigma.trace()) - 1e-9


def image_net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(16, 3))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]


@pytest.mark.parametrize(
    ("build", "shape"), [(image_net, (2, 6, 6)), (Attention, (3, 6)), (lambda: nn.Linear(40, 3), (40,))]
)
@pytest.mark.parametrize("optimiser", [torch.optim.Adam, torch.optim.SGD])
def test_old_inputs_are_answered_as_before_in_every_kind_of_layer(build, shape, optimiser) -> None:
    """Few old inputs do not fill the space: nothing that a layer answers on them moves, whatever the optimiser."""
    torch.manual_seed(0)
    model, old, new = build().double(), torch.randn(2, *shape).double(), torch.randn(9, *shape).double()
    before = copy.deepcopy(model)
    P = el.projections(el.collect(model, [old], exact=True), energy=1.0)
    steps = optimiser(model.parameters(), lr=0.05)
    for _ in range(3):
        steps.zero_grad()
        model(new).square().sum().backward()
        with el.protected(model, P):
            steps.step()
    name, first = next(iter(find_layers(model).items()))
    was = find_layers(before)[name]
    columns = first.kind.columns(first.module, old)
    columns = torch.cat([columns, torch.ones_like(columns[..., :1])], -1)
    step = first.matrix(first.weight, first.bias) - was.matrix(was.weight, was.bias)
    assert float((columns @ step.mT).norm()) < 1e-9
    free = int(columns.shape[-1]) > columns.flatten(0, -2).shape[0]
    assert not free or float(step.norm()) > 1e-3  # where room is left, it learns


def test_half_of_a_bias_is_no_bias_and_an_error_projects_nothing() -> None:
    model, x = nn.Linear(5, 3).double(), pair()[0]
    before = copy.deepcopy(model)
    kept = el.projections(el.collect(model, [x], bias="keep"), energy=1.0)
    with torch.no_grad(), el.protected(model, kept):
        model.weight.add_(1.0)
        model.bias.add_(1.0)
    assert torch.allclose(model.weight, before.weight, atol=1e-9) and torch.equal(model.bias, before.bias + 1)
    with pytest.raises(ZeroDivisionError), torch.no_grad(), el.protected(model, kept):
        model.weight.add_(1.0)
        1 / 0  # noqa: B018
    assert torch.allclose(model.weight, before.weight + 1, atol=1e-9)


def test_layers_that_share_their_moments_share_a_projection() -> None:
    torch.manual_seed(0)
    model = Attention()
    found = el.projections(el.collect(model, [torch.randn(9, 3, 6)]))
    assert found["attention.q_proj"] is found["attention.v_proj"] is not found["attention.out_proj"]
