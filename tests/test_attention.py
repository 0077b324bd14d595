"""``nn.MultiheadAttention`` as four layers, against attention written out in float64."""

from __future__ import annotations

import copy
import gc
import math
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import engramlib as el
from engramlib import analysis
from engramlib._attention import projections
from engramlib.layers import find_layers, supported_layers
from engramlib.running import evaluating
from tests.conftest import with_one

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")
SETTINGS = {
    "self": {},
    "no bias": dict(bias=False),
    "sequence first": dict(batch_first=False),
    "unequal widths": dict(kdim=5, vdim=3),
    "unequal widths, sequence first": dict(kdim=5, vdim=3, batch_first=False, bias=False),
    "bias tokens": dict(add_bias_kv=True),
    "zero attention": dict(add_zero_attn=True),
    "three heads": dict(num_heads=3),
}


class Block(nn.Module):
    """An attention module that gets query, key and value as one batch, batch first."""

    def __init__(self, **settings: object) -> None:
        super().__init__()
        self.need_weights = settings.pop("need_weights", False)
        settings = dict(num_heads=2, batch_first=True) | settings
        self.attn = nn.MultiheadAttention(6, **settings).double()
        for parameter in self.parameters():
            nn.init.normal_(parameter)  # the biases too: torch starts them at 0

    def forward(self, q: Tensor, k: Tensor | None = None, v: Tensor | None = None, **masks: Tensor) -> Tensor:
        k, v = (q if k is None else k), (q if v is None else v)
        own = {id(x): x if self.attn.batch_first else x.transpose(0, 1) for x in (q, k, v)}
        out, _ = self.attn(*(own[id(x)] for x in (q, k, v)), need_weights=self.need_weights, **masks)
        return out if self.attn.batch_first else out.transpose(0, 1)


def by_hand(attn: nn.MultiheadAttention, q: Tensor, k: Tensor, v: Tensor, **masks: Tensor) -> tuple[Tensor, Tensor]:
    """(what out_proj reads, what it gives), one example, head and query at a time."""
    width, n_heads = attn.embed_dim, attn.num_heads
    if attn.in_proj_weight is not None:
        weights = attn.in_proj_weight.chunk(3)
    else:
        weights = attn.q_proj_weight, attn.k_proj_weight, attn.v_proj_weight
    biases = (0, 0, 0) if attn.in_proj_bias is None else attn.in_proj_bias.chunk(3)
    q, k, v = (x @ w.T + b for x, w, b in zip((q, k, v), weights, biases, strict=True))
    extra = 0
    if attn.bias_k is not None:
        k, v = (torch.cat([x, b.expand(len(x), 1, -1)], 1) for x, b in ((k, attn.bias_k), (v, attn.bias_v)))
        extra += 1
    if attn.add_zero_attn:
        k, v = (F.pad(x, (0, 0, 0, 1)) for x in (k, v))
        extra += 1
    heads = torch.zeros(len(q), q.shape[1], width).double()
    size = width // n_heads
    for n in range(len(q)):
        for h in range(n_heads):
            part = slice(h * size, (h + 1) * size)
            for i in range(q.shape[1]):
                scores = k[n, :, part] @ q[n, i, part] / math.sqrt(size)
                for name, mask in masks.items():
                    if mask is None:
                        continue
                    row = (
                        mask[n]
                        if name == "key_padding_mask"
                        else mask[i]
                        if mask.ndim == 2
                        else mask[n * n_heads + h, i]
                    )
                    row = F.pad(row, (0, extra))
                    scores = scores.masked_fill(row, -math.inf) if row.dtype == torch.bool else scores + row
                heads[n, i, part] = scores.softmax(0) @ v[n, :, part]
    return heads, heads @ attn.out_proj.weight.T + (0 if attn.out_proj.bias is None else attn.out_proj.bias)


def inputs(name: str, n: int = 4) -> list[Tensor]:
    """Query, key, value; those that are one tensor are one object."""
    if name.startswith("unequal"):
        return [torch.randn(n, length, width).double() for length, width in ((5, 6), (4, 5), (4, 3))]
    x = torch.randn(n, 5, 6).double()
    return [x, x, x]


def named(batch: list[Tensor]) -> dict[str, Tensor]:
    return dict(zip("qkv", batch, strict=True))


def sigma(x: Tensor, absorbed: bool) -> Tensor:
    x = x.detach().flatten(0, -2)
    x = with_one(x) if absorbed else x
    return x.T @ x


MASKS = {
    "none": {},
    "padding": dict(key_padding_mask=torch.tensor([[0, 0, 0, 0, 1]] * 3 + [[0, 0, 1, 1, 1]]).bool()),
    "causal": dict(attn_mask=torch.ones(5, 5).triu(1).bool()),
    "of scores, per head": dict(attn_mask=torch.linspace(-2, 2, 8 * 25).view(8, 5, 5).double()),
    "both": dict(
        attn_mask=torch.ones(5, 5).triu(1).bool(),
        key_padding_mask=torch.tensor([[0, 0, 0, 0, 1]] * 3 + [[0, 0, 1, 1, 1]]).bool(),
    ),
}


def check(block: Block, batch: list[Tensor], masks: dict[str, Tensor], **options: object) -> el.Moments:
    heads, out = by_hand(block.attn, *batch, **masks)
    assert torch.allclose(block.eval()(*batch, **masks), out, rtol=1e-10, atol=1e-12)
    moments = el.collect(block, [named(batch) | masks], **options)
    expected = dict(zip(PROJECTIONS, [*batch, heads], strict=True))
    assert list(moments) == [f"attn.{name}" for name in expected]
    absorbed = block.attn.in_proj_bias is not None and options.get("bias") != "keep"
    for name, x in expected.items():
        assert torch.allclose(moments[f"attn.{name}"], sigma(x, absorbed), rtol=1e-10, atol=1e-10), name
        assert moments.count[f"attn.{name}"] == x.shape[0] * x.shape[1]
    return moments


@pytest.mark.parametrize("bias", ["absorb", "keep"])
@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("name", SETTINGS)
def test_what_every_projection_reads(name: str, need_weights: bool, bias: str) -> None:
    block = Block(need_weights=need_weights, **SETTINGS[name])
    moments = check(block, inputs(name), {}, bias=bias)
    together = not name.startswith("unequal")
    assert (moments["attn.q_proj"] is moments["attn.k_proj"] is moments["attn.v_proj"]) == together
    assert moments["attn.out_proj"] is not moments["attn.q_proj"]


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("mask", MASKS)
def test_masks(mask: str, batch_first: bool, need_weights: bool) -> None:
    check(Block(batch_first=batch_first, need_weights=need_weights), inputs("self"), MASKS[mask])


@pytest.mark.parametrize("batch_first", [True, False])
def test_cross_attention_reads_two_tensors(batch_first: bool) -> None:
    q, memory, values = (torch.randn(4, n, 6).double() for n in (3, 5, 5))
    moments = check(Block(batch_first=batch_first), [q, memory, memory], {})
    assert moments["attn.q_proj"] is not moments["attn.k_proj"] is moments["attn.v_proj"]
    moments = check(Block(batch_first=batch_first), [q, memory, values], {})
    assert len({id(s) for s in moments.values()}) == 4
    moments = check(Block(batch_first=batch_first), [memory, values, memory], {})  # query and value are one
    assert moments["attn.k_proj"] is not moments["attn.v_proj"]


def test_one_sequence_without_a_batch() -> None:
    attn, x = Block().attn, torch.randn(5, 6).double()
    moments = el.collect(attn, [x], forward=lambda m, x: m(x, x, x)[0])
    heads, _ = by_hand(attn, *[x[None]] * 3)
    assert list(moments) == list(PROJECTIONS)
    assert torch.allclose(moments["out_proj"], sigma(heads, True)) and moments.count["q_proj"] == 5


def test_the_forward_pass_is_the_same_step_by_step() -> None:
    block, x, fast = Block().eval(), torch.randn(4, 5, 6).double(), torch.backends.mha.get_fastpath_enabled()
    seen = []
    for layer in supported_layers(block).values():
        layer.module.register_forward_hook(lambda module, args, out: seen.append(out.shape))
    plain = block(x)
    assert not seen
    with evaluating(block):
        again = block(x)
    assert len(seen) == 4 and torch.allclose(again, plain, rtol=1e-12, atol=1e-14)
    assert torch.equal(block(x), plain) and len(seen) == 4
    assert not block.attn._forward_hooks and not block.attn._forward_pre_hooks
    assert torch.backends.mha.get_fastpath_enabled() == fast


def test_an_error_inside_attention_leaves_nothing_behind() -> None:
    block, x = Block(), torch.randn(4, 5, 6).double()
    with pytest.raises(RuntimeError):
        el.collect(block, [x, x[..., :5]])
    assert not block.attn._forward_hooks and not block.attn._forward_pre_hooks
    assert all(not layer.module._forward_pre_hooks for layer in supported_layers(block).values())
    assert torch.equal(el.collect(block, [x])["attn.q_proj"], el.collect(Block(), [x])["attn.q_proj"])


def test_rows_and_concepts_choose_tokens() -> None:
    for batch_first in (True, False):
        block, x = Block(batch_first=batch_first), torch.randn(4, 5, 6).double()
        heads, _ = by_hand(block.attn, x, x, x)
        mask, concept = torch.rand(4, 5) > 0.4, torch.randint(-1, 2, (4, 5))
        moments = el.collect(block, [x], rows=lambda _: mask)  # noqa: B023
        assert torch.allclose(moments["attn.k_proj"], sigma(x[mask], True))
        assert torch.allclose(moments["attn.out_proj"], sigma(heads[mask], True))
        found = el.collect_by_concept(block, [x], lambda _: concept)  # noqa: B023
        for c in (0, 1):
            assert torch.allclose(found[c]["attn.out_proj"], sigma(heads[concept == c], True))
            assert found[c]["attn.q_proj"] is found[c]["attn.v_proj"]
        by_example = el.collect(block, [x], rows=lambda _: torch.tensor([True, False, False, True]))
        assert torch.allclose(by_example["attn.out_proj"], sigma(heads[[0, 3]], True))


# ------------------------------------------------------------------------------------------------ engrams and edits


@pytest.mark.parametrize("lam", [0.2, 1.0, 3.0])
@pytest.mark.parametrize("name", ["self", "no bias", "unequal widths"])
def test_engrams_equal_the_dense_formula(name: str, lam: float) -> None:
    block = Block(**SETTINGS[name])
    plus, minus = inputs(name, 4), inputs(name, 6)
    attn, absorbed = block.attn, block.attn.in_proj_bias is not None
    target, reference = (el.collect(block, [named(b)]) for b in (plus, minus))
    engram = el.extract(block, target, reference, specificity=lam)
    weights = (
        attn.in_proj_weight.chunk(3)
        if name != "unequal widths"
        else [attn.q_proj_weight, attn.k_proj_weight, attn.v_proj_weight]
    )
    biases = attn.in_proj_bias.chunk(3) if absorbed else [None] * 3
    columns = [[*batch, by_hand(attn, *batch)[0]] for batch in (plus, minus)]
    for part, w, b, x, y in zip(
        PROJECTIONS, [*weights, attn.out_proj.weight], [*biases, attn.out_proj.bias], *columns, strict=True
    ):
        w = w.detach() if b is None else torch.cat([w, b[:, None]], 1).detach()
        a = sigma(x, absorbed)
        expected = w @ a @ torch.linalg.pinv(a + lam * sigma(y, absorbed), rtol=1e-6, hermitian=True)
        found = engram[f"attn.{part}"]
        found = found.weight if b is None else torch.cat([found.weight, found.bias[:, None]], 1)
        assert torch.allclose(found, expected, rtol=1e-8, atol=1e-10), part
    both = el.extract_all(block, {"t": target, "r": reference}, specificity=lam)["t"]
    assert all(torch.allclose(both[n].weight, engram[n].weight) for n in engram)


@pytest.mark.parametrize("name", ["self", "no bias", "unequal widths"])
def test_edits_change_their_own_rows_only(name: str) -> None:
    block, batch = Block(**SETTINGS[name]), inputs(name)
    moments = el.collect(block, [named(batch)])
    engram = el.extract(block, moments, moments)
    before = {k: v.clone() for k, v in block.state_dict().items()}
    changed = el.ablate(block, engram.select(["k_proj"]))
    keys = {k for k, v in changed.state_dict().items() if not torch.equal(v, before[k])}
    if name == "unequal widths":
        assert keys == {"attn.k_proj_weight", "attn.in_proj_bias"}
        assert torch.allclose(changed.attn.k_proj_weight, before["attn.k_proj_weight"] - engram["attn.k_proj"].weight)
    else:
        assert keys == {"attn.in_proj_weight", *(["attn.in_proj_bias"] if name == "self" else [])}
        moved = changed.attn.in_proj_weight.detach() - before["attn.in_proj_weight"]
        assert moved[:6].abs().sum() == moved[12:].abs().sum() == 0
        assert torch.allclose(moved[6:12], -engram["attn.k_proj"].weight)
    if name != "no bias":
        moved = changed.attn.in_proj_bias.detach() - before["attn.in_proj_bias"]
        assert moved[:6].abs().sum() == moved[12:].abs().sum() == 0
    again = el.inject(el.ablate(block, engram), engram)
    assert all(torch.allclose(v, before[k], atol=1e-12) for k, v in again.state_dict().items())
    null = el.null_state(block, engram)
    assert all(v.abs().sum() == 0 for v in null.state_dict().values())
    with el.edited(block, -1.0 * engram):
        assert not torch.equal(block.attn.out_proj.weight, before["attn.out_proj.weight"])
        assert not torch.equal(projections(block.attn)[2].weight, before.get("attn.in_proj_weight", torch.ones(1))[12:])
    assert all(torch.equal(v, before[k]) for k, v in block.state_dict().items())
    assert all(p.requires_grad and p.is_leaf for p in block.parameters())


def test_a_base_gives_the_engram_of_the_difference() -> None:
    block, x = Block(), torch.randn(4, 5, 6).double()
    start = {k: torch.randn_like(v) for k, v in block.state_dict().items()}
    moments = el.collect(block, [x])
    found = el.extract(block, moments, moments, base=start)
    other = copy.deepcopy(block)
    other.load_state_dict({k: v - start[k] for k, v in block.state_dict().items()})
    expected = el.extract(other, moments, moments)
    for n in found:
        assert torch.allclose(found[n].weight, expected[n].weight) and torch.allclose(found[n].bias, expected[n].bias)
    with pytest.raises(ValueError, match="base: has no entry 'attn.in_proj_weight'"):
        el.extract(block, moments, moments, base={})
    with pytest.raises(ValueError, match="base: 'attn.in_proj_weight' has shape"):
        el.extract(block, moments, moments, base=start | {"attn.in_proj_weight": torch.ones(6, 6)})


def test_engrams_survive_the_disk(tmp_path: object) -> None:
    block, x = Block(), torch.randn(4, 5, 6).double()
    moments = el.collect(block, [x])
    moments.save(tmp_path / "m")
    el.extract(block, moments, el.Moments.load(tmp_path / "m")).save(tmp_path / "e")
    assert el.ablate(block, el.Engram.load(tmp_path / "e")).attn.in_proj_weight.shape == (18, 6)


def test_shared_parameters_are_found() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = Block().attn, Block().attn
            self.b.in_proj_weight = self.a.in_proj_weight

        def forward(self, x: Tensor) -> Tensor:
            return self.b(*[self.a(x, x, x)[0]] * 3)[0]

    model = Two()
    entry = (torch.ones(6, 6), None)
    with pytest.raises(ValueError, match="'a.q_proj' and 'b.q_proj' share one weight"):
        el.ablate(model, el.Engram({"a.q_proj": entry, "b.q_proj": entry}))
    with pytest.warns(UserWarning, match="'a.q_proj' shares its weight with b"):
        el.ablate(model, el.Engram({"a.q_proj": entry}))
    block = Block()
    el.ablate(block, el.Engram({"attn.q_proj": entry, "attn.k_proj": entry}))  # two parts of one parameter are no tie


def test_selection_and_refusals() -> None:
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), 2, enable_nested_tensor=False)
    assert list(find_layers(model, ["q_proj", "v_proj"])) == [
        f"layers.{i}.self_attn.{part}" for i in (0, 1) for part in ("q_proj", "v_proj")
    ]
    assert [n.rpartition(".")[2] for n in find_layers(model)][:6] == [*PROJECTIONS, "linear1", "linear2"]
    attn = nn.MultiheadAttention(8, 2)
    nn.utils.parametrize.register_parametrization(attn, "in_proj_weight", nn.Identity())
    with pytest.raises(TypeError, match="'q_proj'.*parametrization"):
        find_layers(attn, ["q_proj"])
    assert list(find_layers(attn, ["out_proj"])) == ["out_proj"]


def test_an_encoder_with_a_padding_mask_and_half_precision() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model, x = nn.TransformerEncoder(layer, 2).bfloat16(), torch.randn(3, 5, 8).bfloat16()
    pad = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1]]).bool()
    batch = {"src": x, "src_key_padding_mask": pad}
    moments = el.collect(model, [batch], rows=lambda b: ~b["src_key_padding_mask"])
    assert set(moments.count.values()) == {13} and len(moments) == 12
    kept = with_one(x.double()[~pad])
    assert torch.allclose(moments["layers.0.self_attn.v_proj"], kept.T @ kept)
    engram = el.extract(model, moments, moments)
    assert engram["layers.1.self_attn.k_proj"].weight.dtype == torch.float32
    assert el.ablate(model, engram).layers[1].self_attn.in_proj_weight.dtype == torch.bfloat16


def test_decoders_share_the_moments_of_one_memory() -> None:
    layer = nn.TransformerDecoderLayer(8, 2, 12, batch_first=True)
    model = nn.TransformerDecoder(layer, 2)
    x, memory = torch.randn(3, 4, 8), torch.randn(3, 5, 8)
    moments = el.collect(model, [{"tgt": x, "memory": memory}])
    shared = {id(moments[f"layers.{i}.multihead_attn.{p}_proj"]) for i in (0, 1) for p in "kv"}
    assert len(shared) == 1 and len(moments) == 20
    columns = with_one(memory.double().flatten(0, 1))
    assert torch.allclose(moments["layers.1.multihead_attn.k_proj"], columns.T @ columns)


def test_a_vision_transformer_is_covered(recwarn: pytest.WarningsRecorder) -> None:
    transformer = pytest.importorskip("torchvision.models.vision_transformer").VisionTransformer
    model = transformer(image_size=8, patch_size=4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=12, num_classes=3)
    x, y = torch.randn(6, 3, 8, 8), torch.arange(6) % 2
    moments = el.collect_by_concept(model, [(x, y)], lambda b: b[1], layers=".*")
    reached = {layer.parameter_name(w) for layer in find_layers(model, ".*").values() for w in ("weight", "bias")}
    assert set(dict(model.named_parameters())) - reached == {"class_token", "encoder.pos_embedding"}
    assert not recwarn.list and set(moments[0]) == set(find_layers(model, ".*"))
    engrams = el.extract_all(model, moments)
    again = el.inject(el.ablate(model, sum(engrams.values())), sum(engrams.values()))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(again.parameters(), model.parameters(), strict=True))


def test_attention_modules_are_not_kept_alive() -> None:
    attn = nn.MultiheadAttention(8, 2)
    find_layers(attn)
    gone = weakref.ref(attn)
    del attn
    gc.collect()
    assert gone() is None


# ---------------------------------------------------------------------------------------- what else runs on layers


def test_criteria_and_gradients_reach_every_projection() -> None:
    block = Block()
    model = nn.Sequential(block, nn.Flatten(), nn.Linear(30, 3).double())
    x, y = torch.randn(4, 5, 6).double(), torch.randn(6, 5, 6).double()
    target, reference = el.collect(model, [x]), el.collect(model, [y])
    scores = el.score_criteria(
        model, el.extract(model, target, reference), target, reference, batches=([x], [y]), draws=1
    )
    assert {row.layer for row in scores.layers} == set(target)
    whole = next(row for row in scores.network if row.engram == "engram")
    assert set(whole.reactivation_by_layer) == set(target) and 0 < whole.sufficiency <= 1

    loss = lambda z, batch: z.square().sum()  # noqa: E731
    gradient = analysis.loss_gradient(model, [x, y], loss)
    model.zero_grad()
    (loss(model(x), x) + loss(model(y), y)).backward()
    rows = block.attn.in_proj_weight.grad.chunk(3)
    for part, expected in zip(PROJECTIONS, [*rows, block.attn.out_proj.weight.grad], strict=True):
        assert torch.allclose(gradient[f"0.attn.{part}"].weight, expected), part
    assert torch.allclose(gradient["0.attn.k_proj"].bias, block.attn.in_proj_bias.grad.chunk(3)[1], atol=1e-10)


@pytest.mark.parametrize("name", ["self", "unequal widths"])
def test_the_fisher_block_of_a_projection(name: str) -> None:
    """Σ over examples and outputs of (∂f/∂W)(∂f/∂W)ᵀ, by autograd on the rows of the stacked weight."""
    block, batch = Block(**SETTINGS[name]), inputs(name, 2)
    for number, part in enumerate(PROJECTIONS[:3]):
        found = analysis.fisher_block(block, [named(batch)], f"attn.{part}", loss="squared", bias="keep")
        expected = torch.zeros_like(found)
        for example in zip(*batch, strict=True):
            one = {id(x): x[None] for x in example}
            f = block(*(one[id(x)] for x in example)).flatten()
            weight = block.attn.in_proj_weight if name == "self" else getattr(block.attn, f"{part}_weight")
            for value in f:
                (g,) = torch.autograd.grad(value, weight, retain_graph=True)
                g = (g.chunk(3)[number] if name == "self" else g).flatten()
                expected += torch.outer(g, g)
        assert torch.allclose(found, expected, rtol=1e-8, atol=1e-10), part
