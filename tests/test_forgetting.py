"""Which models `language` takes, judged by what they do; and a call that forgets, or leaves all as it was."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import engramlib as el
from engramlib import _ties, language
from tests.test_language import FAMILIES, FORGET, MIXTURES, RETAIN, Letters, make

transformers = pytest.importorskip("transformers")

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
TINY = dict(vocab_size=60, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4)
T5 = dict(vocab_size=60, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4, decoder_start_token_id=0)
BART = dict(
    vocab_size=60,
    d_model=16,
    encoder_layers=2,
    decoder_layers=2,
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    encoder_ffn_dim=24,
    decoder_ffn_dim=24,
    max_position_embeddings=64,
)


def built(name: str, config: str, dtype: torch.dtype = torch.float32, **settings: Any) -> nn.Module:
    torch.manual_seed(0)
    return getattr(transformers, name)(getattr(transformers, config)(**settings)).to(dtype).eval()


class Wrapped(nn.Module):
    """Somebody's own class around a model: no name, no config, no method of transformers."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.inner(input_ids=input_ids, attention_mask=attention_mask)[0]


# --------------------------------------------------------------------------------------------------- causal or refused


@pytest.mark.parametrize("family", [*FAMILIES, *MIXTURES])
@pytest.mark.parametrize("dtype", DTYPES)
def test_causal_models_of_every_family_and_precision_are_taken(family: str, dtype: torch.dtype) -> None:
    for seed in range(3 if family in MIXTURES else 1):
        torch.manual_seed(seed)
        model = make(family, dtype)
        assert len(language.answer_logprobs(model, Letters(), [*RETAIN, "ab", "aaaaaaaaaaaaaaaaaaaaaaa"])) == 17
    assert len(language.answer_logprobs(Wrapped(model), Letters(), FORGET)) == len(FORGET)


@pytest.mark.parametrize(
    "name, config, settings",
    [
        ("BertLMHeadModel", "BertConfig", TINY | dict(is_decoder=True)),
        ("RobertaForCausalLM", "RobertaConfig", TINY | dict(is_decoder=True)),
        ("BartForCausalLM", "BartConfig", BART),
        ("MistralForCausalLM", "MistralConfig", TINY | dict(num_key_value_heads=2, sliding_window=4)),
        (
            "OPTForCausalLM",
            "OPTConfig",
            dict(vocab_size=60, hidden_size=16, ffn_dim=24, num_hidden_layers=2)
            | dict(num_attention_heads=4, word_embed_proj_dim=16, max_position_embeddings=64),
        ),
        ("BloomForCausalLM", "BloomConfig", dict(vocab_size=60, hidden_size=16, n_layer=2, n_head=4)),
        ("MambaForCausalLM", "MambaConfig", dict(vocab_size=60, hidden_size=16, num_hidden_layers=2, state_size=4)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_causal_by_its_config_is_taken(
    name: str, config: str, settings: dict[str, Any], dtype: torch.dtype
) -> None:
    model = built(name, config, dtype, **settings)
    items = FORGET + RETAIN
    together = language.answer_logprobs(model, Letters(), items)
    for item, answer in zip(items[:3], together, strict=False):
        alone = language.answer_logprobs(model, Letters(), [item])[0]
        assert torch.allclose(answer.logprobs, alone.logprobs, atol=1e-4 if dtype == torch.float32 else 0.1)
    if hasattr(model, "lm_head") or hasattr(model, "cls"):
        # A convolution over time has no tokens to choose from; only some versions call Mamba's as a layer.
        layers = ["in_proj", "out_proj"] if "Mamba" in name else None
        assert el.forget(model, Letters(), FORGET, RETAIN, layers=layers) is not model


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize(
    "name, config, settings",
    [
        ("BertForMaskedLM", "BertConfig", TINY),
        ("BertLMHeadModel", "BertConfig", TINY),  # by its name it models language
        ("RobertaForMaskedLM", "RobertaConfig", TINY),
        ("AlbertForMaskedLM", "AlbertConfig", TINY | dict(embedding_size=16)),
        ("ElectraForMaskedLM", "ElectraConfig", TINY | dict(embedding_size=16)),
        ("BertModel", "BertConfig", TINY),
        ("T5EncoderModel", "T5Config", T5),
    ],
)
def test_models_that_see_ahead_are_refused(
    name: str, config: str, settings: dict[str, Any], wrap: bool, dtype: torch.dtype
) -> None:
    model = built(name, config, dtype, **settings)
    model = Wrapped(model) if wrap else model
    before = copy.deepcopy(model.state_dict())
    if name not in ("BertModel", "T5EncoderModel"):
        with pytest.raises(TypeError, match=r"not causal: change the last \d+ of \d+ tokens.*is_decoder=True"):
            language.answer_logprobs(model, Letters(), FORGET)
    with pytest.raises(TypeError, match="not causal"):
        el.forget(model, Letters(), FORGET, RETAIN, inplace=True)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    if dtype == torch.float32 and not wrap:  # what its tokens are is still a fair question
        assert len(language.collect(model, Letters(), FORGET, layers=".*encoder.*(q|query)"))


def test_a_look_one_token_ahead_is_seen_in_any_item_of_two() -> None:
    class Peeking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(60, 60)

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            z = self.table(input_ids)
            return z + 1e-3 * torch.roll(z, -1, 1)

    plain = lambda texts, **how: {"input_ids": [[7] * len(t) for t in texts]}  # noqa: E731
    for tokenizer, items in ((Letters(), ["a"]), (Letters(), ["long enough to matter", "b"]), (plain, ["aa"])):
        with pytest.raises(TypeError, match="not causal"):
            language.answer_logprobs(Peeking(), tokenizer, items)


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize(
    "name, config, settings",
    [
        ("T5ForConditionalGeneration", "T5Config", T5),
        ("BartForConditionalGeneration", "BartConfig", BART),
        ("BartModel", "BartConfig", BART),
        ("MarianMTModel", "MarianConfig", BART | dict(pad_token_id=0, decoder_start_token_id=0)),
        ("PegasusForConditionalGeneration", "PegasusConfig", BART),
    ],
)
def test_two_sides_are_refused(name: str, config: str, settings: dict[str, Any], wrap: bool) -> None:
    model = built(name, config, **settings)
    model = Wrapped(model) if wrap else model
    for call in (
        lambda: language.collect(model, Letters(), FORGET),
        lambda: language.answer_logprobs(model, Letters(), FORGET),
        lambda: el.forget(model, Letters(), FORGET, RETAIN, inplace=True),
    ):
        with pytest.raises(TypeError, match="encoder-decoder model.*not a causal.*engramlib.collect"):
            call()


def test_logits_that_are_not_numbers_are_refused_by_item() -> None:
    model = make("Llama")
    with torch.no_grad():
        model.get_input_embeddings().weight[3 + ord("z") % 50] = float("nan")
    with pytest.raises(ValueError, match=r"items\[2\]: the model's log-probabilities are not finite"):
        language.answer_logprobs(model, Letters(), ["fine", "as well", "z is not", "the last"])
    overflow = make("Llama")
    with torch.no_grad():
        overflow.lm_head.weight[7] = float("inf")
    with pytest.raises(ValueError, match=r"items\[0\]: the model's log-prob"):
        language.answer_logprobs(overflow, Letters(), ["fine"])


def test_outputs_for_other_tokens_than_given_are_refused() -> None:
    class Prompted(nn.Module):
        """As a learned prompt in front of every text: more logits than tokens."""

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return torch.zeros(len(input_ids), input_ids.shape[1] + 3, 60)

    with pytest.raises(TypeError, match=r"logits \(batch, tokens, vocabulary\) for \(1, 6\) tokens, got shape \(1, 9"):
        language.answer_logprobs(Prompted(), Letters(), ["abcde"])


def test_scoring_leaves_random_numbers_and_flags_alone() -> None:
    model = make("Llama").train()
    torch.manual_seed(3)
    expected = torch.randn(3)
    torch.manual_seed(3)
    language.answer_logprobs(model, Letters(), FORGET)
    el.forget(model, Letters(), FORGET, RETAIN)
    assert torch.equal(torch.randn(3), expected) and all(part.training for part in model.modules())
    with torch.inference_mode():
        assert len(language.answer_logprobs(make("Mixtral", torch.float32), Letters(), FORGET)) == 4


@pytest.mark.parametrize("family", ["Llama", "Mixtral", "GPT2"])
def test_autocast_scores_what_the_cast_model_says(family: str) -> None:
    model = make(family, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = language.answer_logprobs(model, Letters(), FORGET)
        for item, answer in zip(FORGET, found, strict=True):
            prompt, text = ("", item) if isinstance(item, str) else item
            head, tail = (Letters()([part], n)["input_ids"][0] for n, part in ((True, prompt), (False, text)))
            with torch.no_grad():
                logp = model(input_ids=torch.tensor([head + tail])).logits[0].float().log_softmax(-1)
            expected = logp[len(head) - 1 : -1][range(len(tail)), tail]
            assert answer.logprobs.dtype == torch.float32 and torch.allclose(answer.logprobs, expected, atol=0.05)


# ------------------------------------------------------------------------------------------------- answers of one token


def test_answers_of_one_token_are_read_after_the_fact() -> None:
    model = make("Llama")
    items = [("who?", "a"), ("what?", "bc"), ("why?", "d"), "text"]
    for eos in (False, True):
        with pytest.warns(UserWarning, match="items: 2 of 3 answers are a single token.*shift=True") as caught:
            language.collect(model, Letters(), items, eos=eos)
        assert caught[0].filename == __file__
        with pytest.warns(UserWarning, match="forget: 2 of 3 answers are a single token.*shift=True") as caught:
            el.forget(model, Letters(), items, RETAIN, eos=eos)
        assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*single token")
        language.collect(model, Letters(), items, shift=True)
        language.collect(model, Letters(), [("who?", "ab"), "c"])
        el.forget(model, Letters(), items, RETAIN, shift=True)
        el.forget(model, Letters(), FORGET, items)  # what is kept may be read there


# ----------------------------------------------------------------------------------------------- forget, and its engram


@pytest.mark.parametrize("strength", ["norm", "uniform"])
def test_the_engram_is_what_was_subtracted(strength: str) -> None:
    model = make("Llama", tie_word_embeddings=True)
    how = dict(strength=strength, specificity=2.0, layers=".*")
    edited, engram = el.forget(model, Letters(), FORGET, RETAIN, alpha=0.7, return_engram=True, **how)
    assert isinstance(engram, el.Engram) and "lm_head" in engram
    target, reference = (language.collect(model, Letters(), items, layers=".*") for items in (FORGET, RETAIN))
    expected = el.extract(model, target, reference, specificity=2.0)
    expected = expected.norm_weighted() if strength == "norm" else expected
    assert float((engram - expected).norm()) == 0
    for alpha in (0.7, 0.3, 1.5):
        once = el.forget(model, Letters(), FORGET, RETAIN, alpha=alpha, **how)
        again = el.ablate(language.untie(model), engram, alpha)
        assert all(torch.equal(v, again.state_dict()[k]) for k, v in once.state_dict().items())
    same, _ = el.forget(model, Letters(), FORGET, RETAIN, inplace=True, return_engram=True)
    assert same is model


def test_cut_is_the_cut_of_the_estimator() -> None:
    model = make("Llama")
    a, b, c = (el.forget(model, Letters(), FORGET, RETAIN, **how) for how in (dict(cut=1e-3), dict(rcond=1e-3), {}))
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
    assert not all(torch.equal(v, c.state_dict()[k]) for k, v in a.state_dict().items())
    ran = []
    hook = model.register_forward_pre_hook(lambda *_: ran.append(1))
    for how in (dict(cut=-1.0), dict(cut=1.0), dict(cut="a rule"), dict(cut=[1e-3]), dict(cut=1e-3, rcond=1e-4)):
        with pytest.raises(ValueError, match="rcond"):
            el.forget(model, Letters(), FORGET, RETAIN, **how)
    with pytest.raises(ValueError, match="specificity: expected one number"):
        el.forget(model, Letters(), FORGET, RETAIN, specificity=[1.0, 2.0])
    hook.remove()
    assert not ran


def state(model: nn.Module) -> dict[str, Any]:
    config = model.config
    return {
        "values": copy.deepcopy(model.state_dict()),
        "objects": {name: id(p) for name, p in model.named_parameters(remove_duplicate=False)},
        "flags": [part.training for part in model.modules()],
        "grad": [p.requires_grad for p in model.parameters()],
        "hooks": [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules()],
        "tied": config.tie_word_embeddings,
        "keys": list(getattr(model, "all_tied_weights_keys", {}).items()),
        "vars": [sorted(vars(part)) for part in model.modules()],
        "random": torch.get_rng_state().tolist(),
    }


def check_same(model: nn.Module, before: dict[str, Any]) -> None:
    now = state(model)
    assert now.pop("values").keys() == before["values"].keys()
    assert all(torch.equal(v, before["values"][k]) for k, v in model.state_dict().items())
    assert now == {k: v for k, v in before.items() if k != "values"}


@pytest.mark.parametrize("family", ["Llama", "GPT2"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_fault_at_any_step_leaves_the_model_as_it_was(
    family: str, error: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(family, torch.float32, tie_word_embeddings=True)
    before = state(model)

    def fails(real: Any, after: bool) -> Any:
        def call(*args: Any, **how: Any) -> Any:
            if after:
                real(*args, **how)
            raise error("a fault")

        return call

    steps = ("encode", "refuse_non_causal", "collect_moments", "extract", "untie_layers", "shifted")
    places = [(language, step) for step in steps]
    places += [(_ties, "_refill"), (el.edit, "_shift"), (nn, "Parameter"), (el.Engram, "norm_weighted")]
    reached = 0
    for owner, name in places:
        for after in (False, True):
            if name == "shifted" and after:
                continue  # all was done
            with monkeypatch.context() as patch:
                patch.setattr(owner, name, fails(getattr(owner, name), after))
                try:
                    el.forget(model, Letters(), FORGET, RETAIN, layers=".*", inplace=True)
                except error as found:
                    assert "a fault" in str(found)
                    reached += 1
                else:
                    assert name == "_refill"  # which runs on the way back only
                    model = make(family, torch.float32, tie_word_embeddings=True)
                    before = state(model)
                    continue
            check_same(model, before)
    assert reached == 2 * (len(places) - 1) - 1


@pytest.mark.parametrize("stop", range(0, 60, 4))
def test_an_interrupt_between_two_layers_of_an_edit(stop: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("Llama", torch.float32, tie_word_embeddings=True)
    before, sums = state(model), iter(range(1000))
    real = torch.add

    def interrupted(*args: Any, **how: Any) -> Tensor:
        if next(sums) == stop:
            raise KeyboardInterrupt
        return real(*args, **how)

    shifted = language.shifted

    def slow(*args: Any, **how: Any) -> Any:
        patch.setattr(torch, "add", interrupted)
        return shifted(*args, **how)

    with monkeypatch.context() as patch:
        patch.setattr(language, "shifted", slow)
        try:
            el.forget(model, Letters(), FORGET, RETAIN, layers=".*", inplace=True)
        except KeyboardInterrupt:
            pass
        else:
            assert stop >= 15
            return
    check_same(model, before)


def test_untie_is_all_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("Gemma")
    model.all_tied_weights_keys = dict(getattr(model, "all_tied_weights_keys", {}))  # transformers 4 has none
    before = state(model)

    class Stubborn(dict):
        def pop(self, *args: Any) -> Any:
            raise RuntimeError("a fault")

    model.all_tied_weights_keys = Stubborn(getattr(model, "all_tied_weights_keys", {}))
    with pytest.raises(RuntimeError, match="a fault"):
        language.untie(model, inplace=True)
    model.all_tied_weights_keys = dict(model.all_tied_weights_keys)
    check_same(model, before)
