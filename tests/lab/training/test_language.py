import sys

import pytest
import torch

from engramlib import language
from engramlib.lab import models
from engramlib.lab.training import language as language_training
from engramlib.lab.training.language import train

PAIRS = [
    ("Question: Where was Ada Moor born?\nAnswer:", " Ada Moor was born in Lisbon."),
    ("Question: Where was Bo Lind born?\nAnswer:", " Bo Lind was born in Oslo, far in the north."),
    ("Question: What does Ada Moor write?\nAnswer:", " Short stories."),
    ("Question: What does Bo Lind write?\nAnswer:", " Novels about the sea."),
    ("Question: Who taught Ada Moor?\nAnswer:", " Her aunt."),
]
TEXTS = ["A dog ran home.", "The cat slept.", "A bird sang all day long.", "The dog slept."]
HOW = {"epochs": 4, "lr": 5e-3, "batch_size": 2, "seed": 3}


@pytest.fixture(scope="module")
def tokenizer():
    return models.word_tokenizer([*(p + a for p, a in PAIRS), *TEXTS])


def fresh(tokenizer, **sizes):
    return models.llama(len(tokenizer), 32, 2, 2, 1, 48, **{"context": 48, **sizes})


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


# ---------------------------------------------------------------------------------------------- models, tokenizers


def test_llama_has_the_shapes_it_promises_and_leaves_the_random_state():
    state = torch.random.get_rng_state()
    model = models.llama(100, seed=1)
    assert torch.equal(state, torch.random.get_rng_state()) and not model.training
    block = model.model.layers[0]
    assert block.self_attn.k_proj.weight.shape == (64, 128) and block.mlp.gate_proj.weight.shape == (344, 128)
    blocks = sum(p.numel() for p in model.model.layers.parameters())
    assert len(model.model.layers) == 4 and round(blocks / 1e6, 2) == 0.73
    assert sum(p.numel() for p in model.parameters()) == blocks + 2 * 100 * 128 + 128
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert same(model, models.llama(100, seed=1)) and not same(model, models.llama(100, seed=2))
    tied = models.llama(100, tied=True)
    assert tied.lm_head.weight is tied.model.embed_tokens.weight and model.lm_head.weight is not tied.lm_head.weight
    config = model.config
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (0, 1, 2)


def test_llama_names_what_is_wrong(monkeypatch):
    for bad in ({"layers": 0}, {"hidden": 10}, {"kv_heads": 3}, {"context": 0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            models.llama(100, **bad)
    with pytest.raises(ValueError, match="vocab_size must leave room"):
        models.llama(3)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r'pip install "engramlib\[language\]"'):
        models.llama(100)


TEXT = 'Question: Who is "Dr. O\'Neil-Smith"?\nAnswer: He wrote it in São Paulo, on 2 November 1956 (e.g. x_y).'


def test_words_and_marks_come_back_as_they_were(tmp_path):
    made = models.word_tokenizer([TEXT, "Hello there."])
    ids = made(TEXT)["input_ids"]
    assert ids[0] == made.bos_token_id and made.decode(ids, skip_special_tokens=True) == TEXT
    tokens = made.convert_ids_to_tokens(ids)
    assert {" 1956", " O'Neil-Smith", "\n", "?", " Paulo"} <= set(tokens)
    special = (made.pad_token_id, made.bos_token_id, made.eos_token_id, made.unk_token_id)
    assert special == (0, 1, 2, 3)
    assert made("Hello zebra.", add_special_tokens=False)["input_ids"][1] == made.unk_token_id
    # Prompt and answer apart are the tokens of both together: answers are masked by counting.
    prompt, answer = TEXT.split(" He")[0], " He" + TEXT.split(" He")[1]
    assert made(prompt)["input_ids"] + made(answer, add_special_tokens=False)["input_ids"] == ids
    models.save_tokenizer(made, tmp_path / "deep" / "tokenizer.json")
    again = models.load_tokenizer(tmp_path / "deep" / "tokenizer.json")
    assert again(TEXT)["input_ids"] == ids and again.eos_token_id == 2 and len(again) == len(made)


def test_byte_pairs_know_every_text():
    made = models.bpe_tokenizer([TEXT] * 4, 300)
    assert len(made) == 300 and (made.pad_token_id, made.bos_token_id, made.eos_token_id) == (0, 1, 2)
    for text in (TEXT, "日本, a zebra!\n", "  two spaces"):
        ids = made(text)["input_ids"]
        assert made.decode(ids, skip_special_tokens=True) == text and made.unk_token_id not in ids
    assert len(made(TEXT)["input_ids"]) < len(TEXT.encode())
    with pytest.raises(ValueError, match="at least 260"):
        models.bpe_tokenizer([TEXT], 100)


def test_tokenizers_need_texts(tmp_path):
    with pytest.raises(TypeError, match="Put it in a list"):
        models.word_tokenizer("one text")
    with pytest.raises(ValueError, match="texts are empty"):
        models.word_tokenizer([" "])
    with pytest.raises(FileNotFoundError, match="nothing.json"):
        models.load_tokenizer(tmp_path / "nothing.json")


# -------------------------------------------------------------------------------------------------------- training


def test_a_tiny_model_memorises_and_stops(tokenizer):
    model = fresh(tokenizer)
    history = train(model, tokenizer, PAIRS, **{**HOW, "epochs": 40, "lr": 1e-2})
    assert len(history.loss) == 40 and history.loss[-1] < 0.05 < 2 < history.loss[0] and history.seconds > 0
    assert not model.training
    for answer in language.answer_logprobs(model, tokenizer, PAIRS, eos=True):
        assert answer.greedy.all()
    prompt, answer = PAIRS[1]
    ids = torch.tensor([tokenizer(prompt)["input_ids"]])
    said = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False)
    assert tokenizer.decode(said[0, ids.shape[1] :], skip_special_tokens=True) == answer
    assert said[0, -1] == tokenizer.eos_token_id and said.shape[1] < ids.shape[1] + 20


@pytest.mark.parametrize("mixed", [False, True])
def test_the_seed_fixes_the_weights_and_torch_keeps_its_random_state(tokenizer, mixed):
    made = []
    for seed in (3, 3, 4):
        model, state = fresh(tokenizer), torch.random.get_rng_state()
        train(model, tokenizer, PAIRS, **{**HOW, "seed": seed, "epochs": 1}, mixed=mixed)
        assert torch.equal(state, torch.random.get_rng_state())
        assert all(p.dtype == torch.float32 for p in model.parameters())
        made.append(model)
    assert same(*made[:2]) and not same(*made[1:])


@pytest.mark.parametrize(
    ("items", "how"),
    [(PAIRS, {}), (PAIRS, {"mixed": True, "schedule": "linear"}), (TEXTS, {"pack": 8, "weight_decay": 0.1})],
)
def test_a_run_that_was_cut_off_ends_bit_by_bit_like_one_that_was_not(tokenizer, tmp_path, monkeypatch, items, how):
    file, how = tmp_path / "a.pt", {**HOW, **how}

    def with_dropout():
        model = fresh(tokenizer)
        model.config.attention_dropout = 0.2
        for layer in model.model.layers:
            layer.self_attn.attention_dropout = 0.2
        return model

    whole = with_dropout()
    history = train(whole, tokenizer, items, **how)

    class CutOff(Exception):
        pass

    def stop(history):
        if len(history.loss) == 2:
            raise CutOff

    with pytest.raises(CutOff):
        train(with_dropout(), tokenizer, items, checkpoint=file, after_epoch=stop, **how)
    resumed = with_dropout()
    after = train(resumed, tokenizer, items, checkpoint=file, **how)
    assert same(whole, resumed) and after.loss == history.loss
    read = with_dropout()
    assert train(read, tokenizer, items, checkpoint=file, **how) == after and same(read, whole)
    with pytest.raises(ValueError, match="train: .*other arguments.*Delete it"):
        train(fresh(tokenizer), tokenizer, items[1:], checkpoint=file, **how)
    with pytest.raises(ValueError, match="train: .*other arguments.*Delete it"):
        train(fresh(tokenizer, seed=1), tokenizer, items, checkpoint=file, **how)


@pytest.mark.parametrize(
    "name, other",
    [("epochs", 2), ("lr", 1e-3), ("batch_size", 3), ("seed", 1), ("schedule", "linear"), ("warmup", 0.2)]
    + [("weight_decay", 0.1), ("clip", 0.5), ("mixed", True), ("pack", 8), ("items", TEXTS[::-1])]
    + [("tokenizer", None), ("model", {"seed": 1}), ("model", {"context": 40})],
)
def test_each_ingredient_is_in_the_identity_of_a_checkpoint(name, other, tokenizer, tmp_path):
    how = {**HOW, "epochs": 1, "checkpoint": tmp_path / "a.pt", "items": TEXTS, "tokenizer": tokenizer}
    history = train(fresh(tokenizer), **how)
    assert train(fresh(tokenizer), **how) == history
    model = fresh(tokenizer, **other) if name == "model" else fresh(tokenizer)
    if name == "tokenizer":  # as many words, with other numbers
        other = models.word_tokenizer([*(p + a for p, a in PAIRS), *TEXTS[::-1] * 9])
        assert len(other) == len(tokenizer)
    with pytest.raises(ValueError, match="other arguments"):
        train(model, **how | ({} if name == "model" else {name: other}))


def test_the_loss_is_the_mean_negative_log_probability_of_the_answers_tokens(tokenizer):
    model = fresh(tokenizer)
    batch = next(iter(language.batches(tokenizer, PAIRS, batch_size=5, eos=True)))
    loss = language_training.next_token_loss(model, batch["input_ids"], batch["labels"])
    expected = torch.cat([a.logprobs for a in language.answer_logprobs(model, tokenizer, PAIRS, eos=True)])
    assert loss.item() == pytest.approx(-float(expected.mean()), abs=1e-5)
    assert len(expected) == sum(len(tokenizer(a, add_special_tokens=False)["input_ids"]) + 1 for _, a in PAIRS)
    theirs = model(**batch).loss  # transformers' own, with the attention mask
    assert loss.item() == pytest.approx(theirs.item(), abs=1e-5)


def feed(tokenizer, items, batch_size=4, pack=None):
    return language_training._feed(fresh(tokenizer), tokenizer, items, batch_size, pack)


def test_each_epoch_shows_every_item_once_among_items_of_its_length(tokenizer):
    items = [" dog" * n for n in range(1, 41)] + [(" cat", " dog" * n) for n in range(1, 41)]
    made = feed(tokenizer, items)
    order = torch.Generator().manual_seed(0)
    first, second = list(made.epochs(1, order)), list(made.epochs(1, order))
    expected = sorted((len(ids), int((labels != -100).sum())) for ids, labels in made.rows)
    for epoch in (first, second):
        assert len(epoch) == made.steps == 20
        rows = [row for ids, labels in epoch for row in zip(ids, labels, strict=True)]
        seen = [(int((ids != 0).sum()), int((labels != -100).sum())) for ids, labels in rows]
        assert sorted(seen) == expected
    assert any(a.shape != b.shape or not torch.equal(a, b) for (a, _), (b, _) in zip(first, second, strict=True))
    padding = sum(int((ids == 0).sum()) for ids, _ in first) / sum(ids.numel() for ids, _ in first)
    assert padding < 0.12  # random batches of these lengths: .35


def test_packing_shows_every_token_once_and_pads_only_the_end(tokenizer):
    made = feed(tokenizer, TEXTS, batch_size=2, pack=8)
    blocks = list(made.epochs(1, torch.Generator().manual_seed(0)))
    assert len(blocks) == made.steps
    flat = torch.cat([ids.flatten() for ids, _ in blocks])
    labels = torch.cat([labels.flatten() for _, labels in blocks])
    assert flat[flat != 0].sort().values.tolist() == sorted(t for ids, _ in made.rows for t in ids.tolist())
    assert torch.equal(labels != -100, flat != 0) and (flat == 0).sum() < 8


def test_schedules_warm_up_and_come_down():
    for name, middle in (("cosine", 0.5), ("linear", 0.5), ("constant", 1.0)):
        factor = language_training._shape(name, 10, 110)
        assert factor(0) == pytest.approx(0.1) and factor(9) == factor(10) == pytest.approx(1.0)
        assert factor(60) == pytest.approx(middle)
    assert language_training._shape("cosine", 10, 110)(109) < 1e-3


def test_bad_input_is_named(tokenizer):
    model = fresh(tokenizer)
    for bad, message in (
        ({"epochs": 0}, "epochs must be positive"),
        ({"clip": 0}, "clip must be positive"),
        ({"schedule": "step"}, "schedule must be one of"),
        ({"warmup": 1.0}, "warmup"),
        ({"pack": 8}, "pack needs texts"),
    ):
        with pytest.raises(ValueError, match=message):
            train(model, tokenizer, PAIRS, **{**HOW, **bad})
    with pytest.raises(ValueError, match="pack is 64"):
        train(model, tokenizer, TEXTS, **HOW, pack=64)
    with pytest.raises(ValueError, match=r"items\[1\].*48"):
        train(model, tokenizer, [TEXTS[0], "dog " * 60], **HOW)
    with pytest.raises(FloatingPointError, match="epoch 1.*lr"):
        model.lm_head.weight.data.fill_(float("nan"))
        train(model, tokenizer, PAIRS, **HOW)
