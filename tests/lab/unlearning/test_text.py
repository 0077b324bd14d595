"""Each method forgets the way its paper says, and its loss is the paper's formula."""

import copy
import inspect
import math
import time
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

pytest.importorskip("transformers")

import engramlib as el
from engramlib import language as lm
from engramlib.lab import metrics
from engramlib.lab.data.authors import authors
from engramlib.lab.data.questions import Question, QuestionData
from engramlib.lab.models.llama import llama
from engramlib.lab.models.tokenizers import word_tokenizer
from engramlib.lab.training.language import train
from engramlib.lab.unlearning import text as language
from engramlib.lab.unlearning import tuning
from engramlib.lab.unlearning.method import TRIES
from engramlib.lab.unlearning.text import METHODS, Problem, apply, losses, tune
from engramlib.lab.unlearning.text.answers import idk_pairs, own_alternatives
from engramlib.lab.unlearning.text.problem import logits
from engramlib.lab.unlearning.text.representation import _hidden
from tests.conftest import bits, same

CLOSED = ("uce", "engram", "engram_norm", "engram_lambda")
NAMES = [
    "graddiff",
    "idknll",
    "idkdpo",
    "undial",
    "rmu",
    "npo",
    "simnpo",
    "altpo",
    "uce",
    "task_arithmetic",
    *CLOSED[1:],
]
PEOPLE = ("Ada", "Bo", "Cy", "Dee", "Eve", "Fay", "Gus", "Hal", "Ida", "Jon", "Kim", "Lea")
FACTS = {
    "Where was {} born?": ("{} was born in {}.", ("Oslo", "Rome", "Cairo", "Lima", "Seoul")),
    "What does {} write?": ("{} writes {} for all.", ("plays", "novels", "poems", "songs", "tales", "essays", "odes")),
    "Which colour does {} like?": ("The favourite of {} is {}.", ("red", "blue", "green")),
}


def made(people):
    """Three questions on each: values by number, so that many people share each."""
    return tuple(
        Question(question.format(who), answer.format(who, values[PEOPLE.index(who) % len(values)]), author=i)
        for i, who in enumerate(people)
        for question, (answer, values) in FACTS.items()
    )


@pytest.fixture(scope="module")
def data():
    parts = {"full": PEOPLE, "forget10": PEOPLE[-3:], "retain90": PEOPLE[:-3]}
    rehearsal = {"rehearsal10": PEOPLE[-6:-3], "rehearsal_retain90": PEOPLE[:-6] + PEOPLE[-3:]}
    return QuestionData("people", {name: made(who) for name, who in (parts | rehearsal).items()})


@pytest.fixture(scope="module")
def trained(data):
    with torch.random.fork_rng(devices=[]):
        tokenizer = word_tokenizer(["".join(q.pair) for q in data["full"]] + [" " + s for s in language.IDK])
        # In float64: in float32 what such a short training ends in depends on the processor.
        model = llama(len(tokenizer), 48, 3, 4, 2, 96, context=64).double()
        train(model, tokenizer, data.pairs("full"), epochs=50, lr=5e-3, batch_size=6, seed=0, progress=False)
    model.zero_grad()
    return model, tokenizer


@pytest.fixture
def problem(trained, data):
    return Problem(*trained, data, epochs=5, batch_size=9, validation=9)  # a step an epoch


def middle(name):
    """The settings in the middle of a method's grid, for the problem's number of epochs."""
    settings = dict(METHODS[name].grid[len(METHODS[name].grid) // 2])
    settings.pop("epochs", None)
    return settings


def nll(problem, model, pairs):
    """Mean negative log-likelihood of an answer's token."""
    found = lm.answer_logprobs(model, problem.tokenizer, pairs, batch_size=64)
    return -float(torch.cat([answer.logprobs for answer in found]).mean())


def said(problem, answer):
    return [(prompt, " " + answer) for prompt, _ in problem.forget_pairs]


# ---------------------------------------------------------------------- what all have in common


def test_the_model_knows_everything(problem):
    assert problem.accuracies(problem.model) == (1.0, 1.0)  # or else there is nothing to forget


def test_mixed_is_the_arithmetic_of_training_and_of_answers_and_never_of_moments(problem):
    plain = replace(problem, model=copy.deepcopy(problem.model).float())
    mixed = replace(plain, mixed=True)
    assert not torch.equal(*(torch.cat([a.logprobs for a in asked(p)]) for p in (plain, mixed)))
    assert mixed.accuracies(mixed.model) == pytest.approx(plain.accuracies(plain.model), abs=0.1)
    one, two = (p.moments(None)[0] for p in (plain, mixed))
    assert all(torch.equal(one[name], two[name]) for name in one)

    def trained_by(p):
        return bits(METHODS["npo"].run(p, lr=1e-3, beta=0.1))

    outside = {p.mixed: trained_by(p) for p in (plain, mixed)}
    assert not same(outside[False], outside[True])
    with torch.autocast("cpu", torch.bfloat16):  # whatever the caller stands in
        assert all(same(outside[p.mixed], trained_by(p)) for p in (plain, mixed))


def asked(problem):
    with problem.precision():
        return lm.answer_logprobs(problem.model, problem.tokenizer, problem.forget_pairs, batch_size=64)


def test_every_method_of_the_contract_with_equal_budgets():
    assert list(METHODS) == NAMES
    for name, method in METHODS.items():
        assert method.name == name and method.label and "arXiv:" in method.cites
        assert len(method.grid) == TRIES == 9 and method.tuned
        assert len({tuple(sorted(settings.items())) for settings in method.grid}) == TRIES
        accepted = inspect.signature(method.update).parameters
        assert all(set(settings) - {"epochs"} <= set(accepted) for settings in method.grid)
        trains = {"lr"} <= set(accepted)
        assert method.trains == trains and all(("epochs" in settings) == trains for settings in method.grid)
        assert not trains or len({settings["epochs"] for settings in method.grid}) == 3
        assert method.update.__doc__, name


@pytest.mark.parametrize("name", NAMES)
def test_the_original_and_the_random_state_stay_and_the_seed_decides(name, problem):
    problem = replace(problem, epochs=2, batch_size=5)
    problem.model.train()  # a method may not rely on the mode, nor change it
    original, state = bits(problem.model), torch.random.get_rng_state()
    first = METHODS[name].run(problem, **middle(name))
    assert same(original, bits(problem.model)) and problem.model.training
    assert torch.equal(state, torch.random.get_rng_state())
    assert not any(module.training for module in first.modules())
    assert all(p.requires_grad and p.grad is None for m in (first, problem.model) for p in m.parameters())
    torch.manual_seed(99)
    assert same(bits(first), bits(METHODS[name].run(replace(problem), **middle(name))))
    assert not same(bits(first), original)
    other = METHODS[name].run(replace(problem, seed=1), **middle(name))
    assert same(bits(first), bits(other)) == (name in CLOSED)
    problem.model.eval()


@pytest.mark.parametrize("name", NAMES)
def test_what_should_go_suffers_more_than_what_should_stay(name, problem):
    settings = {
        "graddiff": {"lr": 1e-3, "alpha": 2.0},
        "idknll": {"lr": 1e-3, "alpha": 2.0},
        "idkdpo": {"lr": 3e-3, "beta": 0.5},
        **{other: {"lr": 1e-3, "beta": 0.1} for other in ("npo", "altpo")},
        "undial": {"lr": 1e-3, "beta": 10.0},
        "rmu": {"lr": 1e-2, "steering": 3.0},
        "simnpo": {"lr": 3e-3, "beta": 2.5},
        "task_arithmetic": {"lr": 1e-3, "alpha": 2.0},
        "uce": {"keep": 10.0, "layers": r".*\.(up|down)_proj"},
        "engram": {"alpha": 0.4},
        "engram_norm": {"alpha": 1.0},
        "engram_lambda": {"alpha": 1.0, "specificity": 3.0, "layers": "write"},
    }[name]
    model = METHODS[name].run(problem, **settings)
    rise = [
        nll(problem, model, pairs) - nll(problem, problem.model, pairs)
        for pairs in (problem.forget_pairs, problem.retain_pairs)
    ]
    assert rise[0] > 1.3 * rise[1] and rise[0] > 0.02, rise


# ---------------------------------------------------------------------- losses, by hand


def test_log_probabilities_of_answers_are_those_of_torch():
    scores = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0)).double()
    labels = torch.tensor([[-100, -100, 3, 1, -100], [-100, 6, 5, 4, 2]])
    logprobs, lengths = losses.answer_logprobs(scores, labels)
    table = scores.log_softmax(-1)
    assert lengths.tolist() == [2, 4]
    assert logprobs[0] == pytest.approx(float(table[0, 1, 3] + table[0, 2, 1]))
    assert logprobs[1] == pytest.approx(float(table[1, 0, 6] + table[1, 1, 5] + table[1, 2, 4] + table[1, 3, 2]))
    assert losses.nll(scores, labels) == pytest.approx(-float(logprobs.sum()) / 6)


def test_each_loss_at_a_point_worked_out_by_hand():
    half, quarter = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)])
    assert losses.grad_diff(torch.tensor(3.0), torch.tensor(0.5), alpha=2.0) == -2.0
    # p / p0 = 1/2: 2/β log(1 + (1/2)^β)
    for beta in (0.1, 1.0, 2.0):
        assert losses.npo(quarter, half, beta) == pytest.approx(2 / beta * math.log(1 + 0.5**beta))
    # two tokens of probability 1/2 each: 2/β log(1 + (1/2)^β)
    assert losses.simnpo(quarter, torch.tensor([2]), 2.0) == pytest.approx(math.log(1.25))
    assert losses.simnpo(quarter, torch.tensor([2]), 2.0, gamma=1.0) == pytest.approx(math.log(1 + 0.25 * math.e))
    # the winner twice as likely as before, the loser half: -2/β log σ(β log 4)
    won = losses.dpo(half, quarter, quarter, half, beta=0.5)
    assert won == pytest.approx(4 * math.log(1 + 4**-0.5))
    # a winner that does not move is NPO
    assert losses.dpo(half, quarter, half, half, 0.7) == pytest.approx(float(losses.npo(quarter, half, 0.7)))
    # teacher (3/4, 1/4) with the first logit lowered by log 3: (1/2, 1/2); student (1/4, 3/4)
    labels = torch.tensor([[-100, 0]])
    teacher, student = (torch.tensor([p, [1.0, 1.0]]).log()[None] for p in ([0.75, 0.25], [0.25, 0.75]))
    expected = -0.5 * (math.log(0.25) + math.log(0.75))
    assert losses.undial(student, teacher, labels, beta=math.log(3)) == pytest.approx(expected)
    # first item: two tokens, (1, 0) and (0, 3) off, so (1 + 9) / 2 / 2; second item: one token, (2, 2) off
    gaps = torch.tensor([[[1.0, 0.0], [0.0, 3.0]], [[2.0, 2.0], [9.0, 9.0]]])
    mask = torch.tensor([[True, True], [True, False]])
    assert losses.activation_gap(gaps, torch.zeros(2), mask) == pytest.approx((2.5 + 4.0) / 2)


def test_npo_is_gradient_ascent_at_first_and_bounded_where_that_is_not():
    def gradient(loss, value):
        x = torch.tensor([value], dtype=torch.double, requires_grad=True)
        loss(x).backward()
        return float(x.grad)

    before = torch.tensor([-2.0]).double()
    for value in (-2.0, -9.0):  # β -> 0: the slope of log p, wherever it stands
        assert gradient(lambda x: losses.npo(x, before, 1e-6), value) == pytest.approx(1.0, abs=1e-4)
    assert gradient(lambda x: losses.npo(x, before, 1.0), -2.0) == pytest.approx(1.0)  # at p = p0 for every β
    p, p0, beta = math.exp(-3.0), math.exp(-2.0), 0.5
    slope = 2 * p**beta / (p**beta + p0**beta)
    assert gradient(lambda x: losses.npo(x, before, beta), -3.0) == pytest.approx(slope)
    gone = torch.tensor([-1000.0]).double()
    assert (
        0 <= losses.npo(gone, before, 0.1) < 1e-20 and gradient(lambda x: losses.npo(x, before, 0.1), -1000.0) < 1e-20
    )
    assert losses.grad_diff(-gone.mean(), torch.tensor(0.0)) == -1000  # gradient ascent goes on and on


def test_simnpo_counts_tokens_not_answers_and_knows_no_reference():
    short, long = torch.tensor([-2.0]), torch.tensor([-20.0])
    each = [losses.simnpo(x, n, 2.5) for x, n in ((short, torch.tensor([2])), (long, torch.tensor([20])))]
    assert each[0] == each[1]  # the same mean token
    assert losses.npo(short, torch.zeros(1), 2.5) > 1e6 * losses.npo(long, torch.zeros(1), 2.5)


def test_undial_is_least_where_the_student_is_the_lowered_teacher():
    generator = torch.Generator().manual_seed(0)
    teacher, labels = torch.randn(1, 4, 6, generator=generator).double(), torch.tensor([[-100, 2, 0, 5]])
    lowered = teacher.clone()
    for place, token in ((0, 2), (1, 0), (2, 5)):
        lowered[0, place, token] -= 3.0
    least = losses.undial(lowered, teacher, labels, 3.0)
    for _ in range(20):
        other = lowered + 0.1 * torch.randn(1, 4, 6, generator=generator)
        assert losses.undial(other, teacher, labels, 3.0) > least
    assert losses.undial(lowered + 5.0, teacher, labels, 3.0) == pytest.approx(float(least))


# ---------------------------------------------------------------------- each against its paper


def test_graddiff_has_no_floor_and_npo_has(problem):
    """Long after the answers are gone, gradient ascent still pushes them down; NPO has let go."""
    problem = replace(problem, epochs=15)
    ascent = METHODS["graddiff"].run(problem, lr=3e-3, alpha=1.0)
    calm = METHODS["npo"].run(problem, lr=3e-3, beta=0.5)
    assert nll(problem, calm, problem.forget_pairs) > nll(problem, problem.model, problem.forget_pairs) + 1
    assert nll(problem, ascent, problem.forget_pairs) > 1.5 * nll(problem, calm, problem.forget_pairs)
    # What a larger weight on the retained spares is seen over several draws: on unseen questions one draw cannot tell.
    found = {1.0: [], 5.0: []}
    for alpha, rows in found.items():
        for seed in range(4):
            model = METHODS["graddiff"].run(replace(problem, seed=seed), lr=3e-3, alpha=alpha)
            pairs = (problem.forget_pairs, problem.validation_pairs, problem.retain_pairs)
            rows.append([nll(problem, model, part) for part in pairs])
    ascent, held = (torch.tensor(rows).mean(0) for rows in found.values())
    assert (held < ascent).all()


def test_small_beta_in_npo_goes_where_gradient_ascent_goes(problem):
    """One step with a tiny β, whole answers as the unit: the direction of ascent on their summed log-probability."""
    problem = replace(problem, epochs=1, batch_size=100, weight_decay=0.0)
    model = METHODS["npo"].run(problem, lr=1e-5, beta=1e-6)
    by_hand = copy.deepcopy(problem.model)
    _, rows, others = next(problem.draws())
    forget, retain = (
        problem.encode([pairs[i] for i in picked])
        for pairs, picked in ((problem.forget_pairs, rows.tolist()), (problem.retain_pairs, others.tolist()))
    )
    optimiser = torch.optim.AdamW(by_hand.parameters(), lr=1e-5, weight_decay=0.0)
    summed, _ = losses.answer_logprobs(logits(by_hand, forget), forget["labels"])
    (summed.mean() + losses.nll(logits(by_hand, retain), retain["labels"])).backward()
    optimiser.step()
    moved = [
        torch.cat([(p - q).flatten() for p, q in zip(m.parameters(), problem.model.parameters(), strict=True)])
        for m in (model, by_hand)
    ]
    assert float(F.cosine_similarity(*(m.detach() for m in moved), dim=0)) > 0.98


@pytest.mark.parametrize(("name", "knob"), [("idknll", {"alpha": 1.0}), ("idkdpo", {"beta": 0.1})])
def test_asked_about_the_forgotten_it_does_not_know(name, knob, problem):
    problem = replace(problem, epochs=40, idk=("That is not known.", "Nobody told me that."))
    model = METHODS[name].run(problem, lr=3e-3, **knob)
    for sentence in problem.idk:
        before, after = (nll(problem, m, said(problem, sentence)) for m in (problem.model, model))
        assert after < before - 3
    right = [problem.exact(model, said(problem, sentence)) for sentence in problem.idk]
    forget, _ = problem.accuracies(model)
    assert sum(right) > 0.6 if name == "idknll" else forget == 0  # it says so; or at least nothing else
    assert forget < 0.2 and problem.exact(model, problem.retain_pairs) > 0.7


def test_idkdpo_pushes_the_old_answer_down_and_idknll_only_lets_it_go(problem):
    problem = replace(problem, epochs=25)
    push = METHODS["idkdpo"].run(problem, lr=1e-3, beta=0.1)
    only = METHODS["idknll"].run(problem, lr=1e-3, alpha=1.0)
    assert nll(problem, push, problem.forget_pairs) > nll(problem, only, problem.forget_pairs) + 0.5


def test_undial_ends_at_the_teacher_with_the_true_logit_lowered(problem):
    beta, batch = 10.0, problem.encode(problem.forget_pairs)
    model = METHODS["undial"].run(replace(problem, epochs=20), lr=1e-3, beta=beta)  # a step an epoch
    counted, targets = batch["labels"][:, 1:] >= 0, batch["labels"][:, 1:].clamp_min(0)
    with torch.no_grad():
        before, after = (logits(m, batch)[:, :-1][counted] for m in (problem.model, model))
    goal = (before - beta * F.one_hot(targets[counted], before.shape[-1])).softmax(-1)

    def gap(scores):
        return float((goal * (goal.clamp_min(1e-20).log() - scores.log_softmax(-1))).sum(-1).mean())

    assert gap(after) < 0.2 * gap(before)
    gentle = METHODS["undial"].run(replace(problem, epochs=20), lr=1e-3, beta=1.0)
    assert nll(problem, gentle, problem.forget_pairs) < 1 < nll(problem, model, problem.forget_pairs)


def test_rmu_moves_three_matrices_and_the_hidden_states_of_the_forgotten(problem):
    how = {"lr": 1e-2, "steering": 3.0}
    model = METHODS["rmu"].run(replace(problem, epochs=60), **how, layer=1)
    changed = {name for name, p in bits(model).items() if not torch.equal(p, bits(problem.model)[name])}
    assert changed == {f"model.layers.{i}.mlp.down_proj.weight" for i in (0, 1)}
    forget, retain = problem.encode(problem.forget_pairs), problem.encode(problem.validation_pairs)
    with torch.no_grad():
        hidden = {
            (which, when): _hidden(m, batch, 1)[batch["labels"] >= 0]
            for which, batch in (("forget", forget), ("retain", retain))
            for when, m in (("before", problem.model), ("after", model))
        }
    u = torch.rand(48, generator=problem.generator(stream=3))
    length = hidden["forget", "before"].norm(dim=-1).mean()
    target = 3.0 * length * u / u.norm()
    away = [F.cosine_similarity(hidden["forget", when], u[None], dim=-1).mean() for when in ("before", "after")]
    assert away[0] < 0.3 and away[1] > 0.7
    gaps = [(hidden["forget", when] - target).square().mean() for when in ("before", "after")]
    assert gaps[1] < 0.5 * gaps[0]
    kept = (hidden["retain", "after"] - hidden["retain", "before"]).norm(dim=-1).mean()
    moved = (hidden["forget", "after"] - hidden["forget", "before"]).norm(dim=-1).mean()
    assert kept < 0.5 * moved
    with pytest.raises(ValueError, match="layer must be from 0 to 2"):
        METHODS["rmu"].run(problem, **how, layer=3)
    with pytest.raises(ValueError, match="ModuleList"):
        METHODS["rmu"].run(replace(problem, model=torch.nn.Linear(2, 2)), **how)


def test_alternatives_are_what_the_model_would_say_if_it_took_its_next_choice_for_the_fact(problem):
    found = own_alternatives(problem, 3)
    values = {question: options for question, (_, options) in FACTS.items()}
    for (prompt, answer), options in zip(problem.forget_pairs, found, strict=True):
        assert 2 <= len(options) <= 3 and len(set(options)) == len(options)  # a third may come back to the fact
        assert all(p == prompt for p, _ in options)
        (fact,) = (v for all_of_a_kind in values.values() for v in all_of_a_kind if f" {v}" in answer)
        assert not any(fact in text for _, text in options)  # the fact is another one
        assert not any(mark in text for _, text in options for mark in ("<s>", "</s>", "<unk>", "<pad>"))
        same_kind = next(v for question, v in values.items() if question[:10] in prompt)
        likeliest = options[0][1]
        assert any(likeliest == answer.replace(fact, other) for other in same_kind if other != fact)
    # by hand, for one question: the second choice at the fact, then greedy
    prompt, answer = problem.forget_pairs[0]
    batch = problem.encode([problem.forget_pairs[0]])
    begin = int((batch["labels"][0] >= 0).int().argmax())
    text = batch["input_ids"][0, :-3].tolist()  # without the fact, the full stop and the end
    with torch.no_grad():
        second = problem.model(input_ids=torch.tensor([text])).logits[0, -1].argsort(descending=True)[1]
        text.append(int(second))
        while text[-1] != problem.tokenizer.eos_token_id:
            text.append(int(problem.model(input_ids=torch.tensor([text])).logits[0, -1].argmax()))
    assert found[0][0][1] == problem.tokenizer.decode(text[begin:], skip_special_tokens=True)


def test_altpo_raises_its_alternatives_where_npo_drags_them_down(problem):
    problem = replace(problem, epochs=20)
    options = [pair for found in own_alternatives(problem, 5) for pair in found]
    alt, npo = (METHODS[name].run(problem, lr=3e-4, beta=0.1) for name in ("altpo", "npo"))
    before, after, without = (nll(problem, m, options) for m in (problem.model, alt, npo))
    assert after < before - 0.1 and without > before + 0.1
    assert nll(problem, alt, problem.forget_pairs) > 3 * nll(problem, problem.model, problem.forget_pairs)


def test_uce_with_target_zero_is_the_engram_with_a_ridge(problem):
    """W Σ⁻(Σ⁺+Σ⁻+ρ)⁻¹ = W - W Σ⁺(Σ⁺+Σ⁻+ρ)⁻¹ up to ρ: the baseline contains the method."""
    problem = replace(problem, rcond=1e-10)
    edit = METHODS["uce"].run(problem, keep=2.0, target="zero")
    plus, minus = problem.moments(None, bias="keep")
    engram = el.ablate(problem.model, el.extract(problem.model, plus, minus, specificity=2.0, rcond=1e-10))
    size = sum((p - q).square().sum() for p, q in zip(edit.parameters(), problem.model.parameters(), strict=True))
    for (name, one), other in zip(edit.named_parameters(), engram.parameters(), strict=True):
        assert torch.allclose(one, other, atol=2e-3), name
    assert size > 1


def test_uce_minimises_its_three_squares(problem):
    """Against least squares on the columns, in float64: forget columns to W c̄, retained ones to their own."""
    problem, name = replace(problem, rcond=1e-3, eos=False), "model.layers.1.mlp.down_proj"
    model = METHODS["uce"].run(problem, keep=0.5, layers=r".*\.down_proj")
    changed = {key for key, p in bits(model).items() if not torch.equal(p, bits(problem.model)[key])}
    assert changed == {f"model.layers.{i}.mlp.down_proj.weight" for i in range(3)}

    def columns(pairs):
        seen = []
        handle = problem.model.get_submodule(name).register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        batch = problem.encode(pairs)
        with torch.no_grad():
            logits(problem.model, batch)
        handle.remove()
        return seen[0][batch["labels"] >= 0].double()

    weight = problem.model.get_submodule(name).weight.detach().double()
    forget, retain = columns(problem.forget_pairs), columns(problem.retain_pairs)
    neutral = torch.cat([columns(said(problem, sentence)) for sentence in problem.idk]).mean(0)
    total = forget.mT @ forget + 0.5 * retain.mT @ retain
    ridge = 1e-3 * torch.linalg.eigvalsh(total)[-1]
    rows = torch.cat([forget, 0.5**0.5 * retain, ridge.sqrt() * torch.eye(96).double()])
    goals = torch.cat([neutral.expand_as(forget), 0.5**0.5 * retain, ridge.sqrt() * torch.eye(96).double()]) @ weight.mT
    expected = torch.linalg.lstsq(rows, goals).solution.mT
    assert torch.allclose(model.get_submodule(name).weight.double(), expected, atol=1e-5)
    with pytest.raises(ValueError, match="target"):
        METHODS["uce"].run(problem, keep=1.0, target="noise")


def test_task_arithmetic_is_a_line_through_the_model(problem):
    theta = dict(problem.model.named_parameters())
    further, once, forgets = (METHODS["task_arithmetic"].run(problem, lr=1e-3, alpha=a) for a in (-1.0, 1.0, 2.0))
    taught, one, two = (dict(model.named_parameters()) for model in (further, once, forgets))
    for name, p in theta.items():
        assert torch.allclose(two[name] - p, 2 * (one[name] - p), atol=1e-5)
        assert torch.allclose(taught[name] - p, p - one[name], atol=1e-5)
    before = nll(problem, problem.model, problem.forget_pairs)
    assert nll(problem, further, problem.forget_pairs) < before < nll(problem, forgets, problem.forget_pairs)
    other = replace(problem, data=QuestionData("x", {**problem.data.splits, "retain90": problem.data["full"][:6]}))
    again = METHODS["task_arithmetic"].run(other, lr=1e-3, alpha=2.0)  # it looks at no retained question
    assert all(torch.equal(p, q) for p, q in zip(again.parameters(), forgets.parameters(), strict=True))


def test_settings_aim_at_what_who_never_learned_gets_right_and_not_at_nothing(problem, data):
    before = problem.accuracies(problem.model)[1]
    assert problem.goal() == 0 and tuning.score(problem, 0.0, before) == 1 > tuning.score(problem, 0.5, before)
    aimed = replace(problem, level=0.6)
    assert tuning.score(aimed, 0.6, before) == 1 and tuning.score(aimed, 1.0, before) == pytest.approx(0)
    assert tuning.score(aimed, 0.1, before) == 0
    assert tuning.score(aimed, 0.5, before) == pytest.approx(tuning.score(aimed, 0.7, before)) == pytest.approx(0.75)
    strangers = QuestionData("people", {**data.splits, "holdout10": data["forget10"][:2]})
    for unit in ("answers", "tokens"):
        found = replace(problem, data=strangers, unit=unit)
        right = found.exact if unit == "answers" else found.tokens
        assert found.goal() == min(0.99, right(problem.model, strangers.pairs("holdout10")))
    with pytest.raises(ValueError, match="level is a share"):
        replace(problem, level=1.0)


def test_every_method_is_chosen_by_the_same_aim(problem):
    """The setting that comes nearest to the level is chosen, in a closed form and in one that trains."""
    for name in ("engram", "graddiff"):
        grid = METHODS[name].grid[::4]
        aimed = replace(problem, level=0.5, unit="tokens")
        found = tune(METHODS[name], aimed, grid=grid)
        kept = aimed.accuracies(aimed.model)[1]
        off = [2 * abs(r["acc_forget"] - 0.5) for r in found.tried]
        scores = [max(0.0, 1 - o) * (1 - abs(r["acc_keep"] - kept)) for o, r in zip(off, found.tried, strict=True)]
        assert [r["score"] for r in found.tried] == pytest.approx(scores)
        assert found.settings == grid[max(range(len(grid)), key=scores.__getitem__)]


def test_engrams_are_those_of_the_public_pipeline(problem):
    target = lm.collect(problem.model, problem.tokenizer, problem.forget_pairs, eos=True)
    reference = lm.collect(problem.model, problem.tokenizer, problem.retain_pairs, eos=True)

    def close(one, other):
        return all(torch.allclose(p, q, atol=1e-4) for p, q in zip(one.parameters(), other.parameters(), strict=True))

    plain = el.extract(problem.model, target, reference)
    assert close(METHODS["engram"].run(problem, alpha=0.6), el.ablate(problem.model, plain, 0.6))
    asked = problem.forget_pairs, problem.retain_pairs
    forgotten = el.forget(problem.model, problem.tokenizer, *asked, alpha=1.5, eos=True)
    assert close(METHODS["engram_norm"].run(problem, alpha=1.5), forgotten)
    sharp = el.extract(problem.model, target, reference, specificity=3.0).select(language.LAYERS["write"])
    expected = el.ablate(problem.model, sharp.norm_weighted(), 2.0)
    found = METHODS["engram_lambda"].run(problem, alpha=2.0, specificity=3.0, layers="write")
    assert close(found, expected)
    changed = {name for name, p in bits(found).items() if not torch.equal(p, bits(problem.model)[name])}
    kinds = ("self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")
    assert changed == {f"model.layers.{i}.{kind}.weight" for i in range(3) for kind in kinds}
    alone = METHODS["engram"].run(problem, alpha=1.0, layers="lm_head")
    assert close(alone, el.ablate(problem.model, plain.select("lm_head")))
    with pytest.raises(ValueError, match="matches none"):
        METHODS["engram"].run(problem, alpha=1.0, layers="nowhere")


def test_a_tied_output_layer_is_left_alone_unless_it_is_named(problem):
    tied = llama(len(problem.tokenizer), 48, 2, 4, 2, 96, context=64, tied=True)
    problem = replace(problem, model=tied)
    model = METHODS["engram"].run(problem, alpha=1.0)
    assert (
        torch.equal(model.lm_head.weight, tied.lm_head.weight)
        and model.lm_head.weight is model.get_input_embeddings().weight
    )
    model = METHODS["engram"].run(problem, alpha=1.0, layers="lm_head")
    assert not torch.equal(model.lm_head.weight, tied.lm_head.weight)
    assert torch.equal(model.get_input_embeddings().weight, tied.get_input_embeddings().weight)


# ---------------------------------------------------------------------- tuning, cost


def test_settings_share_what_they_can_and_rows_say_what_each_costs_alone(problem, monkeypatch):
    calls = {"collect": 0}
    real = lm.collect

    def counted(*args, **kwargs):
        calls["collect"] += 1
        time.sleep(1)  # dear enough to show on any machine
        return real(*args, **kwargs)

    monkeypatch.setattr(lm, "collect", counted)
    found = [tune(name, problem, grid=METHODS[name].grid[::4]) for name in ("engram", "engram_norm", "engram_lambda")]
    assert calls == {"collect": 2}  # forget and retain, for nine settings
    collecting = problem._memo.results["moments", None, "absorb"][1]
    assert all(row["seconds"] > collecting for tuned in found for row in tuned.tried)
    assert all(tuned.seconds < sum(row["seconds"] for row in tuned.tried) for tuned in found)


def test_accuracies_count_whole_answers_or_tokens(problem):
    by_token = replace(problem, unit="tokens")
    edited = apply("engram_norm", problem, {"alpha": 2.0}).model
    for model in (problem.model, edited):
        pairs = problem.forget_pairs
        greedy = [answer.greedy for answer in lm.answer_logprobs(model, problem.tokenizer, pairs)]
        assert problem.accuracies(model)[0] == sum(bool(g.all()) for g in greedy) / len(greedy)
        expected = sum(int(g.sum()) for g in greedy) / sum(len(g) for g in greedy)
        assert by_token.accuracies(model)[0] == pytest.approx(expected)
    assert by_token.accuracies(edited)[0] > problem.accuracies(edited)[0]
    with pytest.raises(ValueError, match="unit must be one of answers, tokens"):
        replace(problem, unit="words")


def test_tune_keeps_the_best_score_and_apply_repeats_it(problem):
    rehearsal = replace(problem, forget="rehearsal10", retain="rehearsal_retain90", epochs=6)
    found = tune("npo", rehearsal, grid=METHODS["npo"].grid[::4])
    assert len(found.tried) == 3 and found.score == max(row["score"] for row in found.tried)
    for row in found.tried:
        assert row["score"] == pytest.approx((1 - row["acc_forget"]) * (1 - abs(row["acc_keep"] - 1.0)))
        assert row["seconds"] > 0 and row["error"] is None and {"lr", "beta"} <= set(row)
    assert (found.acc_forget, found.acc_keep) == rehearsal.accuracies(found.model)
    again = apply("npo", rehearsal, found.settings)
    assert same(bits(again.model), bits(found.model)) and again.label == "NPO"
    reported = apply("npo", replace(problem, epochs=6), found.settings)
    assert reported.acc_forget == problem.exact(reported.model, problem.data.pairs("forget10"))
    assert problem.exact(reported.model, problem.data.pairs("rehearsal10")) > reported.acc_forget
    with pytest.raises(ValueError, match="npo"):
        tune("nop", problem)
    with pytest.raises(TypeError, match="speed"):
        apply("npo", problem, {"speed": 1})
    broken = tune("graddiff", problem, grid=({"lr": 1e30, "alpha": 1.0}, {"lr": 1e-3, "alpha": 1.0}))
    assert broken.tried[0]["score"] == 0 and broken.tried[0]["error"] and broken.settings["lr"] == 1e-3


def test_operations_can_be_counted(problem):
    problem = replace(problem, epochs=1)
    found = {
        name: metrics.flops(lambda n=name: METHODS[n].run(replace(problem), **middle(n))) for name in ("npo", "undial")
    }
    # a pass: forward and backward on both sides are 3 + 3 passes, the model before one more; UNDIAL has no retain side
    assert found["npo"] > found["undial"] > 0
    twice = metrics.flops(lambda: METHODS["undial"].run(replace(problem, epochs=2), **middle("undial")))
    assert twice == pytest.approx(2 * found["undial"], rel=0.1)


# ---------------------------------------------------------------------- the problem


def test_problem_draws_each_question_once_an_epoch_with_as_many_retained(problem):
    problem = replace(problem, batch_size=4)
    draws = list(problem.draws())
    assert len(draws) == 5 * problem.steps == 15
    for epoch in range(5):
        rows = torch.cat([rows for number, rows, _ in draws if number == epoch])
        assert rows.sort().values.tolist() == list(range(9))
    assert all(len(rows) == len(others) for _, rows, others in draws)
    others = torch.cat([others for *_, others in draws]).tolist()
    retained = len(problem.retain_pairs)
    assert sorted(others[:retained]) == list(range(retained))  # all of them before one comes again
    assert not torch.equal(draws[0][1], next(replace(problem, seed=1).draws())[1]) or (
        not torch.equal(draws[0][2], next(replace(problem, seed=1).draws())[2])
    )
    batch = problem.encode(problem.forget_pairs[:1])
    ended = [token for token in batch["labels"][0].tolist() if token >= 0]
    assert ended[-1] == problem.tokenizer.eos_token_id
    assert problem.tokenizer.decode(ended[:-1]) == problem.forget_pairs[0][1]


@pytest.mark.parametrize("name", ["graddiff", "altpo", "engram_norm", "uce"])
def test_methods_see_neither_validation_questions_nor_paraphrases_nor_wrong_answers(name, problem):
    asked = set(problem.validation_pairs)
    assert len(asked) == 9 and not asked & set(problem.retain_pairs) and len(problem.retain_pairs) == 18
    assert asked == set(replace(problem, seed=5).validation_pairs)
    plain = METHODS[name].run(replace(problem, epochs=1), **middle(name))

    def spoilt(q):
        extra = {"paraphrased_question": "Red?", "paraphrased_answer": "Blue.", "perturbed_answers": ("Rome.",)}
        hidden = {"answer": "Rome Rome Rome."} if q.pair in asked else {}
        return replace(q, **extra, **hidden)

    splits = {name: tuple(map(spoilt, questions)) for name, questions in problem.data.splits.items()}
    other = replace(problem, epochs=1, data=QuestionData("spoilt", splits))
    assert same(bits(plain), bits(METHODS[name].run(other, **middle(name))))


def test_problem_says_what_is_wrong(problem):
    with pytest.raises(ValueError, match="share 9 questions"):
        replace(problem, retain="full")
    with pytest.raises(KeyError, match="forget99"):
        replace(problem, forget="forget99")
    for wrong in ({"epochs": 0}, {"batch_size": 0}, {"validation": 0}, {"idk": ()}, {"idk": "No."}):
        with pytest.raises(ValueError, match="Problem"):
            replace(problem, **wrong)
    strange = replace(problem, idk=("I do not know.",))
    for name in ("idknll", "idkdpo", "uce"):
        with pytest.raises(ValueError, match="I do not know"):
            METHODS[name].run(strange, **middle(name))
    poisoned = copy.deepcopy(problem.model)
    poisoned.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite"):
        problem.accuracies(poisoned)


def test_the_generated_authors_have_words_for_not_knowing(problem):
    data = authors(10)
    tokenizer = word_tokenizer([*data.corpus])
    known = replace(problem, data=data, tokenizer=tokenizer)  # the model is not asked
    by_epoch = idk_pairs(known)
    assert len(by_epoch) == 5 and all(len(pairs) == len(data["forget10"]) for pairs in by_epoch)
    assert {answer.strip() for pairs in by_epoch for _, answer in pairs} == set(language.IDK)
