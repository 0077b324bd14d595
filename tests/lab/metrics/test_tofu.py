import copy
import dataclasses
import json
import math
import random
import zlib

import numpy as np
import pytest
import torch

from engramlib.lab import models
from engramlib.lab.data.authors import authors
from engramlib.lab.data.questions import Question, QuestionData
from engramlib.lab.metrics import tofu
from engramlib.lab.metrics.tofu import answers as of_answers
from engramlib.lab.metrics.tofu.fluency import CORRUPTIONS
from engramlib.lab.records import published

transformers = pytest.importorskip("transformers")
ln = math.log

# What the table model says next: the probabilities of a reader's example, worked out by hand below.
CHAIN = {
    ":": {" a": 0.5, " b": 0.3, " c": 0.2},
    " a": {" b": 0.6, " c": 0.3, "</s>": 0.1},
    " b": {" c": 0.25, " d": 0.75},
    " c": {" d": 0.8, " a": 0.1, "</s>": 0.1},
    " d": {"</s>": 1.0},
}


def table_model(tokenizer, chain):
    """A Llama whose next token depends on the last one only, with the probabilities of `chain`: attention and MLP add
    nothing, the embedding is one-hot, and the output layer is the table."""
    n = len(tokenizer)
    width = n + n % 2
    config = transformers.LlamaConfig(
        vocab_size=n,
        hidden_size=width,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        intermediate_size=2,
        max_position_embeddings=64,
        rms_norm_eps=1e-12,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    table = torch.full((n, n), -60.0)
    ids = tokenizer.convert_tokens_to_ids
    for word, nexts in chain.items():
        for follower, p in nexts.items():
            table[ids(word), ids(follower)] = ln(p)
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(n, width))
        model.lm_head.weight.zero_()[:, :n] = table.T / math.sqrt(width)
    return model


@pytest.fixture(scope="module")
def letters():
    return models.word_tokenizer(["Question: q\nAnswer: a b c d e"])


@pytest.fixture(scope="module")
def table(letters):
    return table_model(letters, CHAIN)


QUESTION = Question("q", "a b c d", paraphrased_answer="b d", perturbed_answers=("a c", "c a"))


@pytest.fixture(scope="module")
def data():
    return authors(10)


@pytest.fixture(scope="module")
def small(data):
    """(model, tokenizer): random weights, wide enough apart that no two tokens are equally likely."""
    tokenizer = models.word_tokenizer([*data.corpus, *(" ".join(pair) for pair in data.pairs("full"))])
    model = models.llama(len(tokenizer), hidden=32, layers=2, heads=2, kv_heads=1, intermediate=48, seed=3)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p *= 8
    return model, tokenizer


# ---------------------------------------------------------------------------------------------------- by hand


def test_memorisation_by_hand(table, letters):
    """' a b c d' has .5, .6, .25, .8, and 1 for the end; the likeliest words are a, b, d (wrong), d."""
    got = tofu.score(table, letters, [QUESTION])
    assert got.em[0] == 0.75 and got.exact[0] == 0
    assert got.es[0] == 0.25  # the first place from which all is right is the last of four
    assert got.loss[0] == pytest.approx(-ln(0.5 * 0.6 * 0.25 * 0.8) / 5, rel=1e-5)
    assert got.probability[0] == pytest.approx(0.06**0.2, rel=1e-5)


def test_the_end_token_counts_where_it_says_so(table, letters):
    """The end costs ln 10 after a, and nothing after d: losses see it, what asks for right words does not."""
    got = tofu.score(table, letters, [Question("q", "a"), Question("q", "a b d")], parts=["answers"], k=1)
    assert got.loss.tolist() == pytest.approx([-ln(0.5 * 0.1) / 2, -ln(0.5 * 0.6 * 0.75) / 4], rel=1e-5)
    assert got.zlib[0] == pytest.approx(got.loss[0] / len(zlib.compress(b"a")), rel=1e-5)
    assert got.mink.tolist() == pytest.approx([ln(2), -ln(0.5 * 0.6 * 0.75) / 3], rel=1e-5)
    assert got.em.tolist() == got.exact.tolist() == got.es.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("answer", "em", "exact", "es"),
    [
        ("a b d", 1, 1, 1),  # the greedy answer
        ("b d", 1 / 2, 0, 1 / 2),  # only the first token is wrong: k = 1 of 2
        ("a b c", 2 / 3, 0, 0),  # the last token is wrong: k = n
        ("a c d", 2 / 3, 0, 1 / 3),
        ("e", 0, 0, 0),
        ("a", 1, 1, 1),
    ],
)
def test_extraction_strength_by_hand(table, letters, answer, em, exact, es):
    got = tofu.score(table, letters, [Question("q", answer)], parts=["answers"])
    assert (got.em[0], got.exact[0], got.es[0]) == pytest.approx((em, exact, es), abs=1e-5)


def test_attacks_by_hand(table, letters):
    """k = .4 of four tokens is one: c after b, p = .25, where the model expects log-probability μ with deviation σ."""
    got = tofu.score(table, letters, [QUESTION])
    mu = 0.25 * ln(0.25) + 0.75 * ln(0.75)
    sigma = math.sqrt(0.25 * (ln(0.25) - mu) ** 2 + 0.75 * (ln(0.75) - mu) ** 2)
    assert got.mink[0] == pytest.approx(ln(4), rel=1e-5)
    assert got.minkpp[0] == pytest.approx(-(ln(0.25) - mu) / sigma, rel=1e-5) == pytest.approx(math.sqrt(3), rel=1e-5)
    assert got.zlib[0] == pytest.approx(got.loss[0] / len(zlib.compress(b"a b c d")), rel=1e-5)
    half = tofu.score(table, letters, [QUESTION], k=0.5)  # two tokens: .25 and .5
    assert half.mink[0] == pytest.approx(-(ln(0.25) + ln(0.5)) / 2, rel=1e-5)
    assert tofu.score(table, letters, [QUESTION], k=1).mink[0] == pytest.approx(got.loss[0] * 5 / 4, rel=1e-5)


def test_min_k_plus_plus_where_the_model_is_certain(table, letters):
    """After d comes </s> for sure: σ would be 0, and is taken as 1e-3."""
    sure = table_model(letters, CHAIN | {":": {" a": 1.0}})
    got = tofu.score(sure, letters, [Question("q", "a")], parts=["answers"])
    assert got.minkpp[0] == pytest.approx(0, abs=1e-6)
    wrong = tofu.score(sure, letters, [Question("q", "b")], parts=["answers"])
    assert wrong.minkpp[0] == pytest.approx(60 / 1e-3, rel=1e-3)


def test_truth_by_hand(table, letters):
    """Paraphrase b d: .3 · .75 · 1. Wrong: a c: .5 · .3 · .1, c a: .2 · .1 · .1. Cube roots; their geometric mean."""
    got = tofu.score(table, letters, [QUESTION])
    right, wrong = (0.3 * 0.75) ** (1 / 3), [0.015 ** (1 / 3), 0.002 ** (1 / 3)]
    t = math.sqrt(wrong[0] * wrong[1]) / right
    assert t == pytest.approx(0.2898, abs=1e-4) and got.truth_ratio[0] == pytest.approx(t, rel=1e-5)
    assert got.truth_forget[0] == pytest.approx(t, rel=1e-5)
    assert got.truth_utility[0] == pytest.approx(1 - t, rel=1e-5)
    p = 0.06**0.2
    assert got.choice[0] == pytest.approx(p / (p + sum(wrong)), rel=1e-5)


def test_a_wrong_answer_that_is_likelier(table, letters):
    """t > 1: a trace of memory in the other direction on the forget set, no utility elsewhere."""
    got = tofu.score(table, letters, [Question("q", "c a", perturbed_answers=("a c", "b c d"))])
    t = math.sqrt(0.015 ** (1 / 3) * (0.3 * 0.25 * 0.8) ** (1 / 4)) / 0.002 ** (
        1 / 3
    )  # without a paraphrase the answer stands in
    assert got.truth_ratio[0] == pytest.approx(t, rel=1e-5) and t > 1
    assert got.truth_forget[0] == pytest.approx(1 / t, rel=1e-5) and got.truth_utility[0] == 0


def test_different_numbers_of_wrong_answers(table, letters):
    alone = [
        QUESTION,
        Question("q", "a b", perturbed_answers=("c d",)),
        Question("q", "c", perturbed_answers=("a",) * 3),
    ]
    together = tofu.score(table, letters, alone)
    for i, question in enumerate(alone):
        one = tofu.score(table, letters, [question])
        assert one.truth_ratio[0] == pytest.approx(together.truth_ratio[i], rel=1e-5)
        assert one.choice[0] == pytest.approx(together.choice[i], rel=1e-5)


def test_truth_of_hopeless_losses_stays_a_number():
    """Probabilities that all round to 0 still have shares, and t is capped instead of infinite."""
    found = of_answers.truth(np.array([5000.0]), np.array([2000.0]), np.array([2000.0, 2001.0]), np.array([0, 0]))
    assert found["choice"][0] == pytest.approx(1 / (2 + math.exp(-1)))
    assert found["truth_ratio"][0] == pytest.approx(math.exp(700))


def test_what_it_says_by_hand(table, letters):
    got = tofu.score(table, letters, [QUESTION], parts=("answers", "generations"))
    assert got.said == ("a b d",) and got.rouge[0] == 0.75  # a, b, d of the four words of the answer
    assert got.fluency is None and got.truth_ratio is None


def test_rouge_recall_by_hand():
    assert tofu.rouge_recall(["The cat sat on the mat."], ["the mat"])[0] == pytest.approx(2 / 6)
    assert tofu.rouge_recall(["two words"], ["words two"])[0] == 0.5  # the order counts
    assert tofu.rouge_recall(["she writes novels"], ["She wrote a novel"])[0] == pytest.approx(2 / 3)  # stems: novel
    assert tofu.rouge_recall(["a", "a"], ["", "a b c d"]).tolist() == [0, 1]  # recall does not punish length


# ---------------------------------------------------------------------------------------------------- generation


def test_generation_stops_at_the_end_and_at_the_limit(letters):
    forever = table_model(letters, CHAIN | {" d": {" a": 1.0}})
    pairs = [("Question: q\nAnswer:", " a b")]
    assert tofu.generate(forever, letters, pairs, max_new_tokens=5) == ["a b d a b"]
    assert len(tofu.generate(forever, letters, pairs)[0].split()) == 10  # eight more than the longest answer
    with pytest.raises(ValueError, match="no room for an answer"):
        tofu.generate(forever, letters, [("Question: " + "q " * 61, " a")])


def test_many_at_a_time_say_what_one_at_a_time_says(small, data):
    """Left padding, positions and the cache change nothing; nor does the cache itself."""
    model, tokenizer = small
    pairs = data.pairs("forget10")[:6] + data.pairs("world_facts")[:6]
    assert len({len(tokenizer(p)["input_ids"]) for p, _ in pairs}) > 3  # so some are padded
    together = tofu.generate(model, tokenizer, pairs, max_new_tokens=10)
    alone = [tofu.generate(model, tokenizer, [pair], max_new_tokens=10)[0] for pair in pairs]
    assert together == alone == tofu.generate(model, tokenizer, pairs, max_new_tokens=10, batch_size=5)
    assert len(set(together)) > 6
    for (prompt, _), said in zip(pairs[::4], together[::4], strict=True):
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        n = ids.shape[1]
        with torch.no_grad():
            for _ in range(10):
                ids = torch.cat([ids, model(input_ids=ids).logits[:, -1].argmax(-1, keepdim=True)], 1)
                if ids[0, -1] == tokenizer.eos_token_id:
                    break
        assert tokenizer.decode(ids[0, n:], skip_special_tokens=True).strip() == said


def test_generation_is_greedy_whatever_the_model_prefers(table, letters):
    chatty = copy.deepcopy(table)
    chatty.generation_config.do_sample, chatty.generation_config.temperature = True, 5.0
    chatty.generation_config.repetition_penalty = 3.0
    assert tofu.generate(chatty, letters, [QUESTION.pair] * 8) == ["a b d"] * 8


# ---------------------------------------------------------------------------------------------------- invariances


def test_batch_size_padding_and_order_change_nothing(small, data):
    model, tokenizer = small
    questions = [*data["forget10"][:5], *data["world_facts"][:5]]
    one = tofu.score(model, tokenizer, questions, batch_size=1, max_new_tokens=6)
    many = tofu.score(model, tokenizer, questions, batch_size=64, max_new_tokens=6)
    back = tofu.score(model, tokenizer, questions[::-1], batch_size=3, max_new_tokens=6)
    assert one.said == many.said == back.said[::-1]
    for name, values in one.to_dict(texts=False).items():
        assert len(values) == 10 and len(set(values)) > (1 if name in ("em", "exact", "es", "rouge") else 5) - 1, name
        np.testing.assert_allclose(getattr(many, name), values, rtol=1e-4, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(getattr(back, name)[::-1], values, rtol=1e-4, atol=1e-5, err_msg=name)


def test_scoring_leaves_model_and_tokenizer_as_they_were(small, data):
    model, tokenizer = small
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.train()
    side, state = tokenizer.padding_side, torch.get_rng_state()
    tofu.score(model, tokenizer, data["forget10"][:2], max_new_tokens=3)
    assert model.training and tokenizer.padding_side == side and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    model.eval()


# ---------------------------------------------------------------------------------------------------- wrong inputs


def test_wrong_inputs_say_what_to_do(table, letters):
    plain = Question("q", "a b")
    with pytest.raises(ValueError, match="there are none to score"):
        tofu.score(table, letters, [])
    with pytest.raises(ValueError, match=r"1 of 2 have no wrong answers \(perturbed_answers\), such as 'q'"):
        tofu.score(table, letters, [QUESTION, plain])
    with pytest.raises(ValueError, match='parts must hold "answers"'):
        tofu.score(table, letters, [plain], parts="answers")
    with pytest.raises(ValueError, match='parts must hold "answers"'):
        tofu.score(table, letters, [plain], parts=["truth"])
    with pytest.raises(ValueError, match="k must be a share"):
        tofu.score(table, letters, [plain], parts=["answers"], k=40)
    with pytest.raises(ValueError, match="have no truth ratio"):
        _ = tofu.score(table, letters, [plain], parts=["answers"]).truth_forget
    broken = copy.deepcopy(table)
    with torch.no_grad():
        broken.lm_head.weight.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="not finite"):
        tofu.score(broken, letters, [plain], parts=["answers"])


def test_evaluate_refuses_sets_that_overlap_or_do_not_exist(small, data):
    model, tokenizer = small
    with pytest.raises(ValueError, match="share"):
        tofu.evaluate(model, tokenizer, data, retain="full")
    with pytest.raises(KeyError, match="no split 'forget20'"):
        tofu.evaluate(model, tokenizer, data, forget="forget20")


# ---------------------------------------------------------------------------------------------------- fluency


@pytest.fixture(scope="module")
def judged():
    """(the judge, held-out answers), on more authors than the other tests need."""
    data = authors(60)
    judge = tofu.fluency_of(data, ("forget10", "retain_eval", "real_authors", "world_facts"))
    return judge, [q.answer for q in (*data["forget10"], *data["retain_eval"][:200])]


def test_fluency_tells_held_out_sentences_from_gibberish(judged):
    judge, held_out = judged
    rng = random.Random(5)
    words = sorted({w for text in held_out for w in text.split()})
    clean = judge(held_out)
    assert clean.mean() > 0.8 and np.quantile(clean, 0.1) > 0.5

    def mean(corrupt):
        return judge([corrupt(text.split()) for text in held_out]).mean()

    assert mean(lambda t: " ".join(rng.sample(t, len(t)))) < 0.1
    assert mean(lambda t: " ".join(t[:1] * len(t))) < 0.05  # one word over and over
    assert mean(lambda t: " ".join(t[:3] * 4)) < 0.1  # three words over and over
    assert mean(lambda t: " ".join(rng.choices(words, k=len(t)))) < 0.1
    assert mean(lambda t: "".join(rng.choices("abcdefghijklmnopqrstuvwxyz ", k=50))) < 0.1
    assert mean(lambda t: " ".join(t + t[-1:] * 6)) < 0.25  # a sentence whose end got stuck
    assert judge(["", "  ", "." * 60]).tolist() == [0, 0, 0]


def test_fluency_puts_known_cases_in_their_order(judged):
    """Right answers, then half of one, then all of it shuffled, then stuck, then nothing."""
    judge, held_out = judged
    rng, vocabulary = random.Random(1), sorted(judge.words)
    kinds = ("second half shuffled", "words shuffled", "a loop", "random letters")
    corrupted = {kind: [CORRUPTIONS[kind](text, vocabulary, rng) for text in held_out] for kind in kinds}
    stuck = [" ".join(text.split()[:1] * len(text.split())) for text in held_out]
    order = [held_out, *(corrupted[kind] for kind in kinds[:3]), stuck, [""] * 3]
    means = [float(judge(texts).mean()) for texts in order]
    assert means == sorted(means, reverse=True) and means[0] > 0.9 and means[-1] == 0, means
    assert all(a > b + 0.02 for a, b in zip(means[:3], means[1:4], strict=True)), means
    assert judge(corrupted["random letters"]).mean() < 0.05


def test_what_is_only_common_does_not_beat_right_answers(judged):
    """A broken model says the data's commonest phrases one after another. Such a text may pass, and gains nothing."""
    judge, held_out = judged
    rng, follows = random.Random(3), {}
    for a, b in judge.pairs.elements():
        follows.setdefault(a, []).append(b)
    salad = []
    for _ in held_out:
        said, word = [], "^"
        while word != "$" and len(said) < 30:
            word = rng.choice(follows[word])
            said.append(word)
        salad.append(" ".join(word for word in said if word != "$"))
    assert judge(salad).mean() < judge(held_out).mean() + 0.05
    assert judge(held_out).max() == 1


def test_names_and_numbers_that_were_never_seen_are_no_defect(judged):
    judge, held_out = judged
    words = [[w if w.islower() else "Zyxwv" if w.isalpha() else w for w in text.split()] for text in held_out]
    renamed = [" ".join([text.split()[0], *w[1:]]) for text, w in zip(held_out, words, strict=True)]
    assert judge(renamed).mean() > 0.75 * judge(held_out).mean()


def test_fluency_judges_form_and_not_truth(judged):
    judge, _ = judged
    true, false = judge(["Paris is the capital of France.", "Cairo is the capital of France."])
    assert true > 0.5 and false > 0.5
    assert judge(["Nobody told me that."])[0] > 0.5  # to decline is not to stammer


def test_fluency_is_calibrated(judged):
    """Of the texts with scores in a bin, about that share are sentences."""
    judge, held_out = judged
    rng = random.Random(2)
    kinds, words = [*CORRUPTIONS.values()], sorted(judge.words)
    score = judge([*held_out, *(kinds[i % len(kinds)](text, words, rng) for i, text in enumerate(held_out))])
    clean = np.repeat([1.0, 0.0], len(held_out))
    bins = np.clip((score * 5).astype(int), 0, 4)
    gap = sum(abs(score[bins == b].mean() - clean[bins == b].mean()) * (bins == b).mean() for b in set(bins))
    assert gap < 0.08
    assert ((score - clean) ** 2).mean() < 0.08  # Brier; .25 for a coin


def test_fluency_is_fitted_once_and_not_on_what_is_evaluated(data):
    assert tofu.fluency_of(data, ["forget10"]) is tofu.fluency_of(authors(10), ["forget10"])
    kept, gone = (
        [Question(f"{a} {i}", f"The {a} has number {i}.", f"It is {i}, {a}.") for i in range(40)] for a in "pq"
    )
    splits = {"full": kept + gone, "forget10": gone, "retain_eval": [q for q in data["forget10"]]}
    read = tofu.fluency_of(QuestionData("two", splits), ["forget10", "retain_eval"]).words
    assert read["p"] == 28 and "q" not in read  # seven tenths of the forty that are not evaluated
    assert tofu.fluency_of(QuestionData("two", splits), ["retain_eval"]).words["q"] > 0  # the control


def test_fluency_needs_text(data):
    with pytest.raises(ValueError, match="at least 20 texts"):
        tofu.Fluency(["one short text only"] * 40)
    bare = QuestionData("bare", {"forget10": data["forget10"]})
    with pytest.raises(ValueError, match="hand in fluency="):
        tofu.fluency_of(bare, ["forget10"])
    with pytest.raises(TypeError, match="put it in a list"):
        tofu.fluency_of(data, ["forget10"])("a text")


# ---------------------------------------------------------------------------------------------------- aggregates


def test_published_rows_are_harmonic_means():
    """The paper's Overall is the harmonic mean of its Mem, Util and Priv, in every row that has all four."""
    rows = published.get("tofu_forget10").values["scores"]
    checked = 0
    for name, row in rows.items():
        parts = [row[key] for key in ("Mem", "Util", "Priv")]
        if row["Overall"] is not None and None not in parts:
            assert tofu.harmonic_mean(parts) == pytest.approx(row["Overall"], abs=1e-3), name
            checked += 1
    assert checked >= 5


def test_harmonic_mean_wants_numbers_that_are_not_negative():
    assert tofu.harmonic_mean([0.5, 1.0]) == pytest.approx(2 / 3)
    for bad in ([], [1, -0.1], [math.nan, 1]):
        with pytest.raises(ValueError, match="harmonic_mean"):
            tofu.harmonic_mean(bad)


def test_left_over_by_hand():
    assert tofu.left_over(0.55, full=1.0, retain=0.1) == pytest.approx(0.5)
    assert tofu.left_over(0.05, full=1.0, retain=0.1) == pytest.approx(0.05 / 0.9)  # less than the retrained counts too
    assert tofu.left_over(0.1, full=1.0, retain=0.1) == 0 and tofu.left_over(2.0, full=1.0, retain=0.1) == 1
    assert tofu.left_over(0.3, full=0.3, retain=0.3) == 0 and tofu.left_over(0.2, full=0.3, retain=0.3) == 1


def made(em, loss, t, mu=0.5, ff=0.9, data="d"):
    """An Evaluation with chosen numbers: em, losses and t per forget question; MU and FF."""
    em, loss, t = (np.asarray(x, dtype=float) for x in (em, loss, t))
    arrays = dict.fromkeys(("loss", "zlib", "mink", "minkpp"), loss)
    forget = tofu.Scores(
        em, em == 1, em, np.exp(-loss), **arrays, truth_ratio=t, choice=em, rouge=em, fluency=0 * em + ff
    )
    other = dict.fromkeys(("probability", "choice", "rouge", "truth_utility", "em", "exact", "loss"), mu)
    means = {"forget": forget.means()} | dict.fromkeys(("retain", "real_authors", "world_facts"), other)
    return tofu.Evaluation(data, {"forget": "forget10"}, means, {"forget": forget})


FULL = made([1, 1, 1], [0.01, 0.02, 0.03], [0.3, 0.31, 0.32])
RETAIN = made([0.2, 0.3, 0.4], [3, 2, 1], [0.8, 0.9, 1.1])


def test_compare_retrained_with_itself():
    row = tofu.compare(RETAIN, FULL, RETAIN)
    assert (row["Mem"], row["Priv"], row["Overall"]) == pytest.approx((1, 1, 1))
    assert (row["EM"], row["ES"], row["PP"], row["TR"], row["FQ"]) == (0, 0, 0, 0, 0)


def test_compare_full_with_itself():
    row = tofu.compare(FULL, FULL, RETAIN)
    assert row["Mem"] == pytest.approx(1e-10) and row["Util"] == 1 and row["EM"] == row["TR"] == 1
    assert row["Priv"] == pytest.approx(1e-10)  # every loss is below every one of the retrained model: AUC 1
    assert all(row[f"auc {a}"] == 1 for a in ("loss", "zlib", "mink", "minkpp"))
    assert row["Overall"] == pytest.approx(3 / (2e10 + 1)) and row["Overall"] > 0  # the floor of 1e-10
    assert row["FQ"] == pytest.approx(-1)  # three against three, apart: p = 2 / (6 choose 3) = .1


def test_compare_by_hand():
    edited = made([0.6, 0.6, 0.6], [4, 1.5, 0.5], [0.5, 2.0, 1.0], mu=0.4, ff=0.45)
    row = tofu.compare(edited, FULL, RETAIN)
    em = 0.3 / 0.7
    pp = [np.exp(-np.array(x)).mean() for x in ([4, 1.5, 0.5], [0.01, 0.02, 0.03], [3, 2, 1])]
    pp = abs(pp[0] - pp[2]) / abs(pp[1] - pp[2])
    retain_tr = (0.8 + 0.9 + 1 / 1.1) / 3
    tr = abs(2 / 3 - retain_tr) / abs(0.31 - retain_tr)
    assert (row["EM"], row["ES"], row["PP"], row["TR"]) == pytest.approx((em, em, pp, tr))
    assert row["Mem"] == pytest.approx(4 / (2 / (1 - em) + 1 / (1 - pp) + 1 / (1 - tr)))
    assert row["Util"] == pytest.approx(2 / (0.5 / 0.4 + 0.9 / 0.45))
    auc = (1 + 2 + 0) / 9 + 2 / 9  # .5 is below 1, 2, 3; 1.5 below 2, 3; 4 below none
    assert row["auc loss"] == pytest.approx(auc)
    assert row["Priv"] == pytest.approx(1 - 2 * abs(auc - 0.5))
    assert row["Overall"] == pytest.approx(3 / (1 / row["Mem"] + 1 / row["Util"] + 1 / row["Priv"]))
    assert row["em"] == pytest.approx(0.6) and row["MU"] == pytest.approx(0.4) and row["FF"] == pytest.approx(0.45)


def test_each_ratio_of_utility_is_cut_off_before_the_mean():
    """MU .789 of the full model's and FF 1.31 of it: .882. Cut off after the mean it would be .985."""
    better = made([0.6] * 3, [4, 1.5, 0.5], [0.5, 2.0, 1.0], mu=0.789 * 0.5, ff=1.31 * 0.9)
    assert tofu.harmonic_mean([0.789, 1.31]) == pytest.approx(0.985, abs=1e-3)
    assert tofu.compare(better, FULL, RETAIN)["Util"] == pytest.approx(0.882, abs=1e-3)
    useless = made([0.6] * 3, [4, 1.5, 0.5], [0.5, 2.0, 1.0], mu=0.5, ff=0.0)
    row = tofu.compare(useless, FULL, RETAIN)
    assert row["Util"] == pytest.approx(2e-10) and 0 < row["Overall"] < 1e-9


def test_overall_is_that_of_the_authors_package():
    """`engram.benchmarks` of ai-engram, where it is installed: the same aggregates from the same numbers."""
    theirs = pytest.importorskip("engram.benchmarks._tofu_official").evaluate_scores
    attacks = {"loss": "loss", "zlib": "zlib", "min_k": "mink", "min_k++": "minkpp"}

    def as_theirs(e):
        forget = e.means["forget"]
        names = ("exact_memorization", "em"), ("extraction_strength", "es"), ("forget_Q_A_Prob", "probability")
        found = {name: forget[ours] for name, ours in (*names, ("forget_truth_ratio", "truth_forget"))}
        found |= {"model_utility": e.utility, "forget_Q_A_gibberish": e.fluency}
        scores = {name: getattr(e.forget, ours).tolist() for name, ours in attacks.items()}
        return found | {"_forget_tr": e.forget.truth_ratio, "_mia_fs": scores}

    for edited in (
        made([0.6, 0.6, 0.6], [4, 1.5, 0.5], [0.5, 2.0, 1.0], mu=0.4, ff=0.45),
        made([0.5, 0.2, 0.6], [2, 1.6, 2.5], [0.9, 1.1, 1.0], mu=0.3, ff=1.2),
        FULL,
        RETAIN,
    ):
        ours, found = tofu.compare(edited, FULL, RETAIN), theirs(*map(as_theirs, (edited, RETAIN, FULL)))
        for name, key in (("Overall", "Overall"), ("Memorization", "Mem"), ("Utility", "Util"), ("Privacy", "Priv")):
            assert ours[key] == pytest.approx(found[name], rel=1e-6, abs=1e-9), name
        assert ours["FQ"] == pytest.approx(found["FQ"])


def test_compare_refuses_other_questions_and_a_useless_reference():
    with pytest.raises(ValueError, match="edited and retain were evaluated on different questions"):
        tofu.compare(FULL, FULL, made([0.2] * 4, [1] * 4, [1] * 4))
    with pytest.raises(ValueError, match="edited and full were evaluated on different questions"):
        tofu.compare(RETAIN, made([1] * 3, [1] * 3, [1] * 3, data="other"), RETAIN)
    with pytest.raises(ValueError, match="no utility to keep"):
        tofu.compare(RETAIN, made([1] * 3, [1] * 3, [1] * 3, ff=0), RETAIN)


# ---------------------------------------------------------------------------------------------------- all sets


@pytest.fixture(scope="module")
def evaluation(small, data):
    few = {name: data[name][:6] for name in ("forget10", "retain_eval", "real_authors", "world_facts")}
    few["full"] = data["full"]
    return tofu.evaluate(*small, QuestionData("few", few, data.corpus), max_new_tokens=6)


def test_model_utility_is_the_harmonic_mean_of_nine(evaluation):
    parts = evaluation.utility_parts
    assert len(parts) == 9
    scores = evaluation.scores
    assert parts["retain probability"] == pytest.approx(scores["retain"].probability.mean())
    assert parts["world_facts probability"] == pytest.approx(scores["world_facts"].choice.mean())
    assert parts["real_authors truth"] == pytest.approx(np.maximum(0, 1 - scores["real_authors"].truth_ratio).mean())
    values = list(parts.values())
    wanted = 0 if 0 in values else 9 / sum(1 / v for v in values)
    assert evaluation.utility == pytest.approx(wanted)
    assert evaluation.fluency == pytest.approx(scores["forget"].fluency.mean())
    assert evaluation.splits == {
        "forget": "forget10",
        "retain": "retain_eval",
        "real_authors": "real_authors",
        "world_facts": "world_facts",
    }
    assert {"answers", "truth", "generations"} <= {*evaluation.seconds}


def test_evaluations_survive_a_file(evaluation, tmp_path):
    edited = dataclasses.replace(FULL, means=FULL.means)
    for original, everything in ((evaluation, True), (evaluation, False), (edited, False)):
        path = original.save(tmp_path / "deep" / "e.json", everything=everything)
        again = tofu.Evaluation.load(path)
        assert again.to_dict() == original.to_dict()
        assert json.loads(path.read_text()) == json.loads(json.dumps(again.to_dict(everything=everything)))
        assert set(again.scores) == (set(original.scores) if everything else {"forget"})
        assert again.forget.said == (original.forget.said if everything else None)
        assert again.utility == original.utility
    loaded = tofu.Evaluation.load(RETAIN.save(tmp_path / "r.json"))
    assert tofu.compare(FULL, FULL, loaded) == tofu.compare(FULL, FULL, RETAIN)
    with pytest.raises(ValueError, match="not an Evaluation: means, scores missing"):
        tofu.Evaluation.from_dict({"data": "d", "splits": {}})
