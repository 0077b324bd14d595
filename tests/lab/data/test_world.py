"""Facts of the world: splits share nothing, and nothing to forget is among what is kept."""

import json

import pytest

from engramlib.lab.data import DatasetUnavailable, open_text, world


@pytest.fixture(scope="module", params=list(world.CONCEPTS))
def concept(request):
    return world.CONCEPTS[request.param], world.sets(request.param)


def prompts(items):
    return {item if isinstance(item, str) else item[0] for item in items}


def test_splits_share_no_prompt(concept):
    _, sets = concept
    for part, splits in sets.items():
        for one, other in (("used", "validation"), ("used", "held_out"), ("validation", "held_out")):
            assert not prompts(splits[one]) & prompts(splits[other]), part


def test_what_is_kept_has_no_fact_of_what_goes(concept):
    own, sets = concept
    for part in ("near", "other"):
        for items in sets[part].values():
            assert all(answer.strip() != own.answer for _, answer in items), part
    assert all(
        answer == f" {own.answer}" for part in ("target", "unseen") for s in sets[part].values() for _, answer in s
    )


def test_held_out_neighbours_are_new_in_answer_and_in_words(concept):
    own, sets = concept
    relations = {fact.prompt: fact for relation in own.relations for fact in world.facts(relation)}
    answers = {
        split: {(relations[prompt].relation, answer) for prompt, answer in sets["near"][split]}
        for split in world.SPLITS
    }
    assert not answers["used"] & answers["held_out"] and not answers["validation"] & answers["held_out"]
    assert {relations[prompt].split for prompt, _ in sets["near"]["held_out"]} == {"held_out"}


def test_held_out_facts_are_the_used_ones_in_other_words_and_unseen_ones_are_not(concept):
    own, sets = concept
    subject = {fact.prompt: (fact.relation, fact.subject) for r in own.relations for fact in world.facts(r)}
    used = {subject[prompt] for prompt, _ in sets["target"]["used"]}
    assert {subject[prompt] for prompt, _ in sets["target"]["held_out"]} == used
    assert not {subject[prompt] for prompt, _ in sets["unseen"]["held_out"]} & used


def test_there_is_enough_of_everything(concept):
    _, sets = concept
    least = {"target": 15, "near": 30, "other": 60, "text": 12, "senses": 2, "unseen": 5}
    for part, count in least.items():
        for split in ("validation", "held_out"):
            smaller = count if (part, split) != ("unseen", "validation") else 4
            assert len(sets[part][split]) >= smaller, (part, split)
    assert len(sets["target"]["used"]) >= 30 and len(sets["near"]["used"]) >= 63


def test_items_are_pairs_whose_answer_brings_its_space(concept):
    _, sets = concept
    for part, splits in sets.items():
        for items in splits.values():
            for item in items:
                if part == "text":
                    assert isinstance(item, str) and item.endswith(".")
                else:
                    assert item[1].startswith(" ") and not item[0].endswith(" ") and item[0][0] == item[0][0].upper()


def test_at_least_five_kinds_of_concepts_and_two_cities():
    kinds = [concept.kind for concept in world.CONCEPTS.values()]
    assert len(set(kinds)) >= 5 and kinds.count("a city") >= 2


def test_fewer_neighbours_are_spread_over_the_list():
    every, few = (world.sets("Paris", near=near)["near"]["used"] for near in (None, 22))
    assert len(few) == 22 and set(few) <= set(every) and every.index(few[-1]) > 0.9 * len(every)
    assert world.sets("Paris", near=10**6)["near"]["used"] == every
    assert [len(world.sets("Paris", rest=5)[part]["used"]) for part in ("other", "text")] == [5, 5]


def test_an_unknown_concept_or_relation_is_named():
    with pytest.raises(ValueError, match="Paris"):
        world.sets("Atlantis")
    with pytest.raises(ValueError, match="sights"):
        list(world.facts("rumours"))


def test_the_fingerprint_is_that_of_the_facts(monkeypatch):
    before = world.fingerprint()
    assert world.fingerprint() == before
    monkeypatch.setattr(world, "SINGLE", world.SINGLE[1:])
    assert world.fingerprint() != before


# ----------------------------------------------------------------------------------------------- what others published


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Small files of the published forms, where `ENGRAM_DATA` says."""
    monkeypatch.setenv("ENGRAM_DATA", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "text"
    folder.mkdir()
    known = [{"prompt": f"Fact {k} is in", "attribute": "Rome"} for k in range(20)]
    known.append({"prompt": "The Eiffel Tower is in", "attribute": "Paris"})
    rewrite = {"prompt": "The tongue of {} is", "subject": "Ann", "target_true": {"str": "French"}}
    flat = {"prompt": "The tongue of Bob is", "ground_truth": "English"}
    (folder / "known_1000.json").write_text(json.dumps(known))
    (folder / "counterfact.json").write_text(json.dumps([{"requested_rewrite": rewrite}, flat]))
    for split in ("valid", "test"):
        lines = [f" = Heading {k} = \n {split} {k} {'word ' * 60}" for k in range(30)]
        (folder / f"wikitext-2-{split}.txt").write_text("\n".join(lines))
    return folder


def test_both_forms_of_counterfact_are_read(published):
    assert open_text.counterfact() == [("The tongue of Ann is", " French"), ("The tongue of Bob is", " English")]
    assert len(open_text.wikitext2("test")) == 30 and all("Heading" not in text for text in open_text.wikitext2())


def test_published_facts_join_the_others_and_none_is_about_the_concept(published):
    own, more = world.sets("Paris"), world.sets("Paris", public=True)
    added = [pair for split in world.SPLITS for pair in more["other"][split][len(own["other"][split]) :]]
    assert len(added) == 22 and all("Paris" not in "".join(pair) for pair in added)
    assert all(text.startswith("test") for text in more["text"]["held_out"][len(own["text"]["held_out"]) :])
    assert not set(more["text"]["used"]) & set(more["text"]["validation"])


def test_what_cannot_be_had_is_an_error_that_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("ENGRAM_DATA", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setitem(open_text.HOMES, "known_1000.json", "http://127.0.0.1:9/known_1000.json")
    with pytest.raises(DatasetUnavailable, match="ENGRAM_DATA"):
        open_text.known_1000()
    (tmp_path / "known_1000.json").write_text("not JSON")
    with pytest.raises(DatasetUnavailable, match="fetched again"):
        open_text.known_1000()
    with pytest.raises(ValueError, match="valid or test"):
        open_text.wikitext2("train")
