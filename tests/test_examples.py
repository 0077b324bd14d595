"""Whose rows are whose: the moments of each concept are those of that concept alone, however a model lays its data."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import engramlib as el
from engramlib._examples import Examples

D = 6


class Mixer(nn.Module):
    """Attention without weights, so that the tokens of an example (dimension 1) know each other."""

    def forward(self, x: Tensor) -> Tensor:
        return x + (x @ x.mT / D).softmax(-1) @ x


class Laid(nn.Module):
    """Two linear layers on tokens, laid out in a way of the model's own; inputs and outputs are (batch, tokens, d)."""

    def __init__(self, there: Callable[[Tensor], Tensor], back: Callable[[Tensor, int], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.mix = nn.Linear(D, 5), nn.Linear(5, D), Mixer()
        self.there, self.back = there, back
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        n = len(x)
        return self.mix(x + self.back(self.b(self.a(self.there(self.mix(x))).tanh()), n))


def windows_minor(x: Tensor) -> Tensor:
    return x.unflatten(1, (-1, 2)).transpose(0, 1).flatten(0, 1)


LAYOUTS = {
    "batch first": (lambda x: x, lambda z, n: z),
    "tokens first": (lambda x: x.transpose(0, 1), lambda z, n: z.transpose(0, 1)),
    "flattened": (lambda x: x.flatten(0, 1), lambda z, n: z.unflatten(0, (n, -1))),
    "flattened, tokens first": (
        lambda x: x.transpose(0, 1).flatten(0, 1),
        lambda z, n: z.unflatten(0, (-1, n)).transpose(0, 1),
    ),
    "windows": (lambda x: x.unflatten(1, (-1, 2)).flatten(0, 1), lambda z, n: z.unflatten(0, (n, -1)).flatten(1, 2)),
    "windows, batch inside": (
        windows_minor,
        lambda z, n: z.unflatten(0, (-1, n)).transpose(0, 1).flatten(1, 2),
    ),
    "heads": (lambda x: x.unsqueeze(1), lambda z, n: z.squeeze(1)),
}
TOKENWISE = ["batch first", "tokens first", "flattened", "flattened, tokens first", "heads"]


def same(a: el.Moments, b: el.Moments) -> bool:
    return list(a) == list(b) and a.count == b.count and all(torch.allclose(a[n], b[n], rtol=1e-9) for n in a)


def check_alone(model: nn.Module, x: Tensor, y: Tensor, dim: int = 0, **options: object) -> None:
    """One pass for all concepts = a pass for each; and ``rows`` = the others left out."""
    batches = [(x, y)]
    found = el.collect_by_concept(model, batches, lambda batch: batch[1], **options)
    for concept in y.unique().tolist():
        alone = el.collect(model, [x.index_select(dim, (y == concept).nonzero()[:, 0])])
        assert same(found[concept], alone)
        assert same(el.collect(model, batches, rows=lambda batch, c=concept: batch[1] == c, **options), alone)


@pytest.mark.parametrize("n, tokens", [(8, 8), (4, 8), (8, 4), (3, 8), (8, 6), (1, 8), (2, 2)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_concepts_of_examples(layout: str, n: int, tokens: int) -> None:
    model, x = Laid(*LAYOUTS[layout]).double(), torch.randn(n, tokens, D).double()
    check_alone(model, x, torch.arange(n) % 3)


@pytest.mark.parametrize("n, tokens", [(8, 8), (4, 8), (8, 4), (3, 7), (1, 5), (5, 1)])
@pytest.mark.parametrize("layout", TOKENWISE)
def test_concepts_of_tokens(layout: str, n: int, tokens: int) -> None:
    """Against the labels laid out by the model's own hands."""
    model, x = Laid(*LAYOUTS[layout]).double(), torch.randn(n, tokens, D).double()
    y = torch.randint(0, 2, (n, tokens))
    y[0, 0], y[-1, -1] = 0, 1
    found = el.collect_by_concept(model, [x], lambda _: y)
    seen = model.mix(x).detach()
    for concept in y.unique().tolist():
        rows = torch.cat([seen[y == concept], torch.ones(int((y == concept).sum()), 1).double()], 1)
        assert torch.allclose(found[concept]["a"], rows.T @ rows) and found[concept].count["b"] == len(rows)


def test_what_is_clear_costs_nothing_and_what_is_not_is_asked_once() -> None:
    model, y = Laid(*LAYOUTS["batch first"]).double(), torch.arange(6) % 2
    for x, calls in ((torch.randn(6, 4, D), 1), (torch.randn(6, 9, D), 1)):
        model.calls = 0
        el.collect_by_concept(model, [(x.double(), y)] * 3, lambda batch: batch[1])
        assert model.calls == 3 * calls
    x = torch.randn(6, 6, D).double()
    model.calls = 0
    el.collect_by_concept(model, [(x, y)] * 5, lambda batch: batch[1])
    assert 5 < model.calls <= 9
    model.calls = 0
    el.collect_by_concept(model, [(x, y)], lambda batch: torch.zeros(6, 6).long())
    assert model.calls <= 5
    flat = nn.Sequential(nn.Linear(D, 4), nn.ReLU(), nn.Linear(4, 3))
    counted = []
    flat[1].register_forward_hook(lambda *_: counted.append(1))
    el.collect_by_concept(flat, [(torch.randn(D, D), y)], lambda batch: batch[1])
    assert len(counted) == 1


def encoder(batch_first: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.TransformerEncoder(layer, 2).double()


@pytest.mark.parametrize("tokens", [5, 6, 12, 3])
@pytest.mark.parametrize("batch_first", [True, False])
def test_the_transformer_of_torch(batch_first: bool, tokens: int) -> None:
    model, n = encoder(batch_first), 6
    x = torch.randn(*((n, tokens) if batch_first else (tokens, n)), 8).double()
    check_alone(model, x, torch.arange(n) % 2, dim=0 if batch_first else 1)
    check_alone(model, x, torch.arange(n) % 2, dim=0 if batch_first else 1, examples=0 if batch_first else 1)
    y = torch.randint(0, 2, (n, tokens))
    grid = y if batch_first else y.T
    found = el.collect_by_concept(model, [x], lambda _: y)
    kept = torch.cat([x[grid == 1], torch.ones(int(y.sum()), 1).double()], 1)
    assert torch.allclose(found[1]["layers.0.self_attn.q_proj"], kept.T @ kept)
    seen = []
    handle = model.layers[1].linear1.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    with torch.no_grad():
        model.eval()(x)
    handle.remove()
    kept = torch.cat([seen[0][grid == 1], torch.ones(int(y.sum()), 1).double()], 1)
    assert torch.allclose(found[1]["layers.1.linear1"], kept.T @ kept)


@pytest.mark.parametrize("batch_first", [True, False])
def test_padding_masks_in_a_dict(batch_first: bool) -> None:
    """The mask is (batch, tokens) whatever the inputs are."""
    model, n = encoder(batch_first), 6
    x, pad = torch.randn(n, n, 8).double(), torch.arange(n)[None] > torch.tensor([5, 4, 3, 5, 2, 5])[:, None]
    y, dim = torch.arange(n) % 2, 0 if batch_first else 1
    batch = {"src": x, "src_key_padding_mask": pad}
    found = el.collect_by_concept(model, [batch], lambda _: y)
    for concept in (0, 1):
        keep = (y == concept).nonzero()[:, 0]
        part = {"src": x.index_select(dim, keep), "src_key_padding_mask": pad[keep]}
        assert same(found[concept], el.collect(model, [part]))


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
def test_recurrent_networks_mix_in_one_direction(kind: str, batch_first: bool, direction: str) -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            both = direction == "both"
            self.embed = nn.Embedding(20, D)
            self.rnn = getattr(nn, kind)(D, 4, batch_first=batch_first, bidirectional=both)
            self.head = nn.Linear(8 if both else 4, 3)

        def forward(self, ids: Tensor) -> Tensor:
            turn = [1 if batch_first else 0] if direction == "backward" else []
            return self.head(self.rnn(self.embed(ids).flip(turn))[0].flip(turn))

    model, ids = Tagger().double(), torch.randint(0, 20, (7, 7))
    check_alone(model, ids, torch.arange(7) % 2, dim=0 if batch_first else 1)


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("n", [4, 1, 3])
def test_frames_folded_into_the_batch_of_a_convolution(inner: bool, n: int) -> None:
    class Video(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(2, 3, 3), nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:  # (batch, frames, channels, height, width)
            frames = (x.transpose(0, 1) if inner else x).flatten(0, 1)
            z = self.conv(frames).relu().mean((-1, -2))
            z = z.unflatten(0, (-1, len(x))).transpose(0, 1) if inner else z.unflatten(0, (len(x), -1))
            return self.head(z.mean(1))

    check_alone(Video().double(), torch.randn(n, 4, 2, 5, 5).double(), torch.arange(n) % 2)


class Wrapped:
    def __init__(self, x: Tensor) -> None:
        self.x = x


@pytest.mark.parametrize("how", ["dict", "tuple", "object", "index", "named"])
def test_batches_that_a_function_reads(how: str) -> None:
    model, x, y = Laid(*LAYOUTS["flattened, tokens first"]).double(), torch.randn(6, 6, D).double(), torch.arange(6) % 2
    batch, forward = {
        "dict": ({"a": {"b": x}}, lambda m, b: m(b["a"]["b"])),
        "tuple": ((y, [x]), lambda m, b: m(b[1][0])),
        "object": (Wrapped(x), lambda m, b: m(b.x)),
        "index": (torch.arange(6), lambda m, b: m(x[b])),
        "named": ({"x": x}, None),
    }[how]
    found = el.collect_by_concept(model, [batch], lambda _: y, forward=forward)
    assert same(found[1], el.collect(model, [x[y == 1]]))


class TestRefused:
    def test_where_nothing_can_be_replaced(self) -> None:
        model, x = Laid(*LAYOUTS["batch first"]).double(), torch.randn(6, 6, D).double()
        how = dict(forward=lambda m, b: m(x), rows=lambda b: torch.arange(6) < 3)
        with pytest.raises(ValueError, match="layer 'a' reads an input of shape .*6 examples is not clear.*examples=0"):
            el.collect(model, ["a name"], **how)
        assert same(el.collect(model, ["a name"], **how, examples=0), el.collect(model, [x[:3]]))
        with pytest.raises(ValueError, match="examples: expected a dimension"):
            el.collect(model, [x], examples=-1)

    def test_examples_that_are_mixed(self) -> None:
        class Mixed(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b = nn.Linear(D, D), nn.Linear(D, D)

            def forward(self, x: Tensor) -> Tensor:
                x = self.a(x)
                return self.b(x - x.mean((0, 1)))

        x, y = torch.randn(5, 5, D), torch.arange(5) % 2
        with pytest.raises(ValueError, match="layer 'a'.*not clear"):  # nor is it whether this is (tokens, batch)
            el.collect_by_concept(Mixed(), [(x, y)], lambda batch: batch[1])
        with pytest.raises(ValueError, match="layer 'b'.*not clear"):
            el.collect_by_concept(Mixed(), [(x, y)], lambda batch: batch[1], layers=["b"])
        found = el.collect_by_concept(Mixed(), [(x, y)], lambda batch: batch[1], layers=["a"], examples=0)
        assert same(found[1], el.collect(Mixed(), [x[y == 1]], layers=["a"]))

    def test_rows_that_are_of_no_example(self) -> None:
        class Positions(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.where, self.out, self.places = nn.Linear(2, D), nn.Linear(D, 3), torch.randn(8, 2)

            def forward(self, x: Tensor) -> Tensor:
                return self.out(x + self.where(self.places))

        x, y = torch.randn(4, 8, D), torch.arange(4) % 2
        with pytest.raises(ValueError, match="layer 'where'.*not clear"):
            el.collect_by_concept(Positions(), [(x, y)], lambda batch: batch[1])

    def test_a_mask_that_only_divides(self) -> None:
        with pytest.raises(ValueError, match="layer ''.*does not fit"):
            el.collect(nn.Linear(4, 2), [torch.randn(6, 4)], rows=lambda _: torch.ones(3).bool())

    def test_two_sequences(self) -> None:
        model = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)
        batch, mask = {"src": torch.randn(3, 5, 8), "tgt": torch.randn(3, 5, 8)}, torch.rand(3, 5) > 0.5
        with pytest.raises(ValueError, match="Transformer reads two sequences.*layers"):
            el.collect(model, [batch], rows=lambda _: mask)
        own = r"encoder\..*|decoder\..*multihead_attn\.[kv]_proj"
        assert len(el.collect(model, [batch], rows=lambda _: mask, layers=own)) == 11
        own = r"decoder\.(?!.*multihead_attn\.[kv]_proj).*(proj|linear.)"
        assert len(el.collect(model, [batch], rows=lambda _: mask, layers=own)) == 8
        el.collect(model, [batch], rows=lambda _: mask, forward=lambda m, b: m(**b))  # their own word
        el.collect(model, [batch], rows=lambda _: torch.ones(3).bool())
        with pytest.raises(ValueError, match="two sequences"):
            layer = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)
            el.collect(layer, [{"tgt": batch["tgt"], "memory": batch["src"]}], rows=lambda _: mask)

    def test_uint8_has_no_minus_one(self) -> None:
        x, y = torch.randn(4, 3), torch.tensor([0, 1, 255, 1], dtype=torch.uint8)
        with pytest.raises(ValueError, match="255 in uint8.*int64"):
            el.collect_by_concept(nn.Linear(3, 2), [(x, y)], lambda batch: batch[1])


def test_asking_leaves_no_trace() -> None:
    class Counting(Laid):
        def __init__(self) -> None:
            super().__init__(*LAYOUTS["tokens first"])
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.seen += 1
            self.last = x
            return super().forward(x + 0.1 * torch.randn(x.shape[1:]))  # the same noise for every example

    model, x, y = Counting().double(), torch.randn(6, 6, D).double(), torch.arange(6) % 2
    state = torch.get_rng_state()
    found = el.collect_by_concept(model, [(x, y)], lambda batch: batch[1])
    assert torch.equal(torch.get_rng_state(), state) and model.seen == 0 and not hasattr(model, "last")
    assert same(found[0] + found[1], el.collect(model, [x]))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_layers_that_share_a_tensor_wait_together() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.o = (nn.Linear(D, D, bias=False) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            x = x.transpose(0, 1)
            y = self.q(x) + self.k(x)
            if len(x) < 5:
                y = y + self.k(3 * x)
            return self.o(Mixer()(y.transpose(0, 1)))

    model, y = Fork().double(), torch.arange(4) % 2
    for parts in ([torch.randn(4, 4, D)] * 2, [torch.randn(4, 4, D), torch.randn(4, 8, D)]):
        batches = [(part.double(), y) for part in parts]
        found = el.collect_by_concept(model, batches, lambda batch: batch[1])
        for concept in (0, 1):
            assert same(found[concept], el.collect(model, [x[y == concept] for x, _ in batches]))


def test_a_batch_of_one_and_tokens_of_a_mixture() -> None:
    examples = Examples(nn.Linear(2, 2), {})
    examples.begin(torch.zeros(1, 6, 2))
    labels = torch.tensor([4])
    assert examples.lay("", torch.Size((3, 2, 2)), (3, 2), labels)[0].tolist() == [4] * 6


class Routed(nn.Module):
    """A mixture of the user's own: its experts are modules, and read other numbers of tokens each time."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(D, D), nn.Linear(D, D)
        self.experts, self.mix = nn.ModuleList(nn.Linear(D, D) for _ in range(3)), Mixer()

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(self.mix(x))
        chosen, out = x[..., :3].argmax(-1), torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            out[chosen == number] = expert(x[chosen == number])
        return self.after(self.mix(out))


def test_experts_that_are_modules_do_not_hide_where_the_others_are() -> None:
    model, x, y = Routed().double(), torch.randn(6, 6, D).double(), torch.arange(6) % 2
    how = dict(layers=["before", "after"])
    found = el.collect_by_concept(model, [(x, y)], lambda batch: batch[1], **how)
    assert same(found[1], el.collect(model, [x[y == 1]], **how))
    for part in (x, x[:, :4]):
        whole = el.analysis.fisher_block(model, [part], "before", forward=lambda m, b: m(b).mean(1))
        alone = [
            el.analysis.fisher_block(model, [one], "before", forward=lambda m, b: m(b).mean(1)) for one in part.split(1)
        ]
        assert torch.allclose(whole, sum(alone))
