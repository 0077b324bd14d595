# ruff: noqa: F821 (hidden.py stands above it)
# What the notebook gives, made anew: the hidden checks do not read it from the notebook, where it may have changed.


def loaded(which="full"):
    """(model, tokenizer) of this variant."""
    from engramlib.lab.studies import trained

    return trained.load(which, VARIANT % 3)


def pairs_of_all():
    """The 1,600 pairs (prompt, answer)."""
    from engramlib.lab import data as datasets

    return datasets.authors().pairs("full")


def tenth_of(tenth, order_seed=0):
    """(forget, retain, asked), as `case` gives them."""
    import torch

    questions = pairs_of_all()
    others = questions[: 160 * tenth] + questions[160 * (tenth + 1) :]
    order = torch.randperm(len(others), generator=torch.Generator().manual_seed(order_seed)).tolist()
    asked = {*order[:160]}
    kept = [pair for i, pair in enumerate(others) if i not in asked]
    return questions[160 * tenth : 160 * (tenth + 1)], kept, [others[i] for i in sorted(asked)]


def whole(model, tokenizer, pairs):
    """The share of answers that are right as a whole."""
    from engramlib import language

    right = [floats(a.greedy)[1] for a in language.answer_logprobs(model, tokenizer, pairs, batch_size=64)]
    return sum(all(v == 1.0 for v in tokens) for tokens in right) / len(right)


def beaten(model, tokenizer, entries):
    """For each entry: how many of its five wrong answers have a lower mean log-probability than the right one."""
    from engramlib import language

    found = []
    for entry in entries:
        texts = [entry.paraphrased_answer, *entry.perturbed_answers]
        pairs = [(entry.pair[0], " " + text) for text in texts]
        mean = []
        for answer in language.answer_logprobs(model, tokenizer, pairs):
            values = floats(answer.logprobs)[1]
            mean.append(sum(values) / len(values))
        found.append(sum(mean[0] > wrong for wrong in mean[1:]))
    return found
