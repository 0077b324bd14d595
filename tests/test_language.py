"""Language models of many families, built from configs, against the formula written out in float64."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from packaging.version import Version
from torch import Tensor, nn

import engramlib as el
from engramlib import _products, _recorder, language
from engramlib._experts import experts
from engramlib.layers import find_layers, supported_layers

transformers = pytest.importorskip("transformers")
RELEASE = Version(transformers.__version__).release

SMALL = dict(
    vocab_size=60,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
MIXTURE = dict(num_experts_per_tok=2, num_local_experts=4)
# family: (settings, linear layers, distinct inputs): what shares an input in a block shares one Σ
FAMILIES: dict[str, tuple[dict[str, Any], int, int]] = {
    "Llama": ({}, 15, 9),
    "Mistral": (dict(sliding_window=8), 15, 9),
    "Qwen2": ({}, 15, 9),
    "Qwen3": (dict(head_dim=4), 15, 9),
    "Gemma": (dict(head_dim=4), 14, 8),  # tied: its output layer is left out
    "Phi": ({}, 13, 7),  # attention and MLP of a block read one norm; biases everywhere
    "Phi3": ({}, 9, 9),  # qkv_proj and gate_up_proj are one matrix each
    "GPT2": ({}, 8, 8),  # Conv1D, tied
}
MIXTURES: dict[str, tuple[dict[str, Any], int, int]] = {
    "Mixtral": (MIXTURE, 25, 21),
    "Qwen3Moe": (dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=12, head_dim=4), 25, 21),
    "GptOss": (MIXTURE | dict(head_dim=4), 25, 21),  # transposed, interleaved, with biases
    "DeepseekV3": (  # compressed attention, whose tokens come as (batch, 1, tokens, d); a dense block, shared experts
        dict(
            num_key_value_heads=4,
            n_routed_experts=4,
            num_experts_per_tok=2,
            n_group=1,
            topk_group=1,
            first_k_dense_replace=1,
            moe_intermediate_size=8,
            kv_lora_rank=8,
            q_lora_rank=8,
            qk_rope_head_dim=4,
            qk_nope_head_dim=4,
            v_head_dim=4,
        ),
        25,
        21,
    ),
}
FORGET = [
    ("who is abc?", " xyz, a man"),
    ("q?", " a"),
    "every token of this counts",
    ("and the longest prompt of all", " is short"),
]
RETAIN = [("what", f" is it {7 * i}, or {i}?") for i in range(14)] + ["the rest"]


class Letters:
    """A tokenizer of letters that puts token 1 before a text."""

    pad_token_id, bos_token_id, eos_token_id, model_max_length = 0, 1, 2, 10**30

    def __call__(self, texts: list[str], add_special_tokens: bool = True) -> dict[str, list[list[int]]]:
        return {"input_ids": [[1] * add_special_tokens + [3 + ord(c) % 50 for c in text] for text in texts]}


def make(family: str, dtype: torch.dtype = torch.float64, **settings: Any) -> nn.Module:
    given = SMALL | (FAMILIES | MIXTURES)[family][0] | settings
    if family == "GPT2":
        given = {k: v for k, v in given.items() if k != "num_key_value_heads"}
        if dtype == torch.float64 and RELEASE < (4, 52):
            given["attn_implementation"] = "eager"  # the default's mask overflows there
        config = transformers.GPT2Config(n_inner=given.pop("intermediate_size"), **given)
        model = transformers.GPT2LMHeadModel(config)
    else:
        if family in MIXTURES and RELEASE < (5,):
            pytest.skip("transformers fuses experts from version 5 on")  # before, each is a module of its own
        if not hasattr(transformers, f"{family}ForCausalLM"):
            pytest.skip(f"this transformers has no {family}")
        config = getattr(transformers, f"{family}Config")(**given)
        config._experts_implementation = "eager"  # the others have no float64
        model = getattr(transformers, f"{family}ForCausalLM")(config)
    for name, parameter in model.named_parameters():
        if "norm" in name or parameter.ndim == 1:  # they start as ones and zeros, which hide mistakes
            nn.init.normal_(parameter, mean=float("norm" in name), std=0.3)
    return model.to(dtype).eval()


def fused(model: nn.Module) -> dict[str, nn.Module]:
    return {n: m for n, m in model.named_modules() if type(m).__name__.endswith("Experts")}


def columns(model: nn.Module, items: list[Any], shift: bool = False) -> dict[str, Tensor]:
    """What each layer reads at the tokens that count: one item at a time, without padding, by hand."""
    seen: dict[str, list[Tensor]] = {}
    rows = torch.zeros(0)

    def keep(name: str, x: Tensor) -> None:
        seen.setdefault(name, []).append(x.detach().double())

    def linear(name: str) -> Any:
        return lambda module, args: keep(name, args[0].flatten(0, -2)[rows])

    def mixture(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            x, index, _ = args
            for e in range(len(module.down_proj)):
                x_e = x[rows & (index == e).any(-1)]
                keep(f"{name}.{e}.gate_up_proj", x_e)
                if type(module).__name__ == "GptOssExperts":
                    z = x_e @ module.gate_up_proj[e] + module.gate_up_proj_bias[e]
                    gate, up = z[:, ::2].clamp(max=module.limit), z[:, 1::2].clamp(-module.limit, module.limit)
                    inner = (up + 1) * gate * torch.sigmoid(gate * module.alpha)
                else:
                    gate, up = (x_e @ module.gate_up_proj[e].T).chunk(2, -1)
                    inner = module.act_fn(gate) * up
                keep(f"{name}.{e}.down_proj", inner)

        return hook

    mixtures = fused(model)
    plain = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) or type(m).__name__ == "Conv1D"}
    hooks = [m.register_forward_pre_hook(linear(n)) for n, m in plain.items()]
    hooks += [m.register_forward_pre_hook(mixture(n)) for n, m in mixtures.items()]
    for item in items:
        prompt, answer = (None, item) if isinstance(item, str) else item
        ids = Letters()([answer], add_special_tokens=prompt is None)["input_ids"][0]
        head = [] if prompt is None else Letters()([prompt])["input_ids"][0]
        rows = torch.arange(len(head) + len(ids)) >= len(head)
        if shift:
            rows = torch.cat([rows[1:], torch.tensor([False])])
        with torch.no_grad():
            model(input_ids=torch.tensor([head + ids]))
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(parts) for name, parts in seen.items()}


def matrix(model: nn.Module, name: str) -> tuple[Tensor, Tensor | None]:
    """(W, b) of a layer, out × in, from the model's own parameters."""
    owner, _, part = name.rpartition(".")
    if (
        part in ("gate_up_proj", "down_proj")
        and owner.rpartition(".")[2].isdigit()
        and owner.rpartition(".")[0] in fused(model)
    ):
        owner, _, number = owner.rpartition(".")
        module = model.get_submodule(owner)
        weight = getattr(module, part)[int(number)].detach()
        bias = getattr(module, f"{part}_bias", None)
        transposed = type(module).__name__ == "GptOssExperts"
        return weight.T if transposed else weight, None if bias is None else bias[int(number)].detach()
    module = model.get_submodule(name)
    weight = module.weight.detach()
    return weight.T if type(
        module
    ).__name__ == "Conv1D" else weight, None if module.bias is None else module.bias.detach()


def dense(w: Tensor, b: Tensor | None, plus: Tensor, minus: Tensor, lam: float = 1.0) -> tuple[Tensor, Tensor | None]:
    if b is not None:
        w = torch.cat([w, b[:, None]], 1)
        plus, minus = (torch.cat([x, torch.ones(len(x), 1)], 1) for x in (plus, minus))
    a = plus.T @ plus
    e = w.double() @ a @ torch.linalg.pinv(a + lam * minus.T @ minus, rtol=1e-6, hermitian=True)
    return (e, None) if b is None else (e[:, :-1], e[:, -1])


def same(a: Tensor, b: Tensor, tolerance: float = 1e-6) -> bool:
    return bool((a.double() - b.double()).norm() <= tolerance * b.double().norm() + 1e-12)


def distance(a: el.Moments, b: el.Moments) -> float:
    assert list(a) == list(b) and a.count == b.count
    return max(float((a[n] - b[n]).norm() / b[n].norm().clamp_min(1e-30)) for n in a)


@pytest.fixture(scope="module")
def llama() -> nn.Module:
    torch.manual_seed(0)
    return make("Llama")


# ----------------------------------------------------------------------------------------------- families of models


@pytest.mark.parametrize("family", [*FAMILIES, *MIXTURES])
def test_forgetting_is_the_dense_formula_in_every_layer(family: str) -> None:
    model = make(family)
    target, reference = columns(model, FORGET), columns(model, RETAIN)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    edited = language.forget(model, Letters(), FORGET, RETAIN, alpha=0.7, specificity=2.0)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())

    names = list(find_layers(model))
    tied = {"lm_head"} if model.config.tie_word_embeddings else set()
    assert set(names) == set(target) - tied
    expected = {n: dense(*matrix(model, n), target[n], reference[n], 2.0) for n in names}
    ratios = {n: float(e.norm() / matrix(model, n)[0].norm()) for n, (e, _) in expected.items()}
    largest = max(ratios.values())
    for name, (weight, bias) in expected.items():
        step = 0.7 * ratios[name] / largest
        now, offset = matrix(edited, name)
        w, b = matrix(model, name)
        assert same(w - now, step * weight), name
        assert b is None or same(b - offset, step * bias), name
    # Nothing else has changed: norms, routers, embeddings.
    touched = {supported_layers(model)[n].parameter_name(which) for n in names for which in ("weight", "bias")}
    for name, parameter in edited.named_parameters():
        assert name in touched or torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("family", [*FAMILIES, *MIXTURES])
def test_every_linear_layer_is_found_and_what_shares_an_input_shares_one_sum(family: str) -> None:
    model = make(family)
    moments = language.collect(model, Letters(), FORGET)
    _, layers, distinct = (FAMILIES | MIXTURES)[family]
    assert (len(moments), len({id(s) for s in moments.values()})) == (layers, distinct)
    for name, x in columns(model, FORGET).items():
        if name not in moments:
            continue
        if matrix(model, name)[1] is not None:
            x = torch.cat([x, torch.ones(len(x), 1)], 1)
        assert same(moments[name], x.T @ x, 1e-11) and moments.count[name] == len(x), name


def test_relative_norms_are_of_each_layer(llama: nn.Module) -> None:
    target, reference = (language.collect(llama, Letters(), items) for items in (FORGET, RETAIN))
    ratios = el.extract(llama, target, reference).relative_norms()
    plus, minus = columns(llama, FORGET), columns(llama, RETAIN)
    for name, ratio in ratios.items():
        w, b = matrix(llama, name)
        assert ratio == pytest.approx(float(dense(w, b, plus[name], minus[name])[0].norm() / w.norm()), rel=1e-6)
    k, v = (llama.get_submodule(f"model.layers.0.self_attn.{part}_proj").weight for part in "kv")
    assert k.shape == v.shape == (8, 16)  # two of four heads: not square


def test_forget_is_the_explicit_pipeline(llama: nn.Module) -> None:
    how = dict(layers=r".*\.(self_attn|mlp)\..*", shift=True, eos=True, batch_size=3, bias="keep")
    target, reference = (language.collect(llama, Letters(), items, **how) for items in (FORGET, RETAIN))
    engram = el.extract(llama, target, reference, specificity=3.0, rcond=1e-5)
    same_options = dict(alpha=1.2, specificity=3.0, rcond=1e-5, **how)

    def check(expected: el.Engram, strength: Any) -> None:
        edited = el.forget(llama, Letters(), FORGET, RETAIN, strength=strength, **same_options)
        by_hand = el.ablate(llama, expected, 1.2)
        for (name, a), (_, b) in zip(edited.named_parameters(), by_hand.named_parameters(), strict=True):
            assert torch.equal(a, b), name

    check(engram.norm_weighted(), "norm")
    check(engram, "uniform")
    check(
        engram.norm_weighted(2),
        lambda e: {n: (r / max(e.relative_norms().values())) ** 2 for n, r in e.relative_norms().items()},
    )
    check(engram.scaled({"model.layers.0.mlp.up_proj": 0.0}), {"model.layers.0.mlp.up_proj": 0.0})
    unlike = el.forget(llama, Letters(), FORGET, RETAIN, strength="uniform", **same_options)
    assert not torch.equal(unlike.model.layers[0].mlp.up_proj.weight, llama.model.layers[0].mlp.up_proj.weight)


def test_forget_in_place_and_with_a_base() -> None:
    model = make("Llama")
    base = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight += 0.1 * torch.randn(16, 24).double()
    copied = el.forget(model, Letters(), FORGET, RETAIN, base=base)
    assert el.forget(model, Letters(), FORGET, RETAIN, base=base, inplace=True) is model
    changed = [n for n, p in model.named_parameters() if not torch.equal(p, base[n])]
    assert changed == ["model.layers.1.mlp.down_proj.weight"]  # ΔW is zero everywhere else
    assert torch.equal(copied.state_dict()[changed[0]], model.state_dict()[changed[0]])


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.bfloat16, 2e-2), (torch.float16, 4e-3)])
@pytest.mark.parametrize("sums", [torch.float64, torch.float32])
def test_narrow_weights_have_wide_statistics(dtype: torch.dtype, tolerance: float, sums: torch.dtype) -> None:
    model = make("Llama", dtype)
    moments = language.collect(model, Letters(), RETAIN, dtype=sums)
    assert {s.dtype for s in moments.values()} == {sums}
    # What a layer reads depends on the batch in the last bit of a narrow model, so it is compared with one batch.
    data, seen = language.batches(Letters(), RETAIN, batch_size=99), []
    layer = model.model.layers[1].mlp.down_proj
    hook = layer.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    one = language.collect(model, Letters(), RETAIN, dtype=sums, batch_size=99)["model.layers.1.mlp.down_proj"]
    hook.remove()
    (batch,) = data
    order = batch["attention_mask"].sum(1).argsort(descending=True, stable=True)
    x = seen[0][language.answer_rows(batch)[order]].double()
    assert x.dtype == torch.float64 and same(one, x.T @ x, 1e-12 if sums == torch.float64 else 1e-5)

    target = language.collect(model, Letters(), FORGET, dtype=sums)
    engram = el.extract(model, target, moments)
    edited = el.forget(model, Letters(), FORGET, RETAIN, strength="uniform", dtype=sums)
    for name, (weight, _) in engram.items():
        w, now = model.get_submodule(name).weight, edited.get_submodule(name).weight
        assert weight.dtype == torch.float32 and now.dtype == dtype
        assert same(now, w.double() - weight.double(), tolerance)


# ------------------------------------------------------------------------------------------------------------ experts


def test_an_expert_counts_the_tokens_that_were_routed_to_it() -> None:
    model = make("Mixtral")
    moments = language.collect(model, Letters(), FORGET)
    rows = sum(len(answer) for _, answer in (i for i in FORGET if isinstance(i, tuple))) + len(FORGET[2]) + 1
    for block in range(2):
        counts = [moments.count[f"model.layers.{block}.mlp.experts.{e}.gate_up_proj"] for e in range(4)]
        assert sum(counts) == 2 * rows and len(set(counts)) > 1
        assert counts == [moments.count[f"model.layers.{block}.mlp.experts.{e}.down_proj"] for e in range(4)]
    chosen = language.collect(model, Letters(), FORGET, layers=["1.gate_up_proj", "o_proj"])
    assert [n.removeprefix("model.layers.") for n in chosen] == [
        f"{b}.{n}" for b in range(2) for n in ("self_attn.o_proj", "mlp.experts.1.gate_up_proj")
    ]


def test_an_expert_that_nobody_was_routed_to_is_left_alone() -> None:
    model = make("Mixtral")
    gate = model.model.layers[0].mlp.gate
    with torch.no_grad():
        gate.weight[3] = 0  # logit 0; the first two get the same large logit, whatever its sign
        gate.weight[2] = 0
        gate.weight[1] = -gate.weight[0]
        gate.weight[:2] *= 1e3
    forward = type(gate).forward

    def never(self: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
        logits, scores, index = forward(self, x)
        return logits, scores, index.clamp_max(2) if self is gate else index

    gate.forward = lambda x: never(gate, x)
    before = experts(model.model.layers[0].mlp.experts)[6].weight.clone()
    name = "model.layers.0.mlp.experts.3.gate_up_proj"
    moments = language.collect(model, Letters(), FORGET)
    assert moments.count[name] == 0 and not moments[name].any()
    other = experts(model.model.layers[0].mlp.experts)[0].weight.clone()
    with pytest.raises(TypeError, match="inplace=True"):  # a copy's `forward` would be this gate's
        el.forget(model, Letters(), FORGET, RETAIN)
    edited = el.forget(model, Letters(), FORGET, RETAIN, inplace=True)
    assert torch.equal(edited.model.layers[0].mlp.experts.gate_up_proj[3], before)
    assert not torch.equal(edited.model.layers[0].mlp.experts.gate_up_proj[0], other)


@pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm"])
def test_experts_of_every_implementation(implementation: str) -> None:
    model = make("Qwen3Moe", torch.float32)
    expected = language.collect(model, Letters(), FORGET)
    model.config._experts_implementation = implementation
    assert distance(language.collect(model, Letters(), FORGET), expected) < 1e-5
    module = model.model.layers[0].mlp.experts
    assert "forward" not in vars(module)  # handed back as it came


def test_edits_of_experts_undo_add_up_and_travel(tmp_path: Any) -> None:
    model = make("GptOss")
    target, reference = (language.collect(model, Letters(), items) for items in (FORGET, RETAIN))
    target.save(tmp_path / "m.safetensors")
    assert distance(el.Moments.load(tmp_path / "m.safetensors"), target) == 0
    engram = el.extract(model, target, reference)
    before = copy.deepcopy(model.state_dict())
    with el.edited(model, -engram):
        inside = copy.deepcopy(model.state_dict())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    ablated = el.ablate(model, engram)
    assert all(torch.equal(v, inside[k]) for k, v in ablated.state_dict().items())
    back = el.inject(ablated, engram).state_dict()
    assert all(same(back[k], v, 1e-12) for k, v in before.items())
    null = el.null_state(model, engram.select(["2.down_proj"]))
    down = null.model.layers[0].mlp.experts.down_proj
    assert not down[2].any() and torch.equal(down[1], model.model.layers[0].mlp.experts.down_proj[1])
    assert not null.model.layers[0].mlp.experts.down_proj_bias[2].any()
    missing = el.Engram({"model.layers.0.mlp.experts.9.down_proj": engram["model.layers.0.mlp.experts.2.down_proj"]})
    with pytest.raises(ValueError, match="9.down_proj"):
        el.ablate(model, missing)


def test_experts_need_a_value_per_token(llama: nn.Module) -> None:
    model = make("Mixtral")
    batch = {"input_ids": torch.randint(3, 60, (4, 6))}
    with pytest.raises(ValueError, match="per token"):
        el.collect_by_concept(model, [batch], lambda batch: torch.arange(4))
    concept = torch.arange(24).view(4, 6) % 2
    found = el.collect_by_concept(model, [batch], lambda batch: concept)
    assert distance(found[0] + found[1], el.collect(model, [batch])) < 1e-12


def test_scores_that_experts_cannot_have_are_refused() -> None:
    model = make("Mixtral")
    target, reference = (language.collect(model, Letters(), items) for items in (FORGET, RETAIN))
    engram = el.extract(model, target, reference)
    batch = {"input_ids": torch.randint(3, 60, (4, 6))}
    with pytest.raises(TypeError, match="expert of a mixture"):
        el.analysis.output_factors(model, [batch])
    rows = el.score_criteria(model, engram, target, reference)  # layer by layer, in closed form
    assert rows
    gradient = el.analysis.loss_gradient(model, [batch], lambda out, batch: out.square().sum(), layers=["0.down_proj"])
    z = model(**batch).logits
    (own,) = torch.autograd.grad(z.square().sum(), [model.model.layers[0].mlp.experts.down_proj])
    assert same(gradient["model.layers.0.mlp.experts.0.down_proj"].weight, own[0], 1e-9)


class OddExperts(nn.Module):
    """Experts whose activation is not the one they name."""

    def __init__(self, strange: bool) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.randn(2, 6, 4))
        self.down_proj = nn.Parameter(torch.randn(2, 4, 3))
        self.act_fn, self.strange = nn.SiLU(), strange

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        out = torch.zeros_like(hidden_states)
        for e in range(2):
            gate, up = (hidden_states @ self.gate_up_proj[e].T).chunk(2, -1)
            z = (self.act_fn(gate) * up + 0.1 * self.strange) @ self.down_proj[e].T
            out = out + z * (top_k_weights * (top_k_index == e)).sum(-1, keepdim=True)
        return out


class OddModel(nn.Module):
    def __init__(self, experts: nn.Module) -> None:
        super().__init__()
        self.fc, self.experts = nn.Linear(4, 4), experts

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        index = (x[:, :1] > 0).long()
        return self.experts(x, index, torch.full_like(x[:, :1], 0.5))


def test_experts_that_compute_something_else_are_refused() -> None:
    x = torch.randn(9, 4)
    found = el.collect(OddModel(OddExperts(False)), [x])
    assert found.count["experts.0.gate_up_proj"] + found.count["experts.1.gate_up_proj"] == 9
    with pytest.raises(TypeError, match="OddExperts.*does not give what the module gives"):
        el.collect(OddModel(OddExperts(True)), [x])
    assert list(el.collect(OddModel(OddExperts(True)), [x], layers=["fc"])) == ["fc"]


class NaiveMoe(nn.Module):
    """Fused experts under the name that DeepSeek's and GLM-4's had in transformers 5.0 to 5.12."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_up_proj, self.down_proj = nn.Parameter(torch.randn(3, 10, 4)), nn.Parameter(torch.randn(3, 4, 5))
        self.act_fn = nn.SiLU()

    def forward(self, x: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        for n, (up, down) in enumerate(zip(self.gate_up_proj, self.down_proj, strict=True)):
            tokens, place = torch.where(index == n)
            gate, z = (x[tokens] @ up.T).chunk(2, -1)
            out = out.index_add(0, tokens, (self.act_fn(gate) * z @ down.T) * weights[tokens, place, None])
        return out


def test_experts_are_found_whatever_their_class_is_called() -> None:
    """They were passed over without a word, and the edit with them."""

    class Routed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.moe, self.head = NaiveMoe(), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            index = (x[:, :1] > 0).long() + (x[:, 1:2] > 0).long()
            return self.head(self.moe(x, index, torch.ones(len(x), 1)))

    model, x = Routed(), torch.randn(40, 4)
    found = el.collect(model, [x])
    assert list(found)[:6] == [f"moe.{n}.{part}" for n in range(3) for part in ("gate_up_proj", "down_proj")]
    for n in range(3):
        mine = x[((x[:, 0] > 0).long() + (x[:, 1] > 0).long()) == n].double()
        assert torch.allclose(found[f"moe.{n}.gate_up_proj"], mine.T @ mine)


def test_experts_of_an_unknown_layout_are_refused_by_name() -> None:
    class StackedExperts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w1 = nn.Parameter(torch.randn(2, 4, 4))

        def forward(self, x: Tensor, index: Tensor, weights: Tensor) -> Tensor:
            return x @ self.w1[0]

    model = OddModel(StackedExperts())
    with pytest.raises(TypeError, match="layer 'experts'.*StackedExperts.*layout"):
        el.collect(model, [torch.randn(9, 4)])
    assert list(el.collect(model, [torch.randn(9, 4)], layers=["fc"])) == ["fc"]
    if hasattr(transformers, "Llama4ForCausalLM"):
        config = transformers.Llama4TextConfig(
            **SMALL
            | dict(head_dim=4, num_local_experts=2, intermediate_size_mlp=16, layer_types=["full_attention"] * 2)
        )
        with pytest.raises(TypeError, match="Llama4TextExperts.*layers="):
            find_layers(transformers.Llama4ForCausalLM(config))


def test_experts_that_are_modules_need_no_mask_or_say_why() -> None:
    class Listed(nn.Module):
        """As transformers 4 has them."""

        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            flat = x.flatten(0, 1)
            return sum(expert(flat[(flat[:, 0] > 0) == e]).sum() for e, expert in enumerate(self.experts))

    model, x = Listed(), torch.randn(3, 5, 4)
    assert sum(el.collect(model, [x]).count.values()) == 15
    with pytest.raises(ValueError, match=r"layer 'experts\.0'.*an expert that is a module of its own"):
        el.collect(model, [x], rows=lambda x: torch.ones(3, 5, dtype=torch.bool))


# ---------------------------------------------------------------------------------------------------- tied embeddings


@pytest.mark.parametrize("family", ["Llama", "GPT2"])
def test_a_tied_output_layer_is_left_out_unless_named(family: str, tmp_path: Any) -> None:
    model = make(family, torch.float32, tie_word_embeddings=True)
    embedding = model.get_input_embeddings().weight
    assert model.lm_head.weight is embedding
    assert "lm_head" not in find_layers(model) and "lm_head" in find_layers(model, ".*")
    edited = el.forget(model, Letters(), FORGET, RETAIN)
    assert edited.lm_head.weight is edited.get_input_embeddings().weight
    assert torch.equal(edited.lm_head.weight, embedding)

    edited = el.forget(model, Letters(), FORGET, RETAIN, layers=["lm_head"])
    assert model.lm_head.weight is embedding and model.config.tie_word_embeddings
    assert torch.equal(edited.get_input_embeddings().weight, embedding)
    target, reference = (language.collect(model, Letters(), i, layers=["lm_head"]) for i in (FORGET, RETAIN))
    engram = el.extract(model, target, reference)
    assert torch.equal(edited.lm_head.weight, embedding - engram["lm_head"].weight)
    with pytest.warns(UserWarning, match="shares its weight"):
        el.ablate(model, engram)

    # A saved model comes back with both matrices.
    edited.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    ids = torch.randint(3, 60, (2, 7))
    assert torch.equal(again(input_ids=ids).logits, edited(input_ids=ids).logits)
    assert not torch.equal(again.lm_head.weight, again.get_input_embeddings().weight)


def test_untie(recwarn: pytest.WarningsRecorder) -> None:
    model = make("Gemma")
    free = language.untie(model)
    ids = torch.randint(3, 60, (2, 7))
    assert torch.equal(free(input_ids=ids).logits, model(input_ids=ids).logits)
    assert free.lm_head.weight is not free.get_input_embeddings().weight and model.config.tie_word_embeddings
    assert "lm_head" in find_layers(free) and not free.config.tie_word_embeddings
    free.tie_weights()  # transformers does so now and then, for what it believes is tied
    assert "lm_head.weight" not in getattr(free, "all_tied_weights_keys", {})
    assert free.lm_head.weight is not free.get_input_embeddings().weight
    engram = el.Engram({"lm_head": (torch.ones(60, 16), None)})
    el.ablate(free, engram)
    assert not [w for w in recwarn if "shares its weight" in str(w.message)]
    assert language.untie(model, inplace=True) is model
    plain = make("Llama")
    assert language.untie(plain, inplace=True).lm_head.weight is plain.lm_head.weight


# --------------------------------------------------------------------------------------------------------- quantised


class QuantLinear(nn.Module):
    """As GPTQ stores a layer: integers, scales, and no weight."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("qweight", torch.zeros(2, 16, dtype=torch.int32))
        self.register_buffer("scales", torch.ones(1, 16))

    def forward(self, x: Tensor) -> Tensor:
        return x


class Linear4bit(nn.Linear):
    """As bitsandbytes stores one: a subclass of nn.Linear with packed bytes."""

    def __init__(self) -> None:
        super().__init__(16, 16, bias=False)
        self.weight = nn.Parameter(torch.zeros(128, 1, dtype=torch.uint8), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x


class Linear8bitLt(nn.Linear):
    """Not yet quantised, with floating-point numbers that will be."""

    __module__ = "bitsandbytes.nn.modules"

    def __init__(self) -> None:
        super().__init__(16, 16, bias=False)


def torch_int8() -> nn.Module:
    from torch.ao.quantization import quantize_dynamic

    return quantize_dynamic(nn.Sequential(nn.Linear(16, 16)), {nn.Linear}, dtype=torch.qint8)[0]


@pytest.mark.parametrize("layer", [QuantLinear, Linear4bit, Linear8bitLt, torch_int8], ids=lambda f: f.__name__)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_quantised_layers_are_refused_by_name(layer: Any) -> None:
    model = make("Llama", torch.float32)
    before = copy.deepcopy(model.state_dict())
    model.model.layers[1].self_attn.o_proj = layer()
    for call in (
        lambda: el.forget(model, Letters(), FORGET, RETAIN, inplace=True),
        lambda: language.collect(model, Letters(), FORGET, layers=["o_proj"]),
        lambda: el.ablate(model, el.Engram({"model.layers.1.self_attn.o_proj": (torch.zeros(16, 16), None)})),
    ):
        with pytest.raises(TypeError, match=r"layer 'model\.layers\.1\.self_attn\.o_proj'.*quantised.*bf16 or float32"):
            call()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items() if "o_proj" not in k)
    # The others are still there for those who ask for them.
    assert el.forget(model, Letters(), FORGET, RETAIN, layers=["up_proj"]) is not model


# ------------------------------------------------------------------------------------------------------------ devices


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")),
    ],
)
@pytest.mark.parametrize("home", ["cpu", None])
@pytest.mark.parametrize("family", ["Llama", "Mixtral"])
def test_statistics_live_where_they_are_asked_to(family: str, device: str, home: str | None) -> None:
    model = make(family)
    expected = language.collect(model, Letters(), FORGET), language.collect(model, Letters(), RETAIN)
    edited = el.forget(model, Letters(), FORGET, RETAIN)
    model.to(device)
    found = [language.collect(model, Letters(), items, device=home) for items in (FORGET, RETAIN)]
    assert {s.device.type for m in found for s in m.values()} == {home or device}
    assert max(distance(a.to("cpu"), b) for a, b in zip(found, expected, strict=True)) < 1e-9
    there = el.forget(model, Letters(), FORGET, RETAIN, device=home)
    assert {p.device.type for p in there.parameters()} == {device}
    for (name, a), (_, b) in zip(there.named_parameters(), edited.named_parameters(), strict=True):
        assert same(a.cpu(), b, 1e-6), name
    with pytest.raises(ValueError, match="device"):
        language.collect(model, Letters(), FORGET, device="cuda:99")


def test_sums_on_another_device(monkeypatch: pytest.MonkeyPatch, llama: nn.Module) -> None:
    """The way of a GPU whose sums are on the CPU, walked on the CPU: it has a second name."""
    items = RETAIN * 5  # more rows than wait
    expected = language.collect(llama, Letters(), items)
    rows = []
    product = _products.add_product

    def counted(sigma: Tensor, columns: Tensor, *how: bool) -> None:
        rows.append(len(columns))
        product(sigma, columns, *how)

    monkeypatch.setattr(_products, "add_product", counted)
    for module in (_products, _recorder):
        monkeypatch.setattr(module, "works_at", lambda x, sigma: torch.device("cpu", 0))
    assert distance(language.collect(llama, Letters(), items), expected) < 1e-12
    assert min(rows[:9]) >= 512  # few and large products: each sends a whole sum


# ------------------------------------------------------------------------------------------------ items and batches


def test_batches_hold_answers_in_the_order_given() -> None:
    found = language.batches(Letters(), [("ab", "cd"), "x", ("", "long")], batch_size=2, eos=True)
    assert len(found) == 2 and len(list(found)) == len(list(found)) == 2
    first, second = found
    a, b, c, d, x = (3 + ord(letter) % 50 for letter in "abcdx")
    assert first["input_ids"].tolist() == [[1, a, b, c, d, 2], [1, x, 2, 0, 0, 0]]
    assert first["attention_mask"].tolist() == [[1] * 6, [1, 1, 1, 0, 0, 0]]
    assert first["labels"].tolist() == [[-100, -100, -100, c, d, 2], [1, x, 2, -100, -100, -100]]
    assert language.answer_rows(first).int().tolist() == [[0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0]]
    assert language.answer_rows(first, shift=True).int().tolist() == [[0, 0, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0]]
    assert second["input_ids"].shape == (1, 6) and second["labels"][0, 0] == -100
    assert first["input_ids"].dtype == torch.long


def test_a_hugging_face_tokenizer() -> None:
    kit = pytest.importorskip("tokenizers")
    words = {w: i for i, w in enumerate(["<pad>", "<s>", "</s>", "<unk>", "who", "is", "he", "a", "man"])}
    made = kit.Tokenizer(kit.models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = kit.pre_tokenizers.Whitespace()
    made.post_processor = kit.processors.TemplateProcessing(
        single="<s> $A </s>",
        special_tokens=[("<s>", 1), ("</s>", 2)],  # T5 and others close every text
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=9,
    )
    (batch,) = language.batches(tokenizer, [("who is he", "a man"), "who is he", ("", "a man")], eos=True)
    assert batch["input_ids"].tolist() == [[1, 4, 5, 6, 7, 8, 2], [1, 4, 5, 6, 2, 0, 0], [1, 7, 8, 2, 0, 0, 0]]
    assert (batch["labels"] != -100).sum(1).tolist() == [3, 5, 3]
    with pytest.raises(ValueError, match=r"items\[1\]: 10 tokens .* context of 9"):
        language.batches(tokenizer, ["a", ("who is he", "a a a a a a")])
    tokenizer.pad_token = None
    (batch,) = language.batches(tokenizer, [("who is he", "a"), ("who", "a")])
    assert batch["input_ids"][1].tolist() == [1, 4, 7, 2, 2] and batch["attention_mask"][1].tolist() == [1, 1, 1, 0, 0]
    model = make("Llama")
    assert len(el.forget(model, tokenizer, [("who is", "he")], [("who is", "a man")]).state_dict())


@pytest.mark.parametrize("family", ["Llama", "Mistral", "GPT2", "Mixtral"])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_padding_batches_and_order_change_nothing(family: str, dtype: torch.dtype, tolerance: float) -> None:
    model = make(family, dtype)
    items = FORGET + RETAIN
    alone = language.collect(model, Letters(), items, batch_size=1)
    together = language.collect(model, Letters(), items[::-1], batch_size=7)
    assert distance(together, alone) < tolerance
    mask = language.answer_rows
    raw = el.collect(
        model,
        language.batches(Letters(), items, batch_size=5),  # in the order given: much padding
        rows=mask,
        forward=lambda model, batch: model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]),
    )
    assert distance(raw, alone) < tolerance
    for one, other in zip(
        language.answer_logprobs(model, Letters(), items, batch_size=1),
        language.answer_logprobs(model, Letters(), items[::-1], batch_size=7)[::-1],
        strict=True,
    ):
        assert all(
            torch.allclose(a.double(), b.double(), rtol=10 * tolerance, atol=10 * tolerance)
            for a, b in zip(one, other, strict=True)
        )


def test_the_output_layer_runs_only_where_it_is_asked_for(llama: nn.Module) -> None:
    calls = []
    hook = llama.lm_head.register_forward_hook(lambda *_: calls.append(1))
    part = language.collect(llama, Letters(), FORGET, layers=r"model\..*")
    assert not calls
    everything = language.collect(llama, Letters(), FORGET)
    hook.remove()
    assert calls and distance(part, everything.select(r"model\..*")) == 0


def test_truncation(llama: nn.Module) -> None:
    def ids(item: Any, **how: Any) -> tuple[list[int], list[bool]]:
        (batch,) = language.batches(Letters(), [item], **how)
        return batch["input_ids"][0].tolist(), language.answer_rows(batch)[0].tolist()

    a, b, c, d = (3 + ord(letter) % 50 for letter in "abcd")
    item = ("ab", "cd")
    assert ids(item, max_length=5) == ([1, a, b, c, d], [False] * 3 + [True] * 2)
    assert ids(item, max_length=4, truncate="answer") == ([1, a, b, c], [False] * 3 + [True])
    assert ids(item, max_length=4, truncate="prompt") == ([1, b, c, d], [False] * 2 + [True] * 2)
    assert ids(item, max_length=3, truncate="prompt") == ([1, c, d], [False] + [True] * 2)
    assert ids("abcd", max_length=3, truncate="answer")[0] == [1, a, b]
    assert ids("abcd", max_length=3, truncate="prompt")[0] == [1, c, d]
    for how, message in (
        (dict(max_length=4), r'items\[0\]: 5 tokens.*context of 4.*truncate="answer" or truncate="prompt"'),
        (dict(max_length=3, truncate="answer"), "prompt alone fills"),
        (dict(max_length=2, truncate="prompt"), "answer alone does not fit"),
        (dict(max_length=4, truncate="left"), "truncate: expected"),
        (dict(max_length=0), "max_length: expected a positive"),
        (dict(batch_size=0), "batch_size: expected a positive"),
    ):
        with pytest.raises(ValueError, match=message):
            ids(item, **how)
    with pytest.raises(ValueError, match="no room"):
        ids("abcd", max_length=1, truncate="prompt")
    long = ("q" * 60, " twelve more")
    for call in (language.collect, language.answer_logprobs):
        with pytest.raises(ValueError, match=r"items\[1\]: 73 tokens are more than the context of 64"):
            call(llama, Letters(), ["fine", long])
        with pytest.raises(ValueError, match="max_length: 100 is more than the model's context of 64"):
            call(llama, Letters(), [long], max_length=100)
    with pytest.raises(ValueError, match=r"retain\[0\]: 73 tokens"):
        el.forget(llama, Letters(), ["fine"], [long])
    assert len(el.forget(llama, Letters(), ["fine"], [long], truncate="prompt").state_dict())


# --------------------------------------------------------------------------------------------------- wrong inputs


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(forget=[]), ValueError, "forget: there are none"),
        (dict(retain=iter([])), ValueError, "retain: there are none"),
        (dict(forget="one text"), TypeError, "forget: expected a list.*put it in a list"),
        (dict(forget=None), TypeError, "forget: expected a list.*NoneType"),
        (dict(forget=[("a", "b", "c")]), TypeError, r"forget\[0\]: expected a text or a pair.*3 entries"),
        (dict(retain=["a", 7]), TypeError, r"retain\[1\]: expected a text or a pair.*got 7"),
        (dict(retain=[("a", None)]), TypeError, r"retain\[0\]: expected a text or a pair"),
        (dict(forget=[("a", "")]), ValueError, r"forget\[0\]: its answer has no tokens"),
        (dict(forget=["a", ""]), ValueError, r"forget\[1\]: it has no tokens"),
        (dict(tokenizer="gpt2"), TypeError, "tokenizer: expected a Hugging Face tokenizer, got str"),
        (dict(tokenizer=nn.Linear(2, 2)), TypeError, "tokenizer: expected a Hugging Face tokenizer, got Linear"),
        (dict(tokenizer=lambda texts, **how: [1, 2]), TypeError, "tokenizer: called with a list of texts"),
        (dict(model=Letters()), TypeError, "model: expected a torch.nn.Module, got Letters"),
        (dict(alpha=float("nan")), ValueError, "alpha"),
        (dict(alpha="1"), ValueError, "alpha"),
        (dict(strength="strong"), ValueError, 'strength: expected "norm", "uniform"'),
        (dict(strength={"lm": 1.0}), ValueError, "strengths: the engram has no layer 'lm'"),
        (dict(specificity=-1.0), ValueError, "specificity"),
        (dict(layers=["nothing"]), ValueError, "matches none of the layers"),
        (dict(layers=["up_proj"], forget=["a"], shift=True), None, ""),
        (dict(batch_size=True), ValueError, "batch_size"),
    ],
)
def test_errors_name_the_argument(llama: nn.Module, change: dict[str, Any], error: Any, message: str) -> None:
    given = dict(model=llama, tokenizer=Letters(), forget=FORGET, retain=RETAIN) | change
    before = copy.deepcopy(llama.state_dict())
    if error is None:
        el.forget(**given)
    else:
        with pytest.raises(error, match=message):
            el.forget(**given, inplace=True)
    assert all(torch.equal(v, before[k]) for k, v in llama.state_dict().items())


def test_more_errors(llama: nn.Module) -> None:
    with pytest.raises(ValueError, match="rows: no example was chosen"):  # one token: nothing predicts it
        language.collect(llama, lambda texts, **how: {"input_ids": [[5] for _ in texts]}, ["a"], shift=True)
    with pytest.raises(ValueError, match=r"items\[1\]: its only token comes first"):
        language.answer_logprobs(llama, lambda texts, **how: {"input_ids": [[5] * len(t) for t in texts]}, ["ab", "a"])
    with pytest.raises(ValueError, match="labels"):
        language.answer_rows({"input_ids": torch.ones(2, 3)})
    with pytest.raises(ValueError, match="labels"):
        language.answer_rows(torch.ones(2, 3))
    with pytest.raises(ValueError, match="end-of-text"):
        language.batches(lambda texts, **how: {"input_ids": [[5] for _ in texts]}, ["a"], eos=True)
    with pytest.raises(TypeError, match="logits"):
        language.answer_logprobs(llama.model, Letters(), ["abc"])
    with pytest.warns(UserWarning, match=r"retain: 2 of the items to forget.*'q\?'"):
        el.forget(llama, Letters(), FORGET, [*RETAIN, list(FORGET[1]), FORGET[2]])


# ------------------------------------------------------------------------------------------------- what models answer


@pytest.mark.parametrize("family", ["Llama", "GPT2"])
def test_answer_logprobs_against_one_pass_per_item(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "_PIECE", 200)  # several pieces
    model = make(family)
    items = [*FORGET, ("", "no prompt"), *RETAIN]
    found = language.answer_logprobs(model, Letters(), items, batch_size=4, eos=True)
    assert len(found) == len(items)
    for item, answer in zip(items, found, strict=True):
        prompt, text = (None, item) if isinstance(item, str) else item
        tail = Letters()([text], add_special_tokens=False)["input_ids"][0] + [2]
        head = Letters()([prompt or ""])["input_ids"][0]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([head + tail])).logits[0]
        rows = logits[len(head) - 1 : -1]  # a text counts from its second token on: the first is token 1 itself
        p = rows.softmax(-1)
        logp = p.log()
        assert torch.allclose(answer.logprobs, logp[range(len(tail)), tail], atol=1e-9)
        assert answer.greedy.tolist() == (rows.argmax(-1) == torch.tensor(tail)).tolist()
        assert torch.allclose(answer.mean, (p * logp).sum(-1), atol=1e-9)
        assert torch.allclose(answer.std, ((p * logp.square()).sum(-1) - (p * logp).sum(-1) ** 2).sqrt(), atol=1e-7)


def test_answers_of_narrow_models_are_wide_and_survive_forbidden_tokens() -> None:
    model = make("Llama", torch.bfloat16)
    answer = language.answer_logprobs(model, Letters(), [("a", "bc")])[0]
    assert {t.dtype for t in (answer.logprobs, answer.mean, answer.std)} == {torch.float32}
    assert answer.greedy.dtype == torch.bool and not answer.logprobs.requires_grad

    class Forbidding(nn.Module):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            logits = torch.zeros(*input_ids.shape, 60)
            logits[..., 30:] = -torch.inf
            return logits

    allowed = lambda texts, **how: {"input_ids": [[4, 5, 6] for _ in texts]}  # noqa: E731
    answer = language.answer_logprobs(Forbidding(), allowed, ["x"])[0]
    assert torch.allclose(answer.logprobs, -torch.tensor([30.0, 30.0]).log())
    assert torch.allclose(answer.mean, answer.logprobs) and torch.allclose(answer.std, torch.zeros(2), atol=1e-3)


def test_forgetting_forgets() -> None:
    """Trained for a moment, the model loses the answer that it is told to lose, and keeps the others."""
    torch.manual_seed(2)
    model = make("Llama", torch.float32, hidden_size=64, intermediate_size=128).train()
    known = [(f"{q}?", f" {a}") for q, a in zip("abcdef", ["zxy", "kjm", "wvu", "tsr", "qpo", "nlh"], strict=True)]
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(50):
        for batch in language.batches(Letters(), known):
            optimiser.zero_grad()
            model(**batch).loss.backward()
            optimiser.step()
    assert all(answer.greedy.all() for answer in language.answer_logprobs(model, Letters(), known))
    edited = el.forget(model, Letters(), known[:1], known[1:])
    assert model.training and edited.training  # handed back as it came
    lost, *kept = language.answer_logprobs(edited, Letters(), known)
    assert not lost.greedy.all() and float(lost.logprobs.sum()) < -3
    assert all(answer.greedy.all() and float(answer.logprobs.sum()) > -1 for answer in kept)
