import json

import pytest

from engramlib.lab.records import published
from engramlib.lab.records.runs import data_dir


@pytest.mark.parametrize("name", published.names())
def test_every_file_parses_and_names_its_source(name):
    found = published.get(name)
    assert found.title and found.values and found.source.where and found.source.note
    assert found.source.arxiv in ("2606.14997", "2607.24805") or name == "suppression_audit"
    assert str(found.source)


def test_no_number_is_guessed():
    """Numbers are numbers or null; nothing such as "n/f" or "~2" slips in."""

    def leaves(value):
        if isinstance(value, dict):
            for v in value.values():
                yield from leaves(v)
        elif isinstance(value, list):
            for v in value:
                yield from leaves(v)
        else:
            yield value

    words = {"truck", "automobile"}
    for path in (data_dir() / "published").glob("*.json"):
        for leaf in leaves(json.loads(path.read_text())["values"]):
            assert leaf is None or isinstance(leaf, (int, float)) or leaf in words, (path.name, leaf)


def test_spot_values():
    fig11 = published.get("fig11").values
    assert (fig11["before"], fig11["erased"], fig11["others"]) == (0.981, 0.037, 0.975)
    digits = fig11["erased_by_digit"]
    assert len(digits) == 10 and sum(digits) / 10 == pytest.approx(fig11["erased"], abs=0.001)
    assert max(digits) == fig11["erased_max"]
    table2 = published.get("table2").values["cifar10_resnet18_forget_class_0"]
    assert table2["Engram α=0.6"] == {"ToW": 0.984, "DA": 0.958, "NMI": 0.611} and table2["NegGrad"]["ToW"] is None
    tofu = published.get("tofu_forget10").values["scores"]
    assert tofu["NPO"]["FQ"] == -1.9986 and tofu["RMU"]["Overall"] is None
    paths = published.get("path_dependence").values["one_shot_vs_reextracted_over_edit_size"]
    assert paths["Qwen3-0.6B"] == 0.710
    assert published.get("suppression_audit").values["strength"]["W-Norm 2"]["recovery"] == -0.134


def test_overall_is_the_harmonic_mean_of_its_parts():
    """A copying slip in one of the four columns would show here."""
    for name, row in published.get("tofu_forget10").values["scores"].items():
        parts = [row[k] for k in ("Mem", "Util", "Priv")]
        if row["Overall"] is not None and None not in parts:
            mean = 3 / sum(1 / max(p, 1e-10) for p in parts)
            assert row["Overall"] == pytest.approx(mean, abs=0.001), name


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(KeyError, match="fig99.*fig11.*table2"):
        published.get("fig99")
