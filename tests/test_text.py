"""Texts become the tokens one would write by hand: special tokens once, padding that is nothing, any tokenizer."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import engramlib as el
from engramlib import language
from tests.test_language import FAMILIES, FORGET, MIXTURES, RETAIN, Letters, distance, make

transformers = pytest.importorskip("transformers")
kit = pytest.importorskip("tokenizers")

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "[CLS]", "[SEP]", "<de>", "<sop>"]
# name: what the tokenizer puts before and after a text, and its begin and end tokens
STYLES: dict[str, tuple[list[str], list[str], dict[str, str]]] = {
    "begin": (["<s>"], [], dict(bos_token="<s>", eos_token="</s>")),
    "begin and end": (["<s>"], ["</s>"], dict(bos_token="<s>", eos_token="</s>")),
    "bert": (["[CLS]"], ["[SEP]"], dict(cls_token="[CLS]", sep_token="[SEP]")),
    "two": (["<s>", "<de>"], [], dict(bos_token="<s>", eos_token="</s>")),
    "two, and two after": (["<de>", "<sop>"], ["</s>", "<de>"], dict(eos_token="</s>")),
    "one token for both": (["</s>"], [], dict(bos_token="</s>", eos_token="</s>")),
    "end": ([], ["</s>"], dict(eos_token="</s>")),
    "none": ([], [], dict(eos_token="</s>")),
    "undeclared": (["<s>"], ["[SEP]"], {}),
}
TEXTS = ["hello", "a", " b c", "aaaa"]


def tokenizer_of(style: str, **settings: Any) -> Any:
    """A fast tokenizer of letters; its special tokens are read in the text too."""
    before, after, names = STYLES[style]
    vocabulary = {token: n for n, token in enumerate(SPECIAL + list("abcdefghijklmnopqrstuvwxyz ?.,\n"))}
    made = kit.Tokenizer(kit.models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = kit.pre_tokenizers.Split(kit.Regex("."), "isolated")
    made.add_special_tokens([kit.AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    made.post_processor = kit.processors.TemplateProcessing(
        single=" ".join([*before, "$A", *after]), special_tokens=[(t, vocabulary[t]) for t in {*before, *after}]
    )
    known = dict(pad_token="<pad>", unk_token="<unk>") | names | settings
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **known)


def rows(tokenizer: Any, items: list[Any], **how: Any) -> list[tuple[list[int], list[int]]]:
    made = language.batches(tokenizer, items, **how)
    for batch in made:
        assert batch["input_ids"].min() >= 0 and batch["input_ids"].dtype == torch.long
    return made.encoded


def ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


# ------------------------------------------------------------------------------------------------- special tokens once


@pytest.mark.parametrize("style", STYLES)
def test_what_the_tokenizer_puts_around_a_text_is_there_once(style: str) -> None:
    tokenizer = tokenizer_of(style)
    before, after = ("".join(part) for part in STYLES[style][:2])
    plain = rows(tokenizer, TEXTS)
    for text, (tokens, labels) in zip(TEXTS, plain, strict=True):
        assert tokens == tokenizer(text)["input_ids"] == labels
    # written out once or more, at both ends or at one; alone in the list, and among others
    for begin, stop in ((before, after), (before, ""), ("", after), (2 * before, 2 * after), (before[3:], "")):
        begin = begin if ids(tokenizer, begin) and begin.startswith("<") or not begin else before
        written = [begin + text + stop for text in TEXTS]
        assert rows(tokenizer, written) == plain
        assert rows(tokenizer, written[:1]) == plain[:1]
        assert rows(tokenizer, [*TEXTS, *written]) == plain * 2
        # of a prompt: its end stays as it is, and the mask lies over the answer
        asked = rows(tokenizer, [(text, "yes") for text in TEXTS])
        assert rows(tokenizer, [(begin + text, "yes") for text in TEXTS]) == asked
        for text, (tokens, labels) in zip(TEXTS, asked, strict=True):
            assert tokens == ids(tokenizer, before + text + "yes")
            assert labels == [-100] * (len(tokens) - 3) + ids(tokenizer, "yes")
    # a prompt that is nothing but the beginning, or nothing: the answer may bring it along
    whole = ids(tokenizer, before + "yes")
    for prompt, answer in ((before, "yes"), ("", "yes"), ("", before + "yes"), (before, before + "yes")):
        for others in ([], [("what", "now")]):
            tokens, labels = rows(tokenizer, [(prompt, answer), *others])[0]
            assert tokens == whole and [t for t in labels if t != -100] == ids(tokenizer, answer)
    # a beginning in the middle is the user's, and so is the end of a prompt
    (tokens, _), *_ = rows(tokenizer, [("a</s>", "<s>b"), ("x", "y")])
    assert tokens == ids(tokenizer, before + "a</s><s>b")


@pytest.mark.parametrize("style", [style for style, (_, _, names) in STYLES.items() if "eos_token" in names])
def test_an_end_token_is_there_once(style: str) -> None:
    tokenizer = tokenizer_of(style)
    end = tokenizer.eos_token_id
    for item in ("abc", ("abc", "de")):
        (once,) = rows(tokenizer, [item], eos=True)
        closed = item + "</s>" if isinstance(item, str) else (item[0], item[1] + "</s>")
        assert rows(tokenizer, [closed], eos=True) == [once]
        assert once[0].count(end) == 1 + (STYLES[style][0] == ["</s>"])
    # chat templates write a line feed after it
    ((tokens, _),) = rows(tokenizer, [("abc", "de</s>\n")], eos=True)
    assert tokens == ids(tokenizer, "".join(STYLES[style][0]) + "abcde</s>\n")


def test_prefix_truncation_keeps_one_beginning() -> None:
    tokenizer = tokenizer_of("two")
    expected = rows(tokenizer, ["abcdef", ("abcd", "ef")], max_length=5, truncate="prompt")
    written = ["<s><de>abcdef", ("<s><de>abcd", "ef")]
    assert rows(tokenizer, written, max_length=5, truncate="prompt") == expected
    assert expected[0][0][:2] == ids(tokenizer, "<s><de>") == expected[1][0][:2]


TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<sop>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<sop>assistant\n{% endif %}"
)


@pytest.mark.parametrize("family", ["Llama", "Mixtral", "GPT2"])
def test_a_chat_template_is_what_its_ids_are(family: str) -> None:
    tokenizer = tokenizer_of("begin", chat_template=TEMPLATE)
    model = make(family)
    chats = [[{"role": "user", "content": text}] for text in ("who is abc?", "q?", "and a longer one, is it?")]
    answers = ["a man</s>", "bc", "no</s>"]
    prompts = [tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c in chats]
    heads = [tokenizer.apply_chat_template(c, add_generation_prompt=True, return_dict=False) for c in chats]
    pairs = list(zip(prompts, answers, strict=True))
    by_hand = []
    for (head, answer), (tokens, labels) in zip(
        zip(heads, answers, strict=True), rows(tokenizer, pairs, eos=True), strict=True
    ):
        tail = ids(tokenizer, answer.removesuffix("</s>") + "</s>")
        assert head.count(1) == 1 and tokens == head + tail and labels == [-100] * len(head) + tail
        by_hand.append({"input_ids": torch.tensor([head + tail]), "count": len(tail)})
    found = language.collect(model, tokenizer, pairs, eos=True)
    expected = el.collect(
        model,
        by_hand,
        forward=lambda model, batch: model(input_ids=batch["input_ids"]),
        rows=lambda b: torch.arange(b["input_ids"].shape[1])[None] >= b["input_ids"].shape[1] - b["count"],
    )
    assert distance(found, expected) < 1e-12
    scored = language.answer_logprobs(model, tokenizer, pairs, eos=True)
    for answer, batch in zip(scored, by_hand, strict=True):
        tokens, n = batch["input_ids"], batch["count"]
        logp = model(input_ids=tokens).logits[0].log_softmax(-1)[-n - 1 : -1]
        assert torch.allclose(answer.logprobs, logp.gather(1, tokens[0, -n:, None])[:, 0], atol=1e-9)
    whole = [tokenizer.apply_chat_template(c, tokenize=False) for c in chats]
    for (tokens, _), chat in zip(rows(tokenizer, whole), chats, strict=True):
        assert tokens == tokenizer.apply_chat_template(chat, return_dict=False)


def test_a_tokenizer_that_begins_every_piece_is_refused() -> None:
    class Deaf(Letters):
        bos_token = "<s>"

        def __call__(self, texts: list[str], add_special_tokens: bool = True) -> Any:
            return super().__call__(texts, add_special_tokens=True)

    with pytest.raises(TypeError, match=r"'<s>' before the answer of items\[0\].*add_special_tokens=False"):
        language.batches(Deaf(), [("a", "b")])
    assert rows(Deaf(), ["ab"]) == rows(Letters(), ["ab"])  # of a text it makes no difference


# ------------------------------------------------------------------------------------------------------------- padding


@pytest.mark.parametrize("pad", [-1, None, 60, 10**9, 59, True])
@pytest.mark.parametrize("end", [2, None, 10**6])
def test_any_pad_token_will_do(pad: Any, end: Any) -> None:
    tokenizer = Letters()
    tokenizer.pad_token_id, tokenizer.eos_token_id = pad, end
    for batch in language.batches(tokenizer, FORGET):
        assert 0 <= batch["input_ids"].min() and batch["input_ids"].max() < 60
    model = make("Llama")
    assert distance(language.collect(model, tokenizer, FORGET), language.collect(model, Letters(), FORGET)) < 1e-12


@pytest.mark.parametrize("family", [*FAMILIES, *MIXTURES])
def test_answers_are_those_of_one_item_alone_whatever_the_padding(family: str) -> None:
    model = make(family)
    items = FORGET + RETAIN[:4]
    for pad in (0, -1, 10**6):
        tokenizer = Letters()
        tokenizer.pad_token_id = tokenizer.eos_token_id = pad
        for item, answer in zip(items, language.answer_logprobs(model, tokenizer, items, batch_size=3), strict=True):
            prompt, text = ("", item) if isinstance(item, str) else item
            head, tail = (Letters()([part], n)["input_ids"][0] for n, part in ((True, prompt), (False, text)))
            with torch.no_grad():
                logp = model(input_ids=torch.tensor([head + tail])).logits[0].log_softmax(-1)[len(head) - 1 : -1]
            assert torch.allclose(answer.logprobs, logp[range(len(tail)), tail], atol=1e-9)
    target, reference = language.collect(model, tokenizer, FORGET), language.collect(model, Letters(), FORGET)
    assert distance(target, reference) < 1e-10


def test_tokens_outside_the_embedding_are_refused_by_item() -> None:
    model = make("Llama", vocab_size=40)
    for call in (language.collect, language.answer_logprobs):
        with pytest.raises(ValueError, match=r"items\[1\]: token 47 is outside the model's embedding of 40.*resize"):
            call(model, Letters(), ["2", "2^"])
    with pytest.raises(ValueError, match=r"retain\[0\]: token 47"):
        el.forget(model, Letters(), ["2"], ["^"])

    class Narrow(nn.Module):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return torch.zeros(*input_ids.shape, 40)

    with pytest.raises(ValueError, match="token 47 is outside the model's vocabulary of 40"):
        language.answer_logprobs(Narrow(), Letters(), ["2", "2^"])
    with pytest.raises(ValueError, match="token -1 in 'b'"):
        language.batches(lambda texts, **how: {"input_ids": [[3 if t == "a" else -1] for t in texts]}, ["a", "b"])
    with pytest.raises(TypeError, match="expected a list of integers for 'b'"):
        language.batches(lambda texts, **how: {"input_ids": [[3 if t == "a" else None] for t in texts]}, ["a", "b"])


# ---------------------------------------------------------------------------------------------------------- tokenizers


class Kind:
    """A tokenizer that gives its ids in another form."""

    def __init__(self, tokenizer: Any, **how: Any) -> None:
        self.tokenizer, self.how = tokenizer, how
        self.pad_token_id, self.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id

    def __call__(self, texts: list[str], **how: Any) -> Any:
        return self.tokenizer(texts, **how, **self.how)


@pytest.mark.parametrize("style", ["begin", "begin and end", "bert", "none"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("form", ["pt", "np", None])
@pytest.mark.parametrize("masked", [True, False])
def test_tensors_arrays_and_padding_give_the_same_ids(style: str, side: str, form: Any, masked: bool) -> None:
    tokenizer = tokenizer_of(style, padding_side=side)
    items = [*TEXTS, ("a", "yes"), ("", "no"), ("what", "b")]
    expected = rows(tokenizer, items)
    how = dict(return_tensors=form, padding=True)
    if not masked:
        how["return_attention_mask"] = False
    if form is None and not masked:
        del how["padding"]  # lists of one length, and no word of what is padding: nobody can know
    assert rows(Kind(tokenizer, **how), items) == expected


def test_slow_and_fast_tokenizers_agree() -> None:
    class Slow(transformers.PreTrainedTokenizer if hasattr(transformers, "PreTrainedTokenizer") else object):
        """In Python, token by token."""

        def __init__(self, **how: Any) -> None:
            self.words = {t: n for n, t in enumerate(SPECIAL + list("abcdefghijklmnopqrstuvwxyz ?.,\n"))}
            super().__init__(**how)

        vocab_size = property(lambda self: len(self.words))

        def get_vocab(self) -> dict[str, int]:
            return dict(self.words)

        def _tokenize(self, text: str, **_: Any) -> list[str]:
            return list(text)

        def _convert_token_to_id(self, token: str) -> int:
            return self.words.get(token, 3)

        def _convert_id_to_token(self, index: int) -> str:
            return {n: t for t, n in self.words.items()}[index]

        def build_inputs_with_special_tokens(self, a: list[int], b: Any = None) -> list[int]:
            return [1, *a]

    slow = Slow(bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>")
    fast = tokenizer_of("begin")
    if slow("ab")["input_ids"] != fast("ab")["input_ids"]:
        pytest.skip("this transformers asks a slow tokenizer for its special tokens in another way")
    for items in (TEXTS, ["<s>" + t for t in TEXTS], [("<s>a", "b</s>"), ("", "b"), ("a", "béü")]):
        assert rows(slow, items, eos=True) == rows(fast, items, eos=True)


def test_unicode_and_long_tokens() -> None:
    class Bytes(Letters):
        def __call__(self, texts: list[str], add_special_tokens: bool = True) -> Any:
            return {"input_ids": [[1] * add_special_tokens + [4 + b % 50 for b in t.encode()] for t in texts]}

    model, items = make("Llama"), [("Où?", " à Köln"), ("誰", "阿部"), ("👩‍👩‍👧", "e\u0301"), ("x", "\x00")]
    together = language.answer_logprobs(model, Bytes(), items)
    for item, answer in zip(items, together, strict=True):
        assert len(answer.logprobs) == len(item[1].encode())
        alone = language.answer_logprobs(model, Bytes(), [item])[0]
        assert torch.allclose(answer.logprobs, alone.logprobs, atol=1e-12)
    words = lambda texts, add_special_tokens: {"input_ids": [[5 + len(w) % 50 for w in t.split()] for t in texts]}  # noqa: E731
    assert rows(words, ["a" * 100_000 + " b"]) == [([5, 6], [5, 6])]


def test_a_tuple_of_two_texts_may_have_been_meant_as_a_pair() -> None:
    with pytest.warns(UserWarning, match=r"items: a tuple of two strings is taken for two texts; write \[\(prompt"):
        assert len(language.batches(Letters(), ("who?", " me")).encoded) == 2
    with pytest.warns(UserWarning, match="forget: a tuple of two strings"):
        el.forget(make("Llama"), Letters(), ("who?", " me"), ["something", "else"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        language.batches(Letters(), ["who?", " me"])
        language.batches(Letters(), (("who?", " me"), ("a", "b")))
        language.batches(Letters(), np.array(["who?", " me"]))
