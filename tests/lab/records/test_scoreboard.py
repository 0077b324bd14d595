import json
import math
import re
import shutil
from pathlib import Path

import pytest

from engramlib.lab.records import published, runs, scoreboard
from engramlib.lab.records.scoreboard import Value, value
from engramlib.lab.teaching import chapter

ROOT = Path(__file__).resolve().parents[3]
SPECS = json.loads((runs.data_dir() / "scoreboard.json").read_text(encoding="utf-8"))["objects"]
ROWS = [(spec, row) for spec in SPECS for row in spec.get("rows", ())]


def entry(*rows, results=None, folder=None, **facts):
    spec = {"id": "x", "covers": ["Fig. 0"], "title": "t", "group": "g", "chapter": "98", "rows": list(rows), **facts}
    return scoreboard._entry(spec, results or {}, folder)


def row(laptop=None, **spec):
    return {"what": "left", "laptop": "left", **spec}


# ---------------------------------------------------------------------------------------------------------- the file


def test_every_figure_and_table_of_the_paper_is_there_once():
    covered = [name for spec in SPECS for name in spec["covers"]]
    assert len(covered) == len(set(covered))
    wanted = {f"Fig. {k}" for k in range(1, 19)} | {f"Table {k}" for k in range(1, 10)}
    assert wanted | {"App. D", "App. F", "App. G", "arXiv:2607.24805", "Suppression audit"} <= set(covered)
    assert len({spec["id"] for spec in SPECS}) == len(SPECS)
    assert all(re.fullmatch(r"[a-z0-9]+", spec["id"]) for spec in SPECS)  # they become anchors


def test_no_result_is_typed_in():
    """Numbers in the file are bounds, tolerances, digits and settings of rows; verdicts by argument have none."""
    for spec in SPECS:
        for text in (spec.get("note", ""), spec.get("note_stand_in", ""), spec.get("verdict", {}).get("why", "")):
            assert not re.findall(r"(?<![\w.=] )(?<![\w.])\d*\.\d{2,}", text), (spec["id"], text)
    for spec, r in ROWS:
        plain = {k for k, v in r.items() if isinstance(v, int | float)}
        assert plain <= {"bound", "tolerance", "digits"}, (spec["id"], r["what"])


ONE_SEED = {"cifar10-resnet18", "tofu-forgetting", "tofu-second-round"}  # each of them hours on a CPU
ONE_SEED |= {"tofu-smollm2-forgetting", "tofu-smollm2-maps"}
ONE_SEED |= {"order-pretrained", "pretrained-tofu"}  # a model that others trained


def test_a_verdict_is_by_rule_or_by_argument():
    for spec in SPECS:
        by_rule = any("rule" in r for r in spec.get("rows", ()))
        assert by_rule != ("verdict" in spec), spec["id"]
        if not by_rule:
            assert spec["verdict"]["is"] in scoreboard.VERDICTS and len(spec["verdict"]["why"]) > 60


@pytest.mark.parametrize(("spec", "r"), ROWS, ids=lambda x: x.get("id", x.get("what", ""))[:30])
def test_published_numbers_and_recorded_rows_are_where_the_file_says(spec, r):
    path = r.get("published")
    for one in path["minus"] if isinstance(path, dict) else [path] if path else []:
        name, *keys = one
        found = published.get(name).values
        for key in keys:
            assert key in found, f"{one}: no {key!r}"
            found = found[key]
    if "recorded" in r and set(r["recorded"]["run"]) & set(runs.names()):
        found = scoreboard.recorded(r["recorded"], spec.get("needs"), superseded=True)
        assert found, f"no run has rows for {r['what']!r}"
        for v in found.values():
            assert v.n and math.isfinite(v.mean) and (v.n >= 3 or v.source in ONE_SEED), v.source


def test_recordings_that_are_still_to_come_are_named_as_the_studies_name_them():
    from engramlib.lab.studies import cifar, forgetting, pretrained

    named = {name for _, r in ROWS for name in r.get("recorded", {}).get("run", ())}
    known = set(runs.names()) | {f"cifar10-{n}" for n in cifar.NETWORKS} | {"vit-imagenet"}
    known |= {f"{s}-{what}" for s in forgetting.SETTINGS for what in ("forgetting", *forgetting.OTHERS)}
    assert named <= known | {pretrained.TOFU, "order-pretrained"}


def test_methods_and_places_are_those_of_the_studies():
    from engramlib.lab.studies import erasure, forgetting, unlearning

    for _, r in ROWS:
        where = r.get("recorded", {}).get("where", {})
        if where.get("study") == "methods":
            names = where["method"] if isinstance(where["method"], list) else [where["method"]]
            assert set(names) <= {*forgetting.ENTRANTS, *forgetting.SECOND_ROUND}
        if where.get("study") == "places":
            assert where["place"] in {*forgetting.PLACES, *erasure.PLACES}
        if where.get("study") == "unlearning":
            assert where["method"] in {"original", *unlearning.ENTRANTS}


def test_laptop_results_are_in_the_chapters():
    """Each name stands in its chapter, or is a label of the study; the build checks what the chapters really gave."""
    from engramlib.lab.studies import unlearning

    labels = {e.label for e in unlearning.ENTRANTS.values()}
    sources = {n: path.read_text(encoding="utf-8") for n, path in scoreboard.chapters(ROOT).items()}
    for spec, r in ROWS:
        if (name := r.get("laptop")) and name not in labels:
            words = re.split(r", | setting| equal price", name)[0]
            assert words in sources[spec["chapter"]], (spec["id"], name)


def test_the_whole_board_without_a_built_book():
    found = scoreboard.entries({})
    by_id = {e.id: e for e in found}
    assert len(found) == len(SPECS) and all(e.verdict in scoreboard.VERDICTS for e in found)
    assert by_id["fig11"].verdict == "reproduced" and by_id["fig11"].counts == (4, 4)
    assert by_id["fig11"].statements[1].values["real"].n == 5
    assert by_id["fig5"].verdict == "partly" and "share that the others lose" in by_id["fig5"].why
    assert by_id["audit"].verdict == "not" and by_id["audit"].counts == (2, 5)
    assert (
        by_id["path"].verdict == "not" and by_id["path"].statements[0].values["stand_in"].source == "order-pretrained"
    )
    for name, counts in (("fig13", (0, 1)), ("fig14", (1, 2))):  # on shapes too much is left for a price to count
        assert by_id[name].counts == counts and "Not judged" in by_id[name].why
    assert by_id["table5"].verdict == "not yet" and "search" in by_id["table5"].title.lower()
    waiting = [name for name in ("authors-forgetting", "tofu-forgetting") if runs.load(name).superseded]
    assert by_id["table8"].verdict == ("not yet" if waiting else "not")  # none rests on what is to be recorded again
    assert by_id["table4"].counts == (1, 2)  # on SmolLM2 UCE is behind the engram, Task Arithmetic in front of it


def test_a_superseded_run_is_not_recorded(tmp_path):
    spec = {"run": ["mlp-mnist"], "reader": "classwise", "value": "before"}
    found = scoreboard.recorded(spec, "MNIST")
    shutil.copy(runs.data_dir() / "runs" / "mlp-mnist.json", tmp_path)
    runs.supersede("mlp-mnist", why="The ruler was bent.", folder=tmp_path)
    assert found and scoreboard.recorded(spec, "MNIST", tmp_path) == {}
    assert scoreboard.recorded(spec, "MNIST", tmp_path, superseded=True) == found


# --------------------------------------------------------------------------------------------------------- the rules


@pytest.mark.parametrize(
    ("spec", "found", "holds"),
    [
        ({"rule": "near", "published": ["fig11", "erased"]}, [0.08, 0.09], True),
        ({"rule": "near", "published": ["fig11", "erased"]}, [0.09, 0.10], False),
        ({"rule": "at most", "published": ["fig12", "erased"]}, [0.0], True),
        ({"rule": "at most", "published": ["fig12", "erased"], "tolerance": 0.01}, [0.21], False),
        ({"rule": "at least", "bound": 0.9}, [0.89], False),
        ({"rule": "at least", "bound": 0.9}, [0.89, 0.93], True),
        ({"rule": "factor", "published": ["table7", "engram", "PFLOP"]}, [1.3], True),
        ({"rule": "factor", "published": ["table7", "engram", "PFLOP"]}, [5.1], False),
        ({"rule": "positive"}, [0.2, 0.4], True),
        ({"rule": "positive"}, [-0.1, 0.4], False),
        ({"rule": "same sign", "published": ["fig14", "same_superclass_points"]}, [-3.0, -4.0], True),
        ({"rule": "same sign", "published": ["fig14", "same_superclass_points"]}, [3.0, 4.0], False),
        ({"rule": "near", "published": ["table8", "Q/K+Gate", "Util"]}, [0.9], None),  # not known to us
        ({"published": ["fig11", "erased"]}, [0.0], None),  # shown, not judged
        ({"rule": "near", "published": ["fig11", "erased"]}, None, None),
        ({"rule": "near", "published": ["fig11", "erased"]}, "rises", None),
    ],
)
def test_a_statement_holds_by_its_rule(spec, found, holds):
    results = {} if found is None else {"98": {"left": found}}
    (one,) = entry(row(**spec), results=results).statements
    assert one.holds is holds
    assert bool(one.test) == ("rule" in spec)


def near(what, laptop):
    return {"what": what, "laptop": laptop, "rule": "at least", "bound": 0.5}


def test_verdicts_follow_from_the_statements():
    rows = [near("a", "a"), near("b", "b"), near("c", "c")]
    results = {"98": {"a": [1.0], "b": [1.0], "c": [1.0]}}
    assert entry(*rows, results=results).verdict == "reproduced"  # about no data set
    stand_in = entry(*rows, results=results, needs="MNIST")
    assert stand_in.evidence == "a laptop's stand-in"
    assert stand_in.verdict == "partly" and "All 3 statements hold" in stand_in.why and "MNIST itself" in stand_in.why
    results["98"]["a"] = [0.0]
    two = entry(*rows, results=results)
    assert two.verdict == "partly" and two.counts == (2, 3) and "Not: a." in two.why
    results["98"]["b"] = [0.0]
    assert entry(*rows, results=results).verdict == "not"
    del results["98"]["c"]
    none = entry(*rows, results=results)
    assert none.verdict == "not" and "None of 2 statements holds" in none.why
    waiting = entry(*rows, needs="CelebA", note="Seen.", pending="Soon.")
    assert waiting.verdict == "not yet" and waiting.why == "Needs CelebA; nothing is measured yet. Soon."


def test_a_price_is_judged_only_where_the_class_is_gone():
    rows = [
        {"what": "left", "laptop": "left", "rule": "at most", "bound": 0.05},
        {"what": "price", "laptop": "price", "rule": "at most", "bound": 0.02, "given": "left"},
    ]
    gone = entry(*rows, results={"98": {"left": [0.0], "price": [0.1]}})
    assert gone.counts == (1, 2) and gone.verdict == "partly"
    there = entry(*rows, results={"98": {"left": [0.5], "price": [0.0]}})
    assert there.counts == (0, 1) and there.verdict == "not"
    assert there.statements[1].holds is None and "not judged" in there.statements[1].test
    assert "Not judged" in there.why and "price" in there.why
    unmeasured = entry(*rows, results={"98": {"price": [0.0]}})
    assert unmeasured.counts == (0, 0) and unmeasured.verdict == "not yet"
    with pytest.raises(KeyError):  # what it is given comes first
        entry(*rows[::-1], results={})


def test_differences_are_paired_by_seed_and_orders_are_ranked():
    a, b = ({"what": w, "laptop": w, "published": ["table9", p, "Overall"]} for w, p in TABLE9)
    rows = [
        a,
        b,
        {"what": "a - b", "difference": ["tabula rasa", "delta"], "rule": "same sign"},
        {"what": "order", "order": ["tabula rasa", "delta"], "rule": "at least"},
    ]
    results = {"98": {"tabula rasa": [0.5, 0.9], "delta": [0.4, 0.8]}}
    *_, difference, order = entry(*rows, results=results).statements
    assert difference.ours.mean == pytest.approx(0.1) and difference.ours.sd == pytest.approx(0, abs=1e-12)
    assert difference.published.mean == pytest.approx(0.818 - 0.446) and difference.holds
    assert order.ours.mean == 1 and order.holds and order.bound == scoreboard.AGREEMENT
    results["98"]["delta"] = [0.6, 1.0]
    *_, difference, order = entry(*rows, results=results).statements
    assert difference.holds is False and order.ours.mean == -1 and order.holds is False


TABLE9 = (("tabula rasa", "tabula rasa"), ("delta", "naive delta"))


@pytest.fixture
def recordings(tmp_path):
    """Two runs, on data called MNIST and on shapes."""

    def write(name, data, values):
        with runs.record(name, config={}, seeds=range(3), data={"name": data}, folder=tmp_path) as run:
            for seed, v in enumerate(values):
                run.add([{"study": "s", "seed": seed, "left": v}], seed=seed)

    write("on-shapes", "shapes", [0.4, 0.5, 0.6])
    scoreboard._load.cache_clear()
    yield tmp_path, lambda *values: write("on-mnist", "MNIST (JPEG)", values)
    scoreboard._load.cache_clear()


def test_a_new_recording_changes_the_verdict_by_itself(recordings):
    folder, record = recordings
    spec = {"run": ["on-mnist", "on-shapes"], "reader": "column", "where": {"study": "s"}, "value": "left"}
    rows = [{"what": "left", "recorded": spec, "published": ["fig11", "erased"], "rule": "at most"}]
    before = entry(*rows, folder=folder, needs="MNIST")
    assert before.evidence == "shapes (a stand-in)"
    assert before.verdict == "not" and "real" not in before.statements[0].values
    record(0.02, 0.03, 0.04)
    after = entry(*rows, folder=folder, needs="MNIST")
    assert after.evidence == "MNIST (JPEG)"
    assert after.verdict == "reproduced" and after.statements[0].ours.show(2) == "0.03 ± 0.01"
    assert after.statements[0].values["stand_in"].source == "on-shapes"


def test_what_is_measured_on_the_papers_data_decides(recordings):
    folder, record = recordings
    record(0.02, 0.03, 0.04)
    spec = {"reader": "column", "where": {}, "value": "left"}
    rows = [
        {"what": "a", "recorded": {"run": ["on-mnist"], **spec}, "published": ["fig11", "erased"], "rule": "at most"},
        {"what": "b", "recorded": {"run": ["on-shapes"], **spec}, "published": ["fig11", "erased"], "rule": "at most"},
    ]
    found = entry(*rows, folder=folder, needs="MNIST")
    assert found.counts == (1, 1) and found.verdict == "partly" and "Not measured there: b" in found.why


def test_the_cifar_recording_fills_its_rows(tmp_path):
    """Rows as `studies.cifar` writes them turn "not yet" into a verdict on CIFAR-10."""
    tow = {"finetune": 0.95, "neggrad_plus": 0.93, "l1_sparse": 0.96, "salun": 0.88, "engram_plain": 0.93}
    methods = {**tow, "engram_06": 0.98, "engram": 0.97, "logit_mask": 0.96, "original": 0.05}
    data = {"name": "CIFAR-10 (JPEG)"}
    with runs.record("cifar10-resnet10", config={}, seeds=range(3), data=data, folder=tmp_path) as run:
        for seed in range(3):
            facts = {"study": "heatmap", "seed": seed, "split": "test", "edit": "plain", "lam": 1.0, "alpha": 1.0}
            pairs = [(erased, tested) for erased in range(10) for tested in range(10)]
            rows = [
                {**facts, "erased": e, "tested": t, "before": 0.9, "after": 0.01 if e == t else 0.83} for e, t in pairs
            ]
            cka = {"cka_original": 0.95, "cka_retrained": 0.93}
            rows += [{"study": "unlearning", "seed": seed, "method": m, "tow": v, **cka} for m, v in methods.items()]
            run.add(rows, seed=seed)
    scoreboard._load.cache_clear()
    found = {e.id: e for e in scoreboard.entries({}, folder=tmp_path)}
    scoreboard._load.cache_clear()
    assert found["fig4"].verdict == "reproduced" and found["fig4"].evidence == "CIFAR-10 (JPEG)"
    assert found["table2"].verdict == "reproduced" and found["table2"].counts == (7, 7)
    assert found["fig6"].counts == (1, 2) and found["fig6"].verdict == "partly"
    assert found["table3"].verdict == "not yet"  # no such run in this folder


def test_values():
    for text in ("−8.79 ± 0.92", "0.12"):  # what was made to be read is not read back
        assert value(text) == Value(None, text=text) and value(text).show() == text
    assert value("2ⁿ − 1, counted").text == "2ⁿ − 1, counted" and value("") is value(None) is value([]) is None
    assert value([float("nan")]) is None
    assert value(-0.0004).show() == "0.000" and value([-1.0, -2.0]).show(1) == "−1.5 ± 0.7"


def test_a_row_twice_is_refused():
    with pytest.raises(ValueError, match="two rows are called 'left'"):
        entry(row(), row())


# ----------------------------------------------------------------------------------------------- the laptop's numbers


def executed_cell(results):
    return {"cell_type": "code", "outputs": [{"data": {"text/html": "x", chapter.RESULTS: results}}, {"text": "y"}]}


def test_results_come_out_of_an_executed_notebook():
    notebook = {"cells": [{"cell_type": "markdown"}, executed_cell({"left": [0.1]}), executed_cell({"kept": "0.9"})]}
    assert scoreboard.outputs(notebook) == {"left": [0.1], "kept": "0.9"}
    notebook["cells"].append(executed_cell({"left": [0.2]}))
    with pytest.raises(ValueError, match="two results are called 'left'"):
        scoreboard.outputs(notebook)


def test_a_result_that_a_chapter_no_longer_gives_is_named():
    rows = [row(), {"what": "kept", "laptop": "kept"}]
    results = {"98": {"left": [0.1]}}
    found = [entry(*rows, results=results)]
    (problem,) = scoreboard.missing(found, results)
    assert "chapter 98 has no result called 'kept'" in problem
    assert scoreboard.missing(found, {}) == []  # a chapter that did not run is no problem here


def test_results_come_out_of_the_cache_of_a_build(tmp_path):
    import nbformat
    from jupyter_cache import get_cache
    from jupyter_cache.base import CacheBundleIn

    (tmp_path / "book" / "part1").mkdir(parents=True)
    path = tmp_path / "book" / "part1" / "98_squares.ipynb"
    cell = nbformat.v4.new_code_cell("1 + 1")
    kernel = {"kernelspec": {"name": "python3", "display_name": "python3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=kernel), path)
    assert scoreboard.executed(tmp_path) == {}
    ran = nbformat.read(path, as_version=4)
    data = {"text/html": "x", chapter.RESULTS: {"left": [0.25]}}
    ran.cells[0].outputs = [nbformat.v4.new_output("display_data", data=data)]
    cache = get_cache(str(tmp_path / "_build" / ".jupyter_cache"))
    cache.cache_notebook_bundle(CacheBundleIn(ran, str(path)), check_validity=False)
    assert scoreboard.executed(tmp_path) == {"98": {"left": [0.25]}}
    cell.source = "1 + 2"  # changed since
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=kernel), path)
    assert scoreboard.executed(tmp_path) == {}


# ------------------------------------------------------------------------------------------------------ command line


def test_command_line(capsys, monkeypatch):
    monkeypatch.setattr(scoreboard, "executed", lambda: {})
    assert scoreboard.main([]) == 0
    out, err = capsys.readouterr()
    assert len(re.findall(r"^(?:reproduced|partly|not|not yet) ", out, re.M)) == len(SPECS)
    assert re.search(r"\d+ reproduced, \d+ partly, \d+ not, \d+ not yet", out) and "make book" in err
    assert scoreboard.main(["fig11"]) == 0
    assert "published 0.037 | real 0.019 ± 0.004" in capsys.readouterr().out
    assert scoreboard.main(["fig99"]) == 1
    assert "No object called fig99; there are: fig1," in capsys.readouterr().err
