"""The arithmetic of large models, against small ones whose operations torch counted and whose bytes are there."""

import pytest
import torch

import engramlib as el
from engramlib.lab import metrics, models
from engramlib.lab.metrics import arithmetic
from engramlib.lab.metrics.arithmetic import LLAMAS, Shape, bill
from engramlib.lab.records import published

SMALL = Shape(hidden=160, intermediate=320, layers=2, heads=4, kv_heads=2, vocab=50)


@pytest.fixture(scope="module")
def model():
    s = SMALL
    model = models.llama(s.vocab, s.hidden, s.layers, s.heads, s.kv_heads, s.intermediate, context=64)
    model.config._attn_implementation = "eager"  # products that the counter sees
    return model


@pytest.mark.parametrize("layers", arithmetic.LAYERS)
def test_forward_and_moments_are_what_torch_counts(model, layers):
    assert sum(p.numel() for p in model.parameters()) == SMALL.parameters
    ids = torch.randint(4, SMALL.vocab, (32, 64), generator=torch.Generator().manual_seed(0))

    def forward(_, batch):
        model.model(input_ids=batch)

    pattern = {"all": r".*_proj", "Q/K/gate": r".*\.(q|k|gate)_proj"}[layers]
    plain = metrics.flops(lambda: forward(model, ids))
    found = {}
    # Products in float64: those in float32 are added where torch's counter does not look.
    collecting = metrics.flops(
        lambda: found.update(m=el.collect(model, ids, forward=forward, layers=pattern, exact=True))
    )
    expected = bill(SMALL, ids.numel(), layers=layers, length=64, block=128)
    assert expected.flops["forward"] == pytest.approx(plain, rel=0.02)
    assert expected.flops["moments"] == pytest.approx(collecting - plain, rel=0.02)
    assert 2 * found["m"].nbytes == expected.bytes
    rows = el.collect(model, ids, forward=forward, layers=pattern, rank=0.1)
    assert 2 * rows.nbytes == bill(SMALL, 1, kept="rank", share=0.1, layers=layers).bytes


def test_a_sketch_works_as_much_as_is_said():
    """Products are counted; the eigenvalues of 2ℓ × 2ℓ are not, and are left out of what is expected."""
    d, rank = 400, 80
    x = torch.randn(60 * rank, d)
    layer = torch.nn.Linear(d, 1, bias=False)
    counted = metrics.flops(lambda: el.collect(layer, x, rank=rank)) - metrics.flops(lambda: layer(x))
    assert counted == pytest.approx(len(x) * 12 * rank * d, rel=0.1)


def test_the_models_have_the_sizes_that_they_are_named_for():
    billions = {name: shape.parameters / 1e9 for name, shape in LLAMAS.items()}
    assert billions == pytest.approx({"Llama-3.2-1B": 1.236, "Llama-3.1-8B": 8.03, "Llama-3.1-70B": 70.55}, rel=2e-3)


def test_what_saves_saves():
    shape = LLAMAS["Llama-3.1-8B"]
    costs = {kept: bill(shape, 10**6, kept=kept).bytes for kept in arithmetic.KEPT}
    assert costs["half"] == pytest.approx(costs["square"] / 2, rel=0.15)
    assert costs["half32"] == costs["half"] / 2
    assert costs["rank"] == pytest.approx(costs["square"] / 20, rel=0.01)
    assert bill(shape, 10**6, layers="Q/K/gate").bytes < 0.2 * costs["half"]
    for wrong in ({"kept": "all"}, {"layers": "Q"}):
        with pytest.raises(ValueError, match="must be one of"):
            bill(shape, 1, **wrong)


def test_table_7_is_of_this_size():
    """2.5 PFLOP and 10.9 GB: what is counted there is not said, so within a factor of three."""
    values = published.get("table7").values["engram"]
    found = bill(LLAMAS["Llama-3.2-1B"], 224_015, kept="half32")
    assert values["PFLOP"] / 3 < found.total / 1e15 < 3 * values["PFLOP"]
    assert values["memory_GB"] / 3 < (found.bytes + found.weights) / 1e9 < 3 * values["memory_GB"]


def test_the_ring():
    assert arithmetic.in_parallel(100, 0, 4, latency=0) == 25
    assert arithmetic.in_parallel(0, 50e9, 2, link=50e9, latency=0) == 1
    times = [arithmetic.in_parallel(100, 50e9, p) for p in (1, 2, 4, 8)]
    assert times == sorted(times, reverse=True) and times[0] == 100
