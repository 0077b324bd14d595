import pytest
import torch

import engramlib as el
from engramlib.lab import data as datasets
from engramlib.lab import training
from engramlib.lab.studies import classwise, reader


@pytest.fixture(scope="module")
def small():
    data = datasets.digits().flat()
    model = reader.trained(data, 1, sizes=(64, 16, 10), epochs=3)
    moments = classwise.moments_by_class(model, data.train)
    return data, model, el.extract_all(model, moments, rcond=1e-3)


def test_a_seed_fixes_the_network_and_all_of_it_is_joined(small):
    data, model, engrams = small
    again = reader.trained(data, 1, sizes=(64, 16, 10), epochs=3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    W = reader.joined(model.fc1)
    assert W.dtype == torch.float64 and torch.equal(W[:, :-1].float(), model.fc1.weight.detach())
    assert torch.equal(W[:, -1].float(), model.fc1.bias.detach())
    assert reader.joined(engrams[3]["fc2"]).shape == (10, 17)
    assert reader.trained(data, 0, sizes=(64, 10), epochs=1, bias=False).fc1.bias is None


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_ten_edits_are_averaged_over_the_erased_and_over_the_other_nine(small, alpha):
    data, model, engrams = small
    own, kept = reader.erased_and_kept(model, engrams, data.test, alpha)
    rows = [
        training.class_accuracy(el.ablate(model, engrams[c], alpha), data.test.x, data.test.y, 10) for c in range(10)
    ]
    assert own == pytest.approx(sum(float(rows[c][c]) for c in range(10)) / 10)
    others = [float(rows[c][d]) for c in range(10) for d in range(10) if c != d]
    assert kept == pytest.approx(sum(others) / 90)
    if alpha == 0:
        assert own == pytest.approx(kept)
    with pytest.raises(ValueError, match="classes 0 to 9"):
        reader.erased_and_kept(model, {0: engrams[0]}, data.test)
