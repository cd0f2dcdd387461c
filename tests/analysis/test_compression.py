import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import binom, t
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from sslviz import compression_curve, linear_probe, select_features
from sslviz.analysis import resampling
from sslviz.analysis.compression import KINDS, Drop, by_size, curve, drops, enough, n_probes, subset, table
from sslviz.analysis.softmax import Design, fit_lbfgs
from sslviz.errors import InputError
from tests.inputs import planted


def probes(H, y, T, truth, eps=1.0, l2=1e-2, **options):
    return list(curve(Design(H, y), select_features(H, eps).shares, lambda: [T], truth, l2, **options))


def test_subsets_of_eleven_features_by_hand():
    shares = np.array([5, 1, 1, 9, 0, 7, 3, 3, 8, 2, 6.0])  # by rank: 4 1 2 9 6 7 0 10 5 8 3
    # 55 % of 11 features: 6 go, 5 from the bottom (6 x 50/55 = 5.45), 1 from the top
    assert subset(shares, "discriminative", 0.55).tolist() == [0, 5, 7, 8, 10]
    assert subset(shares, "lower tail", 0.55).tolist() == [1, 2, 4, 6, 9]
    assert subset(shares, "upper tail", 0.55).tolist() == [0, 3, 5, 8, 10]


@given(st.integers(8, 300), st.integers(0, 1000))
def test_smaller_subsets_are_parts_of_larger_ones(d, seed):
    shares = np.random.default_rng(seed).integers(0, 5, d).astype(float)
    for kind in ("discriminative", "random", "lower tail", "upper tail"):
        larger = np.arange(d)
        for reduction in (0.1, 0.25, 0.4, 0.55, 0.9):
            part = subset(shares, kind, reduction, seed)
            assert len(part) == round((1 - reduction) * d)
            assert len(set(part)) == len(part)
            assert np.isin(part, larger).all()
            larger = part
    assert not np.array_equal(subset(shares, "random", 0.5, 0), subset(shares, "random", 0.5, 1))


def test_the_default_reduction_is_the_default_band():
    shares = np.arange(1000.0)
    band = np.flatnonzero((shares >= np.percentile(shares, 50)) & (shares <= np.percentile(shares, 95)))
    assert_array_equal(subset(shares, "discriminative", 0.55), band)


def two_halves(n=600, seed=0):
    """20 features that fire or not: ten seldom, whatever the class, and ten often, each for one of two classes."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    chance = np.full((n, 20), 0.05)
    chance[:, 10:] = np.where(y[:, None] == np.arange(10) % 2, 0.6, 0.1)
    H = 5.0 * (rng.random((n, 20)) < chance) + 0.1 * rng.normal(size=(n, 20))
    return H.astype(np.float32), y


def best_answer(features):
    """Top-1 of who knows the chances, from some of the twenty features."""
    for_one, for_other = (int(np.sum((features >= 10) & (features % 2 == c))) for c in (0, 1))
    chances = {
        (i, j): [binom.pmf(i, for_one, a) * binom.pmf(j, for_other, b) for a, b in ((0.6, 0.1), (0.1, 0.6))]
        for i in range(for_one + 1)
        for j in range(for_other + 1)
    }
    return sum(max(pair) for pair in chances.values()) / 2


def test_where_the_signal_sits_shows_in_the_curve():
    (H, y), (T, truth) = two_halves(2000), two_halves(2000, seed=1)
    reductions = [0.1, 0.3, 0.5, 0.7, 0.9]
    found = compression_curve(H, y, T, truth, eps=1.0, reductions=reductions)
    by_kind = found.groupby(["kind", "reduction"])["top1"].mean()
    seldom_first = np.argsort((H > 2.5).mean(0))
    left = {  # of discriminative features 2, 5, 9, 13 and 16 of the lowest go, and 0, 1, 1, 1 and 2 of the highest
        "lower tail": [seldom_first[:n] for n in (18, 14, 10, 6, 2)],
        "upper tail": [seldom_first[-n:] for n in (18, 14, 10, 6, 2)],
        "discriminative": [seldom_first[low:high] for low, high in ((2, 20), (5, 19), (9, 19), (13, 19), (16, 18))],
    }
    for kind, kept in left.items():
        assert_allclose(by_kind[kind], [best_answer(features) for features in kept], atol=0.03, err_msg=kind)
    assert by_kind["full", 0.0] == pytest.approx(best_answer(np.arange(20)), abs=0.03)
    for reduction, random in by_kind["random"].items():
        assert by_kind["lower tail", reduction] - 0.02 < random < by_kind["upper tail", reduction] + 0.02
    assert found["converged"].all()
    assert (found["low"] <= found["top1"]).all()
    assert (found["top1"] <= found["high"]).all()


def test_each_probe_is_scikit_learns_on_that_subset():
    H, y = planted(500)
    for p in probes(H[:400], y[:400], H[400:], y[400:], reductions=[0.25, 0.75]):
        scaler = StandardScaler().fit(H[:400].astype(float))
        X, T = scaler.transform(H[:400].astype(float)), scaler.transform(H[400:].astype(float))
        if p.kind == "pca":
            axes = PCA(p.n_features).fit(X)
            X, T = axes.transform(X), axes.transform(T)
        else:
            X, T = X[:, p.features], T[:, p.features]
        peer = LogisticRegression(C=1 / (1e-2 * 400), max_iter=5000, tol=1e-8).fit(X, y[:400])
        assert (p.correct == (peer.predict(T) == y[400:])).mean() >= 0.98, (p.kind, p.reduction)
        assert p.n_features == X.shape[1] == round((1 - p.reduction) * 64)


def test_a_warm_start_ends_where_a_cold_one_does():
    H, y = planted(400)
    whole = Design(H, y)
    fit = fit_lbfgs(whole, 1e-3)
    for part in (whole.subset(np.arange(6, 64)), whole.principal(58)):
        start = part.begin(whole, fit)
        warm, cold = fit_lbfgs(part, 1e-3, start=start), fit_lbfgs(part, 1e-3)
        assert warm.objective == pytest.approx(cold.objective, rel=1e-4)
        assert warm.iterations < cold.iterations


def test_blocks_that_are_read_again_give_the_same_fit():
    H, y = planted(500)
    y[::50] = -1
    held, read = Design(H, y), Design(lambda: iter(np.array_split(H, 7)), y)
    a, b = fit_lbfgs(held, 1e-2), fit_lbfgs(read, 1e-2)
    assert_allclose(a.weights, b.weights, atol=1e-3)
    assert b.objective == pytest.approx(a.objective, rel=1e-5)
    assert_allclose(held.gram(), np.corrcoef(H[y >= 0].T), atol=1e-4)
    half = read.subset(np.arange(10, 40))
    assert_allclose(torch.cat(list(half.blocks())), torch.cat(list(held.subset(np.arange(10, 40)).blocks())), atol=1e-5)
    turned = [torch.cat(list(d.principal(5).blocks())) for d in (held, read)]
    assert_allclose(turned[0].abs(), turned[1].abs(), atol=1e-3)


def test_all_directions_of_pca_are_the_full_width():
    H, y = planted(400)
    probe = linear_probe(H[:300], y[:300], H[300:], y[300:], l2=1e-2)
    whole = Design(H[:300], y[:300])
    turned = whole.principal(64)
    shares = turned.probabilities(fit_lbfgs(turned, 1e-2), [H[300:]])
    assert_allclose(shares, probe.probabilities, atol=5e-3)


def test_a_subset_of_dead_features_knows_nothing():
    H, y = planted(300, classes=3)
    H[:, 32:] = 0  # half never fire
    found = compression_curve(H[:200], y[:200], H[200:], y[200:], eps=1.0, reductions=[0.6], kinds=["lower tail"])
    assert found["top1"].iloc[1] == pytest.approx((y[200:] == np.bincount(y[:200]).argmax()).mean())


def test_shuffled_labels_give_chance_at_every_size():
    H, y = planted(1200)
    found = []
    for seed in range(6):
        shuffled = np.random.default_rng(seed).permutation(y)
        found.append(compression_curve(H[:700], shuffled[:700], H[700:], shuffled[700:], reductions=[0.4, 0.8]))
    found = pd.concat(found)
    assert found["top1"].between(0.25 - 4 * 0.0194, 0.25 + 4 * 0.0194).all()  # four standard deviations of 500 guesses
    means = found.groupby(["kind", "reduction"])["top1"].mean()
    assert means.between(0.25 - 3 * 0.0194 / 6**0.5, 0.25 + 3 * 0.0194 / 6**0.5).all()
    assert ((found["low"] <= 0.25) & (found["high"] >= 0.25)).mean() > 0.85  # 95 % intervals


def test_drops_by_hand_and_their_interval(monkeypatch):
    full = np.array([True] * 90 + [False] * 10)
    made = probes(*two_classes(), reductions=[0.5], kinds=["random", "pca"])
    changed = [type(p)(**{**vars(p), "correct": full.copy()}) for p in made]
    for k, p in enumerate(p for p in changed if p.kind == "random"):
        p.correct[: 5 * k] = False  # 0, 5, 10, 15 images lost
    random, pca = drops(changed)
    assert (random.kind, random.reduction, pca.kind) == ("random", 0.5, "pca")
    assert random.drop == pytest.approx(0.075)
    assert random.by_seed == pytest.approx((0, 0.05, 0.1, 0.15))
    lost = np.zeros(100)
    for k in range(4):
        lost[: 5 * k] += 0.25
    of_seeds = np.std([0, 0.05, 0.1, 0.15], ddof=1) / 2 * t.ppf(0.975, 3) / 1.96  # four of them: Student's t
    deviation = np.hypot(lost.std() / 10, of_seeds)
    assert random.interval[1] - random.interval[0] == pytest.approx(2 * 1.96 * deviation, rel=0.15)
    assert (pca.drop, pca.interval) == (0, (0, 0))
    assert random.above_random is None
    assert pca.above_random == pytest.approx((0.075, random.interval[0], random.interval[1]))
    monkeypatch.setattr(resampling, "_AT_ONCE", 700)  # seven resamples of 100 at once
    in_parts = drops(changed)[0].interval
    assert in_parts == pytest.approx(random.interval, abs=0.02)


def two_classes():
    H, y = planted(120, classes=2)
    return H[:80], y[:80], H[80:], y[80:]


def test_the_size_that_is_enough():
    found = [Drop("a", r, d, (0, 0), ()) for r, d in ((0.5, 0.021), (0.2, 0.009), (0.3, 0.011))]
    assert enough(found, "a", 1) == 0.3
    assert enough(found, "a", 2) == 0.5
    assert enough(found, "a", 3) is None
    assert enough(found, "b", 1) is None
    lost = np.array([True] * 79 + [False] * 21)  # of 80 right in 100: one point exactly, which is no more than one
    assert enough([Drop("a", 0.5, 0.8 - lost.mean(), (0, 0), ())], "a", 1) is None


@pytest.mark.parametrize("n", [300, 1500])
@pytest.mark.parametrize("together", [True, False])
def test_the_intervals_of_four_seeds_hold_what_they_promise(n, together):
    """The loss of all seeds lies in the interval of four of them in about 95 of 100 cases, whether seeds fail on the same images
    or each on its own."""
    rng = np.random.default_rng(0)
    made = probes(*two_classes(), reductions=[0.5], kinds=["random"])
    inside = 0
    for _ in range(150):
        shares = [0.8, *(0.8 + 0.02 * rng.normal(size=4))]
        luck = rng.random((1 if together else 5, n))
        right = [luck[k % len(luck)] < share for k, share in enumerate(shares)]
        changed = [type(p)(**{**vars(p), "correct": c}) for p, c in zip(made, right, strict=True)]
        low, high = drops(changed, n_bootstrap=200)[0].interval
        inside += low <= 0 <= high
    assert 0.90 <= inside / 150 <= 0.99


def test_probes_that_did_not_converge_are_said_to(monkeypatch):
    from dataclasses import replace

    from sslviz.analysis import compression

    fit = compression.fit_lbfgs
    monkeypatch.setattr(compression, "fit_lbfgs", lambda *a, **k: replace(fit(*a, **k), converged=False))
    assert not table(probes(*two_classes(), reductions=[0.5], kinds=["pca"]))["converged"].any()


def test_the_number_of_probes():
    assert n_probes() == len(probes(*two_classes())) == 81
    assert n_probes([0.5], ["pca", "random"]) == 6


def test_images_of_unknown_classes_are_not_judged():
    H, y = planted(300)
    y_test = np.where(np.arange(100) < 20, 9, y[200:])
    for p in probes(H[:200], y[:200], H[200:], y_test, reductions=[0.5]):
        assert p.correct.shape == (80,)


def test_dead_columns_and_tiny_widths():
    H, y = planted(300)
    H[:, :24] = 0.5
    found = compression_curve(H[:200], y[:200], H[200:], y[200:], reductions=[0.1, 0.5], kinds=["random", "pca"])
    sizes = by_size(found)
    assert sizes.index.tolist() == [(0.1, 58), (0.5, 32)]
    assert sizes.notna().all(axis=None)
    tiny = compression_curve(H[:200, 30:34], y[:200], H[200:, 30:34], y[200:], reductions=[0.9], kinds=["pca", "random"])
    assert tiny["n_features"].tolist() == [4, 0, 0, 0, 0, 0]


def test_intervals_of_a_share_are_its_binomials():
    made = probes(*two_classes(), reductions=[0.5], kinds=["pca"])[:1]
    changed = type(made[0])(**{**vars(made[0]), "correct": np.arange(100) < 90})
    assert table([changed])[["top1", "low", "high"]].iloc[0].tolist() == pytest.approx([0.9, 0.84, 0.95])


def test_the_table_has_one_row_a_probe():
    found = table(probes(*two_classes()))
    assert len(found) == 1 + 10 * (len(KINDS) - 1 + 4)
    assert found["kind"].value_counts()["random"] == 40
    assert sorted(found["seed"].dropna().unique()) == [0, 1, 2, 3]
    assert found.iloc[0][["kind", "reduction", "n_features"]].tolist() == ["full", 0.0, 64]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kinds": ["middle"]}, 'unknown kind of subset "middle"'),
        ({"reductions": [0.5, 1.0]}, "reduction 1 is out of range"),
        ({"reductions": [0.0]}, "reduction 0 is out of range"),
    ],
)
def test_wrong_settings_are_refused(options, says):
    with pytest.raises(InputError, match=says):
        compression_curve(*two_classes(), **options)


def test_nothing_to_judge_is_refused():
    H, y, T, _ = two_classes()
    with pytest.raises(InputError, match="no test sample has a class"):
        compression_curve(H, y, T, np.full(len(T), 7))


def test_probes_that_were_fitted_before_are_not_fitted_again():
    whole = probes(*two_classes(), reductions=[0.3, 0.6], kinds=["random", "upper tail"])
    before = [p for p in whole if p.kind == "random"][:5]
    again = probes(*two_classes(), reductions=[0.3, 0.6], kinds=["random", "upper tail"], done=before)
    assert [(p.kind, p.reduction, p.seed) for p in again] == [(p.kind, p.reduction, p.seed) for p in whole]
    assert [p for p in again if any(p is b for b in before)] == before
    for ours, theirs in zip(again, whole, strict=True):
        assert (ours.correct == theirs.correct).mean() >= 0.95  # a start elsewhere ends within the same 1/20,000
