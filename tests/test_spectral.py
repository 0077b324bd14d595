"""What may be factorised, what is cut, and how much that leaves out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import engramlib as el
from engramlib import spectral
from engramlib.spectral import Spectrum, check_semidefinite, inverses, is_easy, nothing_is_cut, units_of


def sum_of(n: int, d: int, scale: float = 1.0) -> Tensor:
    x = scale * torch.randn(n, d).double()
    return x.T @ x


@pytest.mark.parametrize("place", [(0, 0), (0, 2)])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_and_infinity_are_refused(place: tuple[int, int], value: float) -> None:
    sigma = sum_of(9, 4)
    sigma[place] = sigma[place[::-1]] = value
    with pytest.raises(ValueError, match="NaN or infinite"):
        Spectrum(sigma)


def test_what_is_no_sum_of_outer_products_is_refused() -> None:
    with pytest.raises(ValueError, match="not symmetric"):
        Spectrum(torch.randn(4, 4).double())
    with pytest.raises(ValueError, match="negative variance"):
        Spectrum(-sum_of(9, 4))
    path = 0.99 * (torch.ones(3, 3) - torch.eye(3)) + torch.eye(3)
    path[0, 2] = path[2, 0] = 0.0  # 1 is like 2 and 2 like 3, but 1 is not like 3
    with pytest.raises(ValueError, match="not positive semi-definite.*-0.4 to 2.4"):
        Spectrum(path)
    with pytest.raises(ValueError, match="shape"):
        Spectrum(torch.ones(2, 3))
    with pytest.raises(ValueError, match="shape"):
        Spectrum(torch.ones(0, 0))
    with pytest.raises(TypeError, match="real"):
        Spectrum(torch.eye(2, dtype=torch.complex64))
    with pytest.raises(TypeError, match="real"):
        Spectrum([[1.0]])


def test_rounding_is_no_fault() -> None:
    x = torch.randn(2000, 6)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        sigma = (x.to(dtype).T @ x.to(dtype) / 100).to(dtype)
        assert int(Spectrum(sigma, 0.1).rank) == 6
    low = torch.randn(2000, 2) @ torch.randn(2, 6)
    assert int(Spectrum((low.T @ low).double()).rank) == 2  # made in float32: its negative eigenvalues are rounding
    assert float(Spectrum(torch.zeros(3, 3)).pinv().abs().max()) == 0


def test_another_cut_of_the_same_factorisation() -> None:
    sigma = torch.diag(torch.tensor([1.0, 1e-2, 1e-5]).double())
    coarse = Spectrum(sigma, 1e-1)
    fine = coarse.at(1e-6)
    assert int(coarse.rank) == 1 and int(fine.rank) == 3 and int(coarse.at(1e-3).rank) == 2
    assert torch.equal(fine.pinv(), Spectrum(sigma, 1e-6).pinv())
    with pytest.raises(ValueError, match="rcond"):
        coarse.at(1.0)


def test_a_factorisation_that_fails_is_tried_again_and_then_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    eigh, left = torch.linalg.eigh, [1]

    def fails(sigma: Tensor) -> tuple[Tensor, Tensor]:
        if left[0]:
            left[0] -= 1
            raise torch.linalg.LinAlgError("did not converge")
        return eigh(sigma)

    monkeypatch.setattr(torch.linalg, "eigh", fails)
    sigma = sum_of(9, 4)
    assert torch.allclose(Spectrum(sigma).pinv(), torch.linalg.pinv(sigma))
    left[0] = 2
    with pytest.raises(torch.linalg.LinAlgError, match="two attempts"):
        Spectrum(sigma)


def test_semidefinite_up_to_rounding() -> None:
    sigma = sum_of(3, 5)  # rank 3
    size = sigma.diagonal().sum()
    check_semidefinite(sigma, size, torch.float64)
    check_semidefinite(torch.zeros(2, 3, 3), torch.zeros(2), torch.float32)
    part = sum_of(30, 5)
    for bad in (sigma - part, torch.stack([sum_of(9, 5), sigma - part])):
        with pytest.raises(ValueError, match="semi-definite"):
            check_semidefinite(bad, size.expand(len(bad)) if bad.ndim == 3 else size, torch.float64)


def test_the_constant_is_as_long_as_a_typical_input() -> None:
    x = torch.cat([1e4 * torch.randn(500, 6), torch.ones(500, 1)], 1).double()
    sigma = x.T @ x
    units = units_of(sigma)
    assert torch.equal(units[:-1], torch.ones(6).double())
    assert float(units[-1] ** 2 * sigma[-1, -1]) == pytest.approx(float(sigma.diagonal()[:-1].mean()))
    for dead in (torch.diag(torch.tensor([0.0, 0.0, 7.0])), torch.diag(torch.tensor([1.0, 2.0, 0.0]))):
        assert units_of(dead) is None  # nothing to compare
    assert units_of(sigma, False) is None and torch.equal(units_of(sigma, None), units)
    assert units_of(sigma[-3:, -3:] * 0 + torch.eye(3).double(), True) is None
    for c in (1 / 33, 1 / 31, 31, 33):
        near = torch.diag(torch.tensor([c**2, c**2, 1.0]).double())
        assert (units_of(near, None) is None) == (1 / 32 < c < 32) and units_of(near) is not None
    groups = torch.stack([sigma, 4 * torch.eye(7).double()])
    assert torch.allclose(units_of(groups)[0], units) and torch.equal(units_of(groups)[1], torch.ones(7).double())


@pytest.mark.parametrize("groups", [False, True])
@pytest.mark.parametrize("rcond", [0.0, 1e-10, 1e-6, 1e-2])
def test_a_certificate_never_promises_too_much(rcond: float, groups: bool) -> None:
    """Where it says that nothing is cut, the eigenvalues say so too; and it does say so where they are far above."""
    said = 0
    for seed in range(200):
        torch.manual_seed(seed)
        d = int(torch.randint(2, 40, ()))
        turns = torch.linalg.qr(torch.randn(2, d, d).double())[0]
        values = 10.0 ** -(14 * torch.rand(()).double() * torch.rand(2, d).double())  # down to 1e-14
        sigma = (turns * values.unsqueeze(-2)) @ turns.mT
        sigma = (sigma + sigma.mT) / 2 if groups else (sigma + sigma.mT)[0] / 2
        found = torch.linalg.eigvalsh(sigma)
        if nothing_is_cut(sigma, rcond):
            said += 1
            assert bool((found[..., 0] > rcond * found[..., -1]).all())
        else:  # the Frobenius norm is at most √d times the largest eigenvalue
            assert bool((found[..., 0] <= 1.1 * d**0.5 * max(rcond, 1e-10) * found[..., -1]).any())
    assert 20 < said < 200


@pytest.mark.parametrize("balance", [True, None])
@pytest.mark.parametrize("lam", [0.0, 0.1, 1.0, 100.0])
@pytest.mark.parametrize("groups", [False, True])
def test_with_a_certificate_and_without_it(
    lam: float, groups: bool, balance: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Cholesky factorisation gives what the eigenvalues give, down to the cut."""
    certified = 0
    for seed in range(30):
        torch.manual_seed(seed)
        d = int(torch.randint(2, 30, ()))
        tilt = torch.diag_embed(10.0 ** (3 * torch.rand(2, d) - 3)).double()
        x, y = (torch.randn(2, 3 * d, d).double() @ tilt for _ in range(2))
        plus, minus = ((z.mT @ z if groups else (z.mT @ z)[0]) for z in (x, y))
        (short,) = inverses(plus, minus, lam, [1e-7], balance=balance)
        with monkeypatch.context() as patch:
            patch.setattr(spectral, "nothing_is_cut", lambda *_: False)
            (long,) = inverses(plus, minus, lam, [1e-7], balance=balance)
        certified += nothing_is_cut(plus + lam * minus, 1e-7)
        scale = float(long.matrix.abs().max())
        assert torch.allclose(short.matrix, long.matrix, rtol=1e-6, atol=1e-8 * scale)
        assert (short.lost is None) == (long.lost is None)
    assert certified > 20


@pytest.mark.parametrize("groups", [False, True])
@pytest.mark.parametrize("rcond", [1e-6, 1e-2, 0.3])
def test_the_share_that_is_lost(rcond: float, groups: bool) -> None:
    """Against its definition: project the target's columns off what was kept, in working coordinates."""

    def data(n: int) -> Tensor:
        scale = torch.tensor([10.0, 1.0, 0.1, 0.01, 1.0]).double()
        return torch.randn(2, n, 5).double() * scale if groups else torch.randn(n, 5).double() * scale

    x, y, delta = data(20), data(30), torch.randn(*([2] if groups else []), 3, 5).double()
    plus, minus = x.mT @ x, y.mT @ y
    (inverse,) = inverses(plus, minus, 2.0, [rcond], balance=True)
    units = units_of(plus + 2 * minus)
    work = units.unsqueeze(-1) * (plus + 2 * minus) * units.unsqueeze(-2)
    values, vectors = torch.linalg.eigh(work)
    cut = vectors * (values <= rcond * values[..., -1:]).unsqueeze(-2)
    gone = (delta / units.unsqueeze(-2)) @ cut @ cut.mT @ (x * units.unsqueeze(-2)).mT
    expected = float(gone.square().sum() / (delta @ x.mT).square().sum())
    heard = inverse.heard(delta)
    share = 0.0 if heard is None else inverse.share_lost(heard, plus, float((delta @ plus * delta).sum()))
    assert share >= expected - 1e-12
    assert share == pytest.approx(expected) if share > 0.1 else expected <= 0.1
    assert expected > 0 or inverse.lost is None


def test_what_is_easy_is_right_in_float32() -> None:
    """Where it says so, W⁺ of float32 products is W⁺ up to 1e-4, whatever the units of the inputs."""
    said = 0
    for seed in range(60):
        torch.manual_seed(seed)
        d, out = (int(torch.randint(130, 300, ())), int(torch.randint(3, 400, ())))
        turn = torch.linalg.qr(torch.randn(d, d).double())[0]
        spread = 10.0 ** (-6 * torch.rand(()).double() * torch.rand(d).double())
        units = 10.0 ** (4 * torch.rand(d).double() - 2)
        x = torch.randn(3 * d, d).double() * spread.sqrt() @ turn * units
        parts = [x[i::3].T @ x[i::3] for i in range(3)]
        whole = parts[0] + parts[1] + parts[2]
        layer = torch.nn.Linear(d, out, bias=False)
        layer.weight.data /= units.float()
        if not is_easy(whole):
            continue
        said += 1
        found = el.extract_all(layer, {c: el.Moments({"": s}, {"": 99}) for c, s in enumerate(parts)}, rcond=0.0)
        for c, part in enumerate(parts):
            exact = layer.weight.double() @ torch.linalg.solve(whole, part).T
            assert float(((found[c][""].weight - exact) * units).norm()) < 1e-4 * float((exact * units).norm())
    assert 10 < said < 60


@pytest.mark.parametrize("shape", [(256, 256), (2, 256, 256), (255, 255), (512, 512)])
@pytest.mark.parametrize("smallest", [1e-2, 2e-6, 5e-7])
def test_room_for_the_cache_changes_no_answer(shape: tuple[int, ...], smallest: float) -> None:
    turn = torch.linalg.qr(torch.randn(shape, dtype=torch.float64))[0]
    values = torch.logspace(0, math.log10(smallest), shape[-1], dtype=torch.float64)
    sigma = (turn * values) @ turn.mT
    sigma = (sigma + sigma.mT) / 2
    before = sigma.clone()
    certain = spectral.nothing_is_cut(sigma, 1e-6)
    assert not (certain and smallest < 1e-6) and (certain or smallest < 1e-2)
    found = next(spectral.inverses(sigma, torch.zeros_like(sigma), 1.0, [1e-6], balance=False)).matrix
    right = spectral.Spectrum(sigma).pinv()
    assert found.shape == sigma.shape and float((found - right).norm() / right.norm()) < 1e-8
    assert torch.equal(sigma, before)
