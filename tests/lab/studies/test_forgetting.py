"""The comparison of chapter 13 on a tiny Llama and forty authors, start to end."""

from dataclasses import replace

import pytest
import torch

from engramlib.lab import models
from engramlib.lab.data import authors
from engramlib.lab.records import runs
from engramlib.lab.studies import forgetting as study
from engramlib.lab.studies import trained
from engramlib.lab.training import language as language_training
from engramlib.lab.unlearning import text as unlearning

pytest.importorskip("transformers")
ALL = study.ENTRANTS
FEW = ("full", "retain", "graddiff", "uce", "engram_norm_1", "engram_norm")


@pytest.fixture(scope="module")
def tiny():
    """(data, what `trained.load` gives for each kind): "full" saw the forget set, "retain" did not."""
    data = authors(40, per_author=2)
    tokenizer = models.word_tokenizer(data.corpus)
    sizes = {"hidden": 32, "layers": 2, "heads": 2, "kv_heads": 1, "intermediate": 64, "context": 128, "tied": True}

    def fit(split):
        model = models.llama(len(tokenizer), **sizes)
        facts = data.pairs("world_facts")[:10]
        language_training.train(model, tokenizer, data.pairs(split) + facts, epochs=25, lr=1e-2, batch_size=16, seed=0)
        return model

    return (
        data,
        tokenizer,
        {"full": fit("full"), "retain": fit("retain90"), "pretrained": models.llama(len(tokenizer), **sizes)},
    )


@pytest.fixture
def lab(tiny, monkeypatch, tmp_path):
    data, tokenizer, known = tiny
    few = {
        role: questions[:6] if role in ("real_authors", "world_facts", "retain_eval") else questions
        for role, questions in data.splits.items()
    }
    monkeypatch.setattr(trained, "questions", lambda settings: replace(data, splits=few))
    monkeypatch.setattr(trained, "load", lambda kind, seed, data: (known[kind], tokenizer))
    entrants = {name: study.ENTRANTS[name] for name in FEW}
    entrants["graddiff"] = replace(entrants["graddiff"], grid=entrants["graddiff"].settings[:2])
    monkeypatch.setattr(study, "ENTRANTS", entrants)
    monkeypatch.setattr(study, "PLACES", {"all": study.PLACES["all"], "Q/K": study.PLACES["Q/K"]})
    monkeypatch.setattr(runs, "_folder", lambda given: tmp_path)
    return tmp_path


@pytest.fixture
def setting():
    return replace(study.AUTHORS, problem={"epochs": 1, "batch_size": 8, "validation": 20}, shown=2)


def test_recorded_run_has_every_entrant_and_seed(lab, setting):
    study.record(setting, seeds=range(2))
    run = runs.load("authors-forgetting", folder=lab)
    assert {(r["method"], r["seed"]) for r in run.where(study="methods")} == {(n, s) for n in FEW for s in (0, 1)}
    full, retain = ({r["method"]: r for r in run.where(study="methods", seed=0)}[name] for name in ("full", "retain"))
    assert full["Mem"] < 1e-9 and full["Util"] == pytest.approx(1) and retain["Mem"] == retain["Priv"] == 1
    tuning = run.where(study="tuning", method="engram_norm")
    assert len(tuning) == 9 and sum(r["chosen"] for r in tuning) == 1
    best = max(tuning, key=lambda r: r["score"])
    used = [r["settings"] for r in run.where(study="methods", method="engram_norm")]
    assert used == [best["settings"]] * 2 and set(used[0]) == {"alpha"}  # chosen on the rehearsal of seed 0, for all
    assert {r["goal"] for r in tuning} == {tuning[0]["goal"]} and 0 <= tuning[0]["goal"] < 1
    alphas = [r["settings"]["alpha"] for r in tuning]
    at_edge = best["settings"]["alpha"] in (min(alphas), max(alphas))
    assert bool(best["edges"]) == at_edge and all(not r["edges"] for r in tuning if not r["chosen"])
    (row,) = run.where(study="methods", method="graddiff", seed=1)
    assert (
        row["settings"]["epochs"] == run.where(study="tuning", method="graddiff", chosen=True)[0]["settings"]["epochs"]
    )
    assert row["passes"] >= row["trained_passes"] > 0 and row["seconds"] > 0
    assert all(r["passes"] > 0 == r["trained_passes"] for r in run.where(study="methods", method="engram_norm"))
    said = run.where(study="said", method="full", role="forget", seed=0)
    assert len(said) == 2 and all(r["said"] for r in said)


def test_the_references_are_evaluated_once(lab, setting, monkeypatch):
    asked, evaluate = [], study.benchmark.evaluate
    monkeypatch.setattr(study.benchmark, "evaluate", lambda m, *rest: asked.append(m) or evaluate(m, *rest))
    study.record(replace(setting, entrants=("full", "retain", "engram_norm_1")), seeds=range(1))
    assert len(asked) == 3 == len({id(m) for m in asked})


def test_some_entrants_can_be_recorded_alone(lab, setting):
    study.record(setting, seeds=range(1), entrants=("full", "engram_norm_1"))
    rows = runs.load("authors-forgetting", folder=lab).rows
    assert {row["method"] for row in rows if row["study"] == "methods"} == {"full", "engram_norm_1"}
    with pytest.raises(ValueError, match="'nobody' is none of"):
        study.record(setting, seeds=range(1), entrants=("nobody",))


def test_only_the_table_of_methods_has_entrants(capsys):
    with pytest.raises(SystemExit):
        study.main(["--record", "--entrants", "uce", "--places"])
    assert "only the table of methods" in capsys.readouterr().err


def test_a_setting_may_name_its_entrants(lab, setting):
    study.record(replace(setting, entrants=("retain", "uce")), seeds=range(1))
    run = runs.load("authors-forgetting", folder=lab)
    assert [r["method"] for r in run.where(study="methods")] == ["retain", "uce"]
    assert {r["method"] for r in run.where(study="tuning")} == {"uce"}


def test_a_setting_may_bring_its_own_grids_cuts_and_strengths(lab, setting):
    own = replace(
        setting,
        entrants=("engram_norm",),
        grids={"engram_norm": ({"alpha": 0.25}, {"alpha": 0.75})},
        cuts=(1e-6, 1e-2),
        strengths={"max": (1.0,), "median": (), "uniform": (0.5, 2.0)},
    )
    study.record(own, seeds=range(1))
    run = runs.load("authors-forgetting", folder=lab)
    assert [r["settings"] for r in run.where(study="tuning")] == [{"alpha": 0.25}, {"alpha": 0.75}]
    assert run.where(study="methods")[0]["settings"]["alpha"] in (0.25, 0.75)
    rows = study.cuts(study.case(own, 0))
    assert {r["cut"] for r in rows} == {1e-6, 1e-2, study.BY_WIDTH}
    assert [(r["shared"], r["alpha"]) for r in rows[:3]] == [("max", 1.0), ("uniform", 0.5), ("uniform", 2.0)]


def test_the_published_model_has_three_tries_for_every_method_that_chooses():
    setting = study.SMOLLM2
    for name in setting.entrants:
        entrant = study.ENTRANTS[name]
        fixed = entrant.method is None or name in ("engram_06", "engram_norm_1")
        assert fixed or len(setting.grids[name]) == 3, name
        if entrant.method is not None:
            knobs = unlearning.METHODS[entrant.method].grid[0].keys()
            assert all(knobs >= tried.keys() or "layers" in tried for tried in setting.grids.get(name, ()))


def test_the_second_round_has_as_many_settings_all_beyond_the_first(lab, setting):
    for entrant in study.SECOND_ROUND.values():
        knob, sign = ("keep", -1) if entrant.method == "uce" else ("alpha", 1)  # UCE is strongest where it keeps least

        def strengths(grid, knob=knob, sign=sign):
            found = {}
            for s in grid:
                found.setdefault(tuple(s[key] for key in s if key != knob), []).append(sign * s[knob])
            return found

        first, second = strengths(study.unlearning.METHODS[entrant.method].grid), strengths(entrant.settings)
        assert len(entrant.settings) == 9 and first.keys() == second.keys()
        assert all(min(second[key]) > max(first[key]) for key in first)
    study.record_second_round(setting, seeds=range(1))
    run = runs.load("authors-second-round", folder=lab)
    assert [r["method"] for r in run.where(study="methods")] == list(study.SECOND_ROUND)
    assert all(sum(r["chosen"] for r in run.where(study="tuning", method=name)) == 1 for name in study.SECOND_ROUND)


def test_recorded_places_have_the_chosen_strength_and_an_equal_norm(lab, setting):
    study.record_places(setting, seeds=range(2))
    run = runs.load("authors-places", folder=lab)
    (alpha,) = {r["alpha"] for r in run.where(study="places")}
    assert [r["settings"] for r in run.where(study="tuning", chosen=True)] == [{"alpha": alpha}]
    places = {(r["edit"], r["place"], r["scaled"]): r for r in run.where(study="places", seed=1)}
    assert {(edit, place) for edit, place, _ in places} == {
        ("tabula rasa", "all"),
        ("tabula rasa", "Q/K"),
        ("naive delta", "all"),
    }
    whole = places["tabula rasa", "all", False]["norm"]
    assert places["tabula rasa", "Q/K", False]["norm"] < whole
    assert places["tabula rasa", "Q/K", True]["norm"] == pytest.approx(whole)


def test_recorded_cuts_are_edits_of_their_own_cut_and_early_models_are_less_sure(lab, setting, monkeypatch):
    setting = replace(setting, cuts=(1e-6, 1e-2))
    monkeypatch.setattr(study, "TYPICAL", 1e-2)
    monkeypatch.setattr(study, "EARLY", (1, 6))
    sizes = {"hidden": 32, "layers": 2, "heads": 2, "kv_heads": 1, "intermediate": 64, "context": 128, "tied": True}
    monkeypatch.setitem(trained.SETTINGS, "authors", replace(trained.AUTHORS, sizes=sizes))
    study.record_cuts(setting, seeds=range(1))
    run = runs.load("authors-cuts", folder=lab)
    rows = run.where(study="cuts")
    ways = {(shared, alpha) for shared, alphas in study.STRENGTHS.items() for alpha in alphas}
    assert {(r["cut"], r["shared"], r["alpha"]) for r in rows} == {
        (cut, *way) for cut in (1e-6, 1e-2, study.BY_WIDTH) for way in ways
    }
    problem = study.case(setting, 0).problem()
    plus, minus = problem.moments(None)
    for cut, engram in study.by_cut(problem, setting.cuts).items():
        for name in engram:  # layer by layer, with the number that the rule gives for its width
            own = plus[name].shape[-1] * study.EPSILON if cut == study.BY_WIDTH else cut
            alone = study.el.extract(problem.model, plus.select([name]), minus.select([name]), rcond=own)
            torch.testing.assert_close(alone[name].weight, engram[name].weight, rtol=1e-3, atol=1e-5)
    (row,) = run.where(study="cuts", cut=1e-2, shared="max", alpha=2.0)
    change = study.by_cut(problem, setting.cuts)[1e-2].norm_weighted()
    assert (row["left"], row["kept"]) == problem.accuracies(study.el.ablate(problem.model, change, 2.0))
    early, late = ({r["nll"] for r in run.where(study="certainty", epochs=epochs)} for epochs in (1, 6))
    assert len(early) == len(late) == 1 and min(early) > max(late) + 0.2


def test_recorded_maps_are_of_the_model_and_the_target_they_name(lab, setting):
    study.record_maps(setting, seeds=range(1))
    run = runs.load("authors-maps", folder=lab)
    problem = study.case(setting, 0).problem(rehearsal=True)
    norms = study.extracted(problem, 1.0, "all").relative_norms()
    rows = run.where(model="full", target="rehearsal10", cut=1e-6)
    assert {r["layer"]: r["r"] for r in rows} == pytest.approx(norms, rel=1e-4)
    assert all(0 < r["share_others"] < 1 and 0 < r["share_target"] < 1 for r in run.rows)
    maps = {(r["model"], r["target"], r["cut"]) for r in run.rows}
    assert len(run.rows) == len(maps) * len(norms) and len(maps) == 2 * 4
    untold = {r["layer"]: r["r"] for r in run.where(model="retain", target="forget10", cut=1e-6)}
    told = {r["layer"]: r["r"] for r in run.where(model="full", target="forget10", cut=1e-6)}
    assert untold != pytest.approx(told, rel=1e-4)


def test_recorded_controls_are_as_large_as_the_chosen_engram(lab, setting, monkeypatch):
    """Equal in the weights or on the data, layer by layer; other authors' engram is another edit of the same size."""
    monkeypatch.setattr(study, "CONTROLLED", ("engram_norm_1", "engram_norm"))
    with pytest.raises(FileNotFoundError, match="authors-forgetting"):
        study.record_controls(setting, seeds=range(2))
    study.record(replace(setting, entrants=("engram_norm_1", "engram_norm")), seeds=range(1))
    study.record_controls(setting, seeds=range(2))
    run = runs.load("authors-controls", folder=lab)
    assert len(run.rows) == 2 * 2 * 8 and {r["study"] for r in run.rows} == {"controls"}
    (chosen,) = runs.load("authors-forgetting", folder=lab).where(study="tuning", method="engram_norm", chosen=True)
    rows = run.where(method="engram_norm", seed=1)
    assert all(r["settings"] == chosen["settings"] for r in rows)
    size = {(r["edit"], r["draw"]): r["norm"] for r in rows}
    assert size["random, equal norm", 0] == pytest.approx(size["engram", None], rel=1e-5)
    assert size["other authors", None] == pytest.approx(size["engram", None], rel=1e-5)
    parts = size["largest layer", None], size["all but the largest", None]
    assert sum(part**2 for part in parts) == pytest.approx(size["engram", None] ** 2, rel=1e-5) and min(parts) > 0
    assert size["random, equal effect", 0] != pytest.approx(size["random, equal effect", 1], rel=1e-9)
    problem = study.case(setting, 1).problem()
    change = chosen["settings"]["alpha"] * study.extracted(problem, 1.0, "all").norm_weighted()
    (own,) = run.where(method="engram_norm", seed=1, edit="engram")
    assert (own["left"], own["kept"]) == problem.accuracies(study.edited(problem, change))


def test_shares_of_target_and_others_are_one_pass_split_in_two(lab, setting, monkeypatch):
    """What the engrams of both sides take together is all there is: W⁺ + W⁻ = W on the data."""
    brief = replace(trained.AUTHORS.finetune, epochs=1)
    sizes = {"hidden": 32, "layers": 2, "heads": 2, "kv_heads": 1, "intermediate": 64, "context": 128, "tied": True}
    monkeypatch.setitem(study.ENTRANTS, "engram_lambda", ALL["engram_lambda"])
    monkeypatch.setitem(trained.SETTINGS, "authors", replace(trained.AUTHORS, sizes=sizes, finetune=brief))
    study.record_shares(setting, seeds=range(1))
    run = runs.load("authors-shares", folder=lab)
    problem = study.case(setting, 0).problem()
    plus, minus = problem.moments(None)
    mirrored = study.share_taken(problem.model, study.el.extract(problem.model, minus, plus, rcond=problem.rcond), plus)
    rows = run.where(study="shares", start="plain text")
    assert len(rows) == len(mirrored) == len(run.where(study="shares", start="nothing"))
    for r in rows:
        assert r["target"] == pytest.approx(1 - mirrored[r["layer"]], abs=1e-3) and r["target"] > r["others"]
    knows = {start: run.where(study="knows", start=start)[0]["exact"] for start in ("plain text", "nothing")}
    assert knows["nothing"] < 0.1 < 0.2 < knows["plain text"]  # one epoch from fresh weights is too little
    assert all(len(run.where(study="tuning", start=start)) == 9 for start in knows)


def test_all_places_at_once_are_the_whole_edit(lab, setting):
    """ "all" of the study "places" is the entrant α_W-Norm at α = 1, found on another way."""
    case = study.case(setting, 0)
    whole = next(r for r in study.places(case) if (r["edit"], r["place"]) == ("tabula rasa", "all"))
    (row,) = (r for r in study.forget(case, "engram_norm_1", {"alpha": 1.0}) if r["study"] == "methods")
    for name in ("Mem", "exact", "loss", "retain loss"):
        assert whole[name] == pytest.approx(row[name], rel=1e-4), name


def test_a_recording_resumes_after_the_last_entrant(lab, setting, monkeypatch):
    seen = []
    forget = study.forget

    def breaks(case, name, settings):
        seen.append((name, case.seed))
        if name == "uce" and seen.count(("uce", 0)) == 1:
            raise KeyboardInterrupt
        return forget(case, name, settings)

    monkeypatch.setattr(study, "forget", breaks)
    with pytest.raises(KeyboardInterrupt):
        study.record(setting, seeds=[0])
    study.record(setting, seeds=[0])
    assert seen.count(("full", 0)) == seen.count(("graddiff", 0)) == 1 and seen.count(("uce", 0)) == 2


def test_models_that_are_not_trained_are_an_error_that_says_how(monkeypatch, tmp_path):
    monkeypatch.setenv("ENGRAM_CHECKPOINTS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="studies trained --record --data tofu"):
        study.case("tofu", 0, data=authors(20, per_author=1))
