"""Small, quick versions of the campaign, and its last record."""

from __future__ import annotations

import json
import pickle
import random
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import engramlib as el
from engramlib import language
from tests.bad_inputs import table
from tests.campaign import faults, fuzz, kills, page, precision
from tests.campaign.state import changed, taken

ROOT = Path(__file__).resolve().parents[2]


def test_two_hundred_files() -> None:
    report = fuzz.read(seed=1, count=200)
    assert not report["wrong"], report["wrong"]
    assert len(report["outcomes"]) >= len(fuzz.SHARES)


def test_an_unsound_reader_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def unpickling(cls: type, path: Path) -> object:
        raw = path.read_bytes()
        return pickle.loads(raw) if raw[:1] == b"\x80" else el.Engram({})

    monkeypatch.setattr(el.Moments, "load", classmethod(unpickling))
    monkeypatch.setattr(fuzz, "SHARES", {"foreign": 1})
    assert any("was executed" in line for line in fuzz.read(seed=1, count=60)["wrong"])


@pytest.mark.skipif(not hasattr(kills.os, "fork"), reason="needs fork and SIGKILL")
def test_three_kills_of_each(tmp_path: Path) -> None:
    rng = random.Random(3)
    for report in (kills.moments(3, rng, tmp_path), kills.recorded(3, rng, tmp_path)):
        assert not report["wrong"], report["wrong"]


@pytest.mark.parametrize(
    "call", ["collect", "ablate, in place", "edited", "null_state", "Moments.save", "forget, in place", "loss_gradient"]
)
def test_faults_at_some_steps(call: str) -> None:
    report = faults.inject(call, 20)
    assert report.injected and not report.wrong, report.wrong


def test_ctrl_c_after_the_last_step_of_forget_finds_it_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tied layers are untied for the edit; tying them again would then undo a part of it."""
    forget = faults.CALLS["forget, a tied output, in place"]
    scene, whole = faults.Scene(tmp_path), faults.Scene(tmp_path)
    whole.causal.load_state_dict(scene.causal.state_dict())
    forget(whole)
    shifted = language.shifted

    def interrupted(*arguments: object, **options: object) -> None:
        shifted(*arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(language, "shifted", interrupted)
    with pytest.raises(KeyboardInterrupt):
        forget(scene)
    expected = whole.causal.state_dict()
    assert all(torch.allclose(v, expected[k], atol=1e-5) for k, v in scene.causal.state_dict().items())
    assert scene.causal.lm_head.weight is not scene.causal.embed.weight


def test_a_model_that_is_not_handed_back_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(scene: faults.Scene) -> None:
        weight = scene.model.c.weight.data
        weight.add_(1)
        el.ablate(scene.model, scene.plain)
        weight.sub_(1)

    monkeypatch.setitem(faults.CALLS, "careless", careless)
    assert any("c.weight: numbers" in line for line in faults.inject("careless", 5).wrong)


def test_state_sees_every_kind_of_change() -> None:
    model = faults.Everything()
    changes = [
        lambda: model.eval(),
        lambda: model.c.weight.requires_grad_(False),
        lambda: model.c.register_forward_hook(print),
        lambda: model.seen.add_(1),
        lambda: model.all.append(torch.ones(1)),
        lambda: torch.rand(1),
        lambda: torch.set_grad_enabled(False),
    ]
    try:
        for change in changes:
            before = taken(model)
            assert not changed(before, taken(model))
            change()
            assert changed(before, taken(model))
    finally:
        torch.set_grad_enabled(True)


def test_sums_in_float64_are_right_at_every_condition() -> None:
    for row in precision.rows():
        if row["sums"] == "float64":
            assert row["sigma"] < 1e-12 and row["engram"] < (1e-9 if row["model"] == "float64" else 1e-6), row
        elif row["condition"] <= 100:
            assert row["engram"] < 1e-4, row


SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 6))
SCALES = st.sampled_from([1e-6, 1e-3, 1.0, 1e3, 1e6])


@settings(max_examples=40, deadline=None)
@given(SHAPES, SCALES, st.sampled_from([0, 2, 4]), st.booleans(), st.sampled_from(["float64", "float32", "bfloat16"]),
       st.sampled_from([0.0, 0.5, 1.0, 3.0]), st.floats(-2, 2), st.integers(0, 2**31))  # fmt: skip
def test_an_edit_is_the_formula_in_float64(
    shape: tuple[int, int, int], scale: float, digits: int, bias: bool, dtype: str, lam: float, alpha: float, seed: int
) -> None:
    """Any shape, scale 1e-6 to 1e6, condition up to 1e4, dtype, λ and α: collect, extract and ablate are W − αW⁺."""
    d, hidden, out = shape
    generator = torch.Generator().manual_seed(seed)
    kind = getattr(torch, dtype)
    model = nn.Sequential(nn.Linear(d, hidden, bias=bias), nn.Linear(hidden, out, bias=bias))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    model = model.to(kind)
    # The constant that stands for a bias has no part in a scaling of the inputs: so only without one.
    x = precision.data(40, d, 10.0**digits, generator) * (1.0 if bias else scale)
    parts = [x[:15].to(kind), x[15:].to(kind)]
    tolerance = {"float64": 1e-7, "float32": 1e-5, "bfloat16": 2e-2}[dtype]
    assert precision.edit_gap(model, parts, alpha, lam) <= tolerance * (1 + abs(alpha))


def test_the_page_shows_the_last_record() -> None:
    record = json.loads((ROOT / "data" / "campaign.json").read_text(encoding="utf-8"))
    text = page.text(record)
    assert page.PAGE.read_text(encoding="utf-8") == text, "python -m tests.campaign --page"
    assert not [line for part in ("bad_inputs", "files", "kills", "faults") for line in record[part]["wrong"]]
    assert record["files"]["files"] >= 10_000
    assert min(record["kills"][part]["kills"] for part in ("moments", "recorded runs")) >= 50
    assert len(record["bad_inputs"]["rows"]) >= 90
    assert {row.function for row in table()} <= {row[0] for row in record["bad_inputs"]["rows"]}
    assert {call["call"] for call in record["faults"]["calls"]} == set(faults.CALLS)
    assert re.search(r"\| Damaged and foreign files, read \| [\d,]+ files \| 0 \|", text)
