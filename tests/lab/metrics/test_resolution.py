"""What an instrument says it can show is what it can show: checked on data whose truth is known."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from engramlib.lab import metrics
from engramlib.lab.metrics import resolution
from engramlib.lab.studies import unlearning as study


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("n", [40, 200, 1000])
def test_equal_shares_seldom_differ_by_more_than_the_resolution(share, n, rng):
    """At most about one in twenty; and a difference of twice as much is nearly always seen."""
    a, b = (rng.binomial(n, share, 2000) / n for _ in range(2))
    bound = np.array([resolution.of_share(p, n) for p in (a + b) / 2])
    assert (abs(a - b) > bound).mean() < 0.07
    worse = rng.binomial(n, share - 2 * resolution.of_share(share, n), 2000) / n
    bound = np.array([resolution.of_share(p, n) for p in (a + worse) / 2])
    assert (a - worse > bound).mean() > 0.8


@pytest.mark.parametrize("n, m", [(40, 40), (300, 40)])
def test_equal_aucs_seldom_differ_by_more_than_the_resolution(n, m, rng):
    def auc():
        return roc_auc_score([1] * n + [0] * m, np.r_[rng.normal(0.3, 1, n), rng.normal(0, 1, m)])

    pairs = np.array([(auc(), auc()) for _ in range(400)])
    alarms = abs(pairs[:, 0] - pairs[:, 1]) > [resolution.of_auc(a, n, m) for a in pairs.mean(1)]
    assert alarms.mean() < 0.09
    assert resolution.of_auc(0.5, n, m) == pytest.approx(1.96 * np.sqrt(2 * (n + m + 1) / (12 * n * m)), rel=1e-3)
    assert resolution.of_auc(1.0, n, m) > 0


def probabilities(rng, networks, images, base, of_network, of_image):
    """The chance that a network names an image rightly: some networks are better, some images easier."""
    effects = base + of_network * rng.normal(size=(networks, 1)) + of_image * rng.normal(size=(1, images))
    return 1 / (1 + np.exp(-effects))


@pytest.mark.parametrize("base, of_network, of_image", [(3, 0.5, 1), (1, 0.5, 2), (-3, 0.7, 1)])
@pytest.mark.parametrize("networks", [3, 5])
@pytest.mark.parametrize("images", [40, 400])
def test_the_interval_covers_other_networks_and_other_images(networks, images, base, of_network, of_image, rng):
    truth = probabilities(rng, 1000, 1000, base, of_network, of_image).mean()
    covered, points = [], []
    for _ in range(400):
        right = rng.random((networks, images)) < probabilities(rng, networks, images, base, of_network, of_image)
        found = resolution.interval(right.mean(1), images)
        covered.append(found.low <= truth <= found.high)
        points.append(abs(found.mean - truth) < 1e-3)
        assert 0 <= found.low <= found.mean <= found.high <= 1
    assert np.mean(covered) > 0.925 and np.mean(points) < 0.5


@pytest.mark.parametrize("drop", [0.0, 1.0])
@pytest.mark.parametrize("networks, images", [(3, 40), (3, 400), (5, 400)])
def test_the_paired_interval_covers_the_difference(networks, images, drop, rng):
    def both(networks, images):
        ease = 3 + 0.3 * rng.normal(size=(networks, 1)) + rng.normal(size=(1, images))
        less = drop * (1 + 0.3 * rng.normal(size=(networks, 1)))
        noise = rng.logistic(size=(networks, images)) / 2
        return ease + noise > 0, ease - less + noise + rng.logistic(size=(networks, images)) / 2 > 0

    before, after = both(1000, 1000)
    truth, covered = before.mean() - after.mean(), []
    for _ in range(400):
        before, after = both(networks, images)
        found = resolution.paired((before & ~after).sum(1), (~before & after).sum(1), images)
        covered.append(found.low <= truth <= found.high)
    assert np.mean(covered) > 0.925


def test_one_network_says_nothing_about_others_and_equal_counts_still_have_a_width():
    assert resolution.interval([0.0], 1000) == resolution.Interval(0.0, 0.0, 1.0)
    same = resolution.paired([0, 0, 0], [0, 0, 0], 40)
    assert same.mean == 0 and 0.02 < same.high < 0.08 and same.low == -same.high
    assert same.below(0.1) and not same.below(0.01) and not same.above(0.0) and str(same).startswith("0.00 (")
    assert resolution.interval([0.5] * 3, 100, level=0.5).high < resolution.interval([0.5] * 3, 100).high
    for bad in ((0, 0.95), (10, 1.0)):
        with pytest.raises(ValueError, match="resolution"):
            resolution.of_share(0.5, bad[0], level=bad[1])


def row(method, left, lost, gained=0, moved=True, n=200):
    facts = {"method": method, "test_erased": left, "probe_lost": lost, "probe_gained": gained}
    return facts | {"features_moved": moved, "images": n}


def test_what_is_read_less_is_counted_image_by_image(rng):
    """Any order of networks and images; the mean is the difference of the shares, the interval that of `paired`."""
    before, after = rng.random((3, 60)) < 0.8, rng.random((3, 60)) < 0.5
    found = resolution.less_right(before.tolist(), after.tolist())
    assert found.mean == pytest.approx(before.mean() - after.mean())
    lost, gained = (before & ~after).sum(1).tolist(), (after & ~before).sum(1).tolist()
    assert found == resolution.paired(lost, gained, 60)
    assert resolution.less_right(after.tolist(), before.tolist()).mean == pytest.approx(-found.mean)
    order = rng.permutation(60)
    assert resolution.less_right(before[:, order].tolist(), after[:, order].tolist()) == found
    with pytest.raises(ValueError, match="zip"):
        resolution.less_right(before.tolist(), after[:, :59].tolist())  # other images


def test_a_verdict_needs_the_whole_interval():
    rows = [row("retrain", 0.0, lost) for lost in (40, 44, 42)]
    rows += [row("mask", 0.0, 0, moved=False) for _ in range(3)]
    rows += [row("shallow", 0.01, lost, 1) for lost in (1, 2, 1)]
    rows += [row("deep", 0.01, lost) for lost in (36, 40, 38)]
    rows += [row("between", 0.01, lost) for lost in (12, 18, 15)]
    rows += [row("loud", left, 0, moved=False) for left in (0.02, 0.20, 0.07)]
    rows += [row("few images", 0.0, lost, n=20) for lost in (0, 0, 1)]
    assert study.verdict(rows, "mask") == study.verdict(rows, "shallow") == "only masks"
    assert study.verdict(rows, "deep") == "forgets"
    assert all(study.verdict(rows, name) == "open" for name in ("between", "loud", "few images"))


def test_shares_alone_give_a_wider_interval_of_the_same_mean(rng):
    """As the recorded CIFAR-10 rows have them: no counts of images that changed sides."""
    before = rng.random((3, 500)) < 0.8
    after = before & (rng.random((3, 500)) < 0.9)  # most images stay as they were
    counted = resolution.less_right(before.tolist(), after.tolist())
    shares = resolution.unpaired(before.mean(1).tolist(), after.mean(1).tolist(), 500)
    assert shares.mean == pytest.approx(counted.mean)
    assert shares.low < counted.low < counted.high < shares.high
    with pytest.raises(ValueError, match="zip"):
        resolution.unpaired([0.5, 0.5], [0.5], 500)

    def recorded(method, *read):
        return [{"method": method, "test_erased": 0.0, "probe_erased": share} for share in read]

    rows = recorded("original", 0.85, 0.86, 0.84) + recorded("retrain", 0.74, 0.75, 0.73)
    rows += recorded("mask", 0.85, 0.86, 0.84) + recorded("deep", 0.75, 0.76, 0.74)
    assert study.less_read(rows, "retrain", images=1000).low > 0.03
    assert study.less_read(rows, "retrain", images=20).low < 0  # few images: original and retrained are not told apart
    assert study.verdict(rows, "mask", images=1000) == "only masks"
    assert study.verdict(rows, "deep", images=1000) == "forgets"
    assert study.verdict(rows, "deep", images=20) == "open"
    with pytest.raises(ValueError, match="images"):
        study.verdict(rows, "mask")


def test_a_point_is_not_enough_for_a_verdict():
    """Three networks of which one keeps the class: the mean is under the bound, and others may not be."""
    rows = [row("retrain", 0.0, 40) for _ in range(3)]
    rows += [row("x", left, 0, moved=False) for left in (0.0, 0.0, 0.24)]
    assert np.mean([0.0, 0.0, 0.24]) < study.SILENT and study.verdict(rows, "x") == "open"


def test_numbers_come_with_what_they_can_show():
    probe = metrics.Probe(0.9, 0.9, 0.95, (True,) * 36 + (False,) * 4)
    assert probe.resolution == resolution.of_share(0.9, 40)
    few = metrics.FewShot((1, 4), (0.5, 0.9), (0.5, 0.9), (0.1, 0.0), 40, 3)
    assert few.resolution[1] == resolution.of_share(0.9, 40) and few.resolution[0] > resolution.of_share(0.5, 40)
    assert metrics.Membership(0.5, 300, 40).resolution == resolution.of_auc(0.5, 300, 40)
    curve = metrics.Relearned((0, 4, 8, 12, 16), (0.0, 0.2, 0.42, 0.5, 0.9), 0.9, 0.9, 40)
    assert (curve.earliest, curve.needed, curve.latest) == (8, 12, 16)  # .45 ± .154
    sure = metrics.Relearned((0, 4, 8, 12, 16), (0.0, 0.2, 0.42, 0.5, 0.9), 0.9, 0.9, 4000)
    assert (sure.earliest, sure.needed, sure.latest) == (12, 12, 12)
    assert metrics.Relearned((0, 4), (0.0, 0.4), 0.9, 0.9, 40).latest is None
