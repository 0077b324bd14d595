"""Streaming moments: what a training loop shows its layers, against sums made from scratch."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import engramlib as el
from engramlib.layers import find_layers


def net(bias: bool = True, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    parts = [nn.Linear(6, 150, bias), nn.ReLU(), nn.Linear(150, 7, bias), nn.Tanh(), nn.Linear(7, 3, bias)]
    return nn.Sequential(*parts).to(dtype)


def stream(sizes: tuple[int, ...] = (8, 3, 0, 11, 1, 8)) -> list[tuple[Tensor, Tensor]]:
    """Uneven batches, one of them empty."""
    torch.manual_seed(1)
    return [(torch.randn(n, 6, dtype=torch.float64) + 0.3, torch.arange(n) % 3) for n in sizes]


def seen(model: nn.Module, x: Tensor, absorb: bool = True) -> dict[str, Tensor]:
    """Σ of one batch for each layer, made from scratch."""
    found = {}
    for name, layer in model.named_children():
        if isinstance(layer, nn.Linear):
            columns = F.pad(x, (0, 1), value=1.0) if absorb and layer.bias is not None else x
            found[name] = (columns.T @ columns).detach()
        x = layer(x)
    return found


def learn(model: nn.Module, batches: list, tracker: el.OnlineMoments | None = None, parts: int = 1) -> list[dict]:
    """Train with Adam, a step a batch (of several passes), and say what the layers saw in each step."""
    optimiser, saw = torch.optim.Adam(model.parameters(), lr=1e-2), []
    for x, y in batches:
        saw.append(seen(model, x))
        optimiser.zero_grad()
        for a, b in zip(x.tensor_split(parts), y.tensor_split(parts), strict=True):
            if tracker is None:
                F.cross_entropy(model(a), b, reduction="sum").backward()
                continue
            with tracker.watch((a, b)):
                loss = F.cross_entropy(model(a), b, reduction="sum")
            loss.backward()
        optimiser.step()
        if tracker is not None:
            tracker.step()
    return saw


def close(a: Tensor, b: Tensor, tolerance: float = 1e-6) -> bool:
    return float((a - b).norm()) <= tolerance * max(float(b.norm()), 1e-12)


# --------------------------------------------------------------------------------------------- against closed forms


@pytest.mark.parametrize(
    ("how", "weight"),
    [
        ({}, lambda age: 1.0),
        ({"decay": 0.7}, lambda age: 0.7**age),
        ({"half_life": 3.0}, lambda age: 2.0 ** (-age / 3)),
        ({"window": 2}, lambda age: float(age < 2)),
        ({"window": 100}, lambda age: 1.0),
    ],
)
@pytest.mark.parametrize("parts", [1, 3])
def test_the_stream_is_the_weighted_sum(how: dict, weight: Callable[[int], float], parts: int) -> None:
    model, batches = net(), stream()
    tracker = el.OnlineMoments(model, **how)
    saw = learn(model, batches, tracker, parts)
    found, last = tracker.moments(), len(saw) - 1
    for name in ("0", "2", "4"):
        assert close(found[name], sum(weight(last - t) * s[name] for t, s in enumerate(saw)))
        assert found.count[name] == round(sum(weight(last - t) * len(x) for t, (x, _) in enumerate(batches)))
        assert torch.equal(found[name], found[name].T)


def test_concepts_are_streams_of_their_own_and_add_up() -> None:
    model, batches = net(), stream((9, 2, 6))
    split = el.OnlineMoments(model, concepts=lambda b: torch.where(b[1] == 2, -1, b[1]), decay=0.5)
    masked = el.OnlineMoments(net(), rows=lambda b: b[1] < 2, decay=0.5)
    learn(model, batches, split)
    learn(masked.model, batches, masked)
    by = split.by_concept()
    assert list(by) == [0, 1]
    for name, sigma in masked.moments().items():
        assert close(sum(by.values())[name], sigma)
    engrams = el.extract_all(model, by, rcond=1e-3)  # ordinary moments of the model as it is now
    assert set(engrams) == {0, 1}


def test_a_step_without_data_lets_the_past_fade() -> None:
    model, (x, y) = net(), stream()[0]
    tracker = el.OnlineMoments(model, decay=0.5)
    learn(model, [(x, y)], tracker)
    before = tracker.moments()["2"]
    tracker.step()
    assert close(tracker.moments()["2"], before / 2)
    window = el.OnlineMoments(model, window=2)
    learn(model, [(x, y)], window)
    window.step()
    assert window.moments().count["0"] == len(x)
    window.step()
    with pytest.raises(ValueError, match="no moments yet"):
        window.moments()


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.attention = nn.Linear(6, 8), nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        return self.attention(h, h, h)[0].mean(1)


class Shared(nn.Module):
    """Two layers read one tensor, and a third in some batches only."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(6, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        z = self.a(x) + self.b(x)
        return z + self.c(x) if len(x) % 2 else z


def gpt2() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    how = {"vocab_size": 11, "n_layer": 1, "n_embd": 8, "n_head": 2, "bos_token_id": 1, "eos_token_id": 2}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**how, use_cache=False))


def mixtral() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    how = {"vocab_size": 11, "hidden_size": 16, "intermediate_size": 12, "num_hidden_layers": 1, "num_local_experts": 3}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "num_experts_per_tok": 2, "use_cache": False}
    return transformers.MixtralForCausalLM(transformers.MixtralConfig(**how, **heads))


CONV = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2, groups=2), nn.Flatten())
MODELS = {
    "convolutions": (lambda: CONV, lambda n: torch.randn(n, 3, 6, 6)),
    "wide convolution": (lambda: nn.Conv2d(32, 4, 3), lambda n: torch.randn(n, 32, 8, 8)),
    "convolution of sequences": (lambda: nn.Conv1d(3, 5, 3), lambda n: torch.randn(n, 3, 9)),
    "attention": (Attention, lambda n: torch.randn(n, 4, 6)),
    "shared": (Shared, lambda n: torch.randn(n, 6)),
    "experts": (mixtral, lambda n: torch.randint(0, 11, (n, 5))),
    "GPT-2": (gpt2, lambda n: torch.randint(0, 11, (n, 5))),
}


@pytest.mark.parametrize("bias", ["absorb", "keep"])
@pytest.mark.parametrize("kind", MODELS)
def test_it_reads_what_collect_reads(kind: str, bias: str) -> None:
    build, draw = MODELS[kind]
    torch.manual_seed(0)
    model, batches = build().eval(), [(draw(n), torch.arange(n) % 2) for n in (8, 5, 3)]
    odd: dict = {"rows": lambda b: b[1] == 1}
    if kind == "experts":  # which tokens reach one is not told by the example
        odd = {"rows": lambda b: (b[1] == 1)[:, None].expand_as(b[0])}
    for how, once in (({}, False), ({}, True), (odd, False)):
        tracker = el.OnlineMoments(model, bias=bias, window=4, **how)
        for batch in batches:
            with tracker.watch(batch):
                model(batch[0])
            if not once:
                tracker.step()
        tracker.step()
        found, wanted = tracker.moments(), el.collect(model, batches, bias=bias, **how)
        assert set(found) == set(wanted) and found.count == wanted.count
        assert all(close(found[name], wanted[name]) for name in wanted)
        groups = [{frozenset(n for n in m if m.stored(n) is m.stored(name)) for name in m} for m in (found, wanted)]
        assert groups[0] == groups[1]


# -------------------------------------------------------------------------------------------------------- the training


class Noisy(nn.Module):
    def __init__(self, reentrant: bool | None = None) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.middle = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.3), nn.ReLU())
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.first(x))
        if self.reentrant is not None:
            return self.last(checkpoint(self.middle, h, use_reentrant=self.reentrant))
        return self.last(self.middle(h))


def fresh(reentrant: bool | None = None) -> Noisy:
    torch.manual_seed(3)
    return Noisy(reentrant)


def test_training_goes_as_if_nobody_looked() -> None:
    batches = [(x.float(), y) for x, y in stream((8, 4, 6))]
    ends = []
    for watched in (False, True):
        model = fresh()
        tracker = el.OnlineMoments(model, concepts=lambda b: b[1], half_life=2, rate=0.5) if watched else None
        flags = [m.training for m in model.modules()]
        optimiser = torch.optim.Adam(model.parameters())
        for x, y in batches:
            optimiser.zero_grad()
            if tracker:
                with tracker.watch((x, y)):
                    loss = F.cross_entropy(model(x), y)
                tracker.step()
            else:
                loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimiser.step()
        assert flags == [m.training for m in model.modules()] and torch.is_grad_enabled()
        assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
        ends.append({**{k: v.clone() for k, v in model.state_dict().items()}, "luck": torch.rand(1)})
    assert all(torch.equal(ends[0][k], ends[1][k]) for k in ends[0])


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("reentrant", [False, True])
def test_what_a_checkpoint_runs_again_counts_once(reentrant: bool, inside: bool) -> None:
    (x, y), sums = stream((8,))[0], []
    for again in (None, reentrant):
        model = fresh(again)
        tracker = el.OnlineMoments(model)
        torch.manual_seed(5)
        with tracker.watch():
            loss = F.cross_entropy(model(x.float().requires_grad_()), y)
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        tracker.step()
        sums.append(tracker.moments())
    assert sums[1].count == dict.fromkeys(sums[1], 8)
    assert all(close(sums[1][name], sums[0][name]) for name in sums[0])


def test_autocast_reads_what_the_layers_read() -> None:
    model, (x, _) = net(dtype=torch.float32), stream((20,))[0]
    tracker, read = el.OnlineMoments(model, exact=True), {}
    hooks = [m.register_forward_pre_hook(lambda m, a, n=n: read.update({n: a[0]})) for n, m in model.named_children()]
    with torch.autocast("cpu", torch.bfloat16), tracker.watch():
        model(x.float())
    tracker.step()
    for hook in hooks:
        hook.remove()
    assert read["2"].dtype == torch.bfloat16
    for name, sigma in tracker.moments().items():
        columns = F.pad(read[name].detach().double(), (0, 1), value=1.0)
        assert close(sigma, columns.T @ columns)


def test_an_error_takes_the_open_step_back() -> None:
    model, batches = net(), stream((5, 4))
    tracker = el.OnlineMoments(model, decay=0.9)
    learn(model, batches, tracker)
    before = tracker.moments()["2"]
    with tracker.watch():
        model(batches[0][0])
    with pytest.raises(ZeroDivisionError), tracker.watch():
        model(batches[1][0])
        1 / 0  # noqa: B018
    with pytest.raises(ValueError, match="layer '0'.*NaN"), tracker.watch():
        model(batches[0][0] * float("nan"))
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    assert torch.equal(tracker.moments()["2"], before)
    tracker.step()  # of nothing
    assert close(tracker.moments()["2"], 0.9 * before)
    with tracker.watch(), pytest.raises(RuntimeError, match="open already"), tracker.watch():
        pass


def test_whose_rows_they_are_is_asked_in_evaluation_mode() -> None:
    """As many tokens as examples: the shape does not tell, and dropout must not blur the answer."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.5), nn.Linear(5, 3)).train()
    x, y = torch.randn(4, 4, 6), torch.tensor([0, 1, 1, 0])
    tracker = el.OnlineMoments(model, rows=lambda b: b[1] == 1, layers=["0"])
    with tracker.watch((x, y)):
        model(x)
    tracker.step()
    wanted = F.pad(x[y == 1].flatten(0, 1).double(), (0, 1), value=1.0)
    assert close(tracker.moments()["0"], wanted.T @ wanted) and model[1].training


# ---------------------------------------------------------------------------------------------------------- sampling


def drawn(x: Tensor, y: Tensor | None, rate: float, seed: int) -> el.OnlineMoments:
    model = nn.Linear(x.shape[-1], 2, bias=False)
    tracker = el.OnlineMoments(model, rate=rate, seed=seed, concepts=None if y is None else lambda b: b[1])
    with tracker.watch((x, y)):
        model(x)
    tracker.step()
    return tracker


def test_a_sample_is_unbiased_and_its_error_within_the_bound() -> None:
    torch.manual_seed(0)
    x, rate, draws = torch.randn(37, 5) * torch.rand(37, 1), 0.3, 1500
    sigma = (x.T @ x).double()
    found = torch.stack([drawn(x, None, rate, s).moments()[""] for s in range(draws)])
    bound = (1 / rate - 1) * float(x.double().square().sum(1).square().sum())
    variance = float((found - sigma).square().sum((1, 2)).mean())
    assert float((found.mean(0) - sigma).norm()) < 4 * (variance / draws) ** 0.5  # four standard errors
    assert 0.5 * bound < variance < bound  # near it, and below


def test_each_concept_has_its_share_of_the_rows_and_no_row_is_drawn_too_often_with_another() -> None:
    x, y = torch.eye(24), torch.arange(24) % 3
    counts, pairs = [], torch.zeros(24, 24, dtype=torch.float64)
    for seed in range(800):
        tracker = drawn(x, y, 0.3, seed)
        there = sum(m[""] for m in tracker.by_concept().values()).diagonal() * 0.3
        counts.append([int(there[y == c].sum().round()) for c in range(3)])
        pairs += there[:, None] * there / 800
    assert {n for row in counts for n in row} == {2, 3}  # eight rows each: 2.4
    assert float((pairs.diagonal() - 0.3).abs().max()) < 0.08
    off = pairs[~torch.eye(24, dtype=torch.bool)]
    assert float(off.mean()) < 0.09 and float(off.max()) < 0.09 + 0.05


def test_tokens_are_drawn_one_by_one_and_images_whole() -> None:
    torch.manual_seed(0)
    linear, conv = nn.Linear(6, 2, bias=False), nn.Conv2d(2, 3, 2, bias=False)
    for model, x, each in ((linear, torch.randn(10, 7, 6), 1), (conv, torch.randn(70, 2, 4, 4), 9)):
        tracker = el.OnlineMoments(model, rate=0.2)
        with tracker.watch():
            model(x)
        tracker.step()
        assert tracker.moments().count[""] == 14 * each  # what it rests on


def test_the_seed_decides_and_the_models_luck_does_not() -> None:
    x = torch.randn(50, 6)
    one, same, other = (drawn(x, None, 0.3, seed).moments()[""] for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


# ------------------------------------------------------------------------------------------------------ keeping it


@pytest.mark.parametrize("how", [{"half_life": 3}, {"window": 2}])
def test_a_run_that_goes_on_ends_as_one_that_never_stopped(how: dict, tmp_path: Path) -> None:
    batches, ends = stream((8, 3, 9, 0, 7)), []
    for stop in (None, "state", "file"):
        model = net()
        make = lambda m=model: el.OnlineMoments(m, concepts=lambda b: b[1], rate=0.6, **how)  # noqa: B023, E731
        tracker = make()
        learn(model, batches[:3], tracker)
        if stop == "state":
            buffer = io.BytesIO()
            torch.save(tracker.state_dict(), buffer)
            buffer.seek(0)
            (tracker := make()).load_state_dict(torch.load(buffer, weights_only=True))
        if stop == "file":
            tracker.save(tmp_path / "stream.safetensors")
            (tracker := make()).load(tmp_path / "stream.safetensors")
        learn(model, batches[3:], tracker)
        ends.append(tracker.by_concept())
    for other in ends[1:]:
        assert list(other) == list(ends[0])
        for concept, moments in other.items():
            assert moments.count == ends[0][concept].count
            assert all(close(moments[n], ends[0][concept][n], 1e-12) for n in moments)  # rows are folded to be kept


def test_a_state_of_something_else_is_refused() -> None:
    model = net()
    tracker = el.OnlineMoments(model, decay=0.5)
    learn(model, stream((4,)), tracker)
    state = tracker.state_dict()
    for other, what in (
        (el.OnlineMoments(model, decay=0.6), "decay"),
        (el.OnlineMoments(model, decay=0.5, rate=0.5), "rate"),
        (el.OnlineMoments(model, decay=0.5, bias="keep"), "absorb"),
        (el.OnlineMoments(nn.Sequential(nn.Linear(6, 4)), decay=0.5), "layers"),
    ):
        with pytest.raises(ValueError, match=what):
            other.load_state_dict(state)
        assert other.steps == 0


def test_a_norm_that_uses_the_batchs_own_statistics_is_refused() -> None:
    """x̂ of its running statistics is what the layer reads in evaluation mode only."""
    model, x = fresh(), torch.randn(9, 6) * 3
    tracker = el.OnlineMoments(model, layers=["norm"])
    with pytest.raises(TypeError, match="layer 'norm'.*choose other layers"), tracker.watch():
        model(x)
    tracker = el.OnlineMoments(model.eval(), layers=["norm"])
    with tracker.watch():
        model(x)
    tracker.step()
    assert close(tracker.moments()["norm"], el.collect(model, [x], layers=["norm"])["norm"])


def test_layers_that_are_never_called_are_named() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    model, x = Idle(), torch.randn(9, 6)
    tracker = el.OnlineMoments(model)
    with tracker.watch():
        model(x)
    tracker.step()
    with pytest.warns(UserWarning, match="never called layer 'idle'"):
        assert list(tracker.moments()) == ["used"]
    assert list(find_layers(model)) == ["used", "idle"]
