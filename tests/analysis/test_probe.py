import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from sslviz import compression_curve, linear_probe
from sslviz.analysis.probe import L2_PATH, at_an_end, choose_l2, held_out, knn_probe, out_of_fold
from sslviz.analysis.softmax import Design, fit_lbfgs, fit_sgd
from sslviz.errors import InputError
from tests.inputs import planted


def objective(X, y, W, b, l2):
    logits = X @ W.T + b
    logits -= logits.max(1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return -log_p[np.arange(len(y)), y].mean() + l2 / 2 * (W**2).sum()


@pytest.mark.parametrize("l2", [1e-1, 1e-2, 1e-3])
def test_the_optimum_is_scikit_learns(l2):
    H, y = planted(400)
    train, test = slice(0, 300), slice(300, 400)
    result = linear_probe(H[train], y[train], H[test], y[test], l2=l2)
    scaler = StandardScaler().fit(H[train].astype(float))
    X = scaler.transform(H[train].astype(float))
    peer = LogisticRegression(C=1 / (l2 * len(X)), max_iter=5000, tol=1e-8).fit(X, y[train])
    W, b = result.weights * scaler.scale_, result.bias + result.weights @ scaler.mean_
    ours, theirs = objective(X, y[train], W, b, l2), objective(X, y[train], peer.coef_, peer.intercept_, l2)
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert_allclose(result.probabilities, peer.predict_proba(scaler.transform(H[test].astype(float))), atol=1e-2)
    assert result.converged
    assert result.top1 == pytest.approx(peer.score(scaler.transform(H[test].astype(float)), y[test]), abs=0.011)


@pytest.mark.parametrize("l2", [0.1, 100])
def test_the_optimum_is_scikit_learns_with_classes_of_very_unequal_size(l2):
    """Biases have no L2: what bounds the weights' distance from the optimum says nothing of theirs."""
    rng = np.random.default_rng(0)
    y = rng.choice(50, 1500, p=(1 / np.arange(1, 51)) / (1 / np.arange(1, 51)).sum())
    H = (rng.normal(size=(50, 24))[y] + rng.normal(size=(1500, 24))).astype(np.float32)
    y = np.unique(y, return_inverse=True)[1]
    result = linear_probe(H, y, H, y, l2=l2)
    scaler = StandardScaler().fit(H.astype(float))
    X = scaler.transform(H.astype(float))
    peer = LogisticRegression(C=1 / (l2 * len(X)), max_iter=5000, tol=1e-8).fit(X, y)
    W, b = result.weights * scaler.scale_, result.bias + result.weights @ scaler.mean_
    assert objective(X, y, W, b, l2) == pytest.approx(objective(X, y, peer.coef_, peer.intercept_, l2), rel=1e-4)
    assert result.converged


@pytest.mark.parametrize("l2", [0, 1e-6, 1e-4])
def test_columns_that_depend_on_one_another_are_no_obstacle(l2):
    rng = np.random.default_rng(0)
    H = (rng.normal(size=(4000, 2)) @ rng.normal(size=(2, 768))).astype(np.float32)
    y = rng.integers(0, 2, 4000)
    result = linear_probe(H, y, H, y, l2=l2)
    assert result.converged
    assert result.top1 < 0.56


def test_weights_and_bias_are_those_of_the_raw_features():
    H, y = planted(200)
    result = linear_probe(H[:150], y[:150], H[150:], y[150:], l2=1e-2)
    logits = H[150:] @ result.weights.T + result.bias
    assert_array_equal(result.classes[logits.argmax(1)], result.predictions)


def test_badly_scaled_and_constant_columns():
    rng = np.random.default_rng(8)

    def draw(n):
        y = rng.integers(0, 3, n)
        scale = np.concatenate([np.logspace(-4, 0, 24), np.full(40, 100.0)])
        H = rng.normal(0, 1, (n, 64)) * scale
        H[:, :3] += 3 * np.eye(3)[y] * scale[:3]
        H[:, 60], H[:, 62] = 14.62, 0.0
        H[:, 61] = 1.0 + rng.integers(0, 2, n) * np.finfo(np.float32).eps
        return H.astype(np.float32), y

    (H, y), (H_test, y_test) = draw(600), draw(300)
    result = linear_probe(H, y, H_test, y_test)
    assert result.top1 > 0.85
    assert result.converged
    assert result.n_constant == 3
    assert_array_equal(result.weights[:, 60:63], np.zeros((3, 3)))


def test_folds_that_did_not_converge_are_counted(monkeypatch):
    from sslviz.analysis import probe

    H, y = planted(100)
    fit = probe.fit_lbfgs
    monkeypatch.setattr(probe, "fit_lbfgs", lambda design, l2, n=1000, *rest: fit(design, l2, 1, *rest))
    assert out_of_fold(H, y, l2=1e-4)[2] == 5
    monkeypatch.undo()
    assert out_of_fold(H, y, l2=1e-1)[2] == 0


def test_shuffled_labels_give_chance():
    H, y = planted(1200, classes=4)
    shuffled = [np.random.default_rng(seed).permutation(y) for seed in range(8)]
    top1 = [linear_probe(H[:800], s[:800], H[800:], s[800:], l2=0.01).top1 for s in shuffled]
    assert np.mean(top1) == pytest.approx(0.25, abs=3 * np.sqrt(0.25 * 0.75 / (8 * 400)))


def test_a_solver_that_stops_early_says_so():
    H, y = planted(200)
    result = linear_probe(H, y, H, y, l2=1e-6, max_iterations=2)
    assert not result.converged
    assert result.iterations == 2


def test_unknown_classes_are_left_out_and_counted():
    H, y = planted(200)
    y_test = y.copy()
    y_test[:20], y_test[20:25] = 9, -1
    result = linear_probe(H, y, H, y_test, l2=1e-2)
    assert (result.n_judged, result.n_unknown) == (175, 25)
    assert result.top1 == pytest.approx((result.predictions == y)[25:].mean())
    assert set(result.predictions) <= set(range(4))


def test_out_of_fold_predictions_do_not_see_their_sample():
    rng = np.random.default_rng(0)  # features know nothing, but each row can be learned by heart
    H, y = rng.normal(size=(150, 400)), rng.integers(0, 3, 150)
    predictions, probabilities, _ = out_of_fold(H, y, l2=1e-4)
    assert (predictions == y).mean() == pytest.approx(1 / 3, abs=0.13)
    assert linear_probe(H, y, H, y, l2=1e-4).top1 == 1.0
    assert_allclose(probabilities.sum(1), np.ones(150), atol=1e-5)


def test_a_fold_that_takes_all_of_a_rare_class():
    H, y = planted(11, classes=2)
    y[:] = 0
    y[3] = 1
    predictions, probabilities, _ = out_of_fold(H, y, l2=1e-2)
    assert set(predictions) <= {0, 1}
    assert_allclose(probabilities.sum(1), np.ones(11), atol=1e-5)


def test_classes_far_apart_end_converged():
    """The minimum is so small that float32 cannot get within 1/20,000 of it: within a millionth of a nat counts."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 5, 300)
    H = (rng.normal(size=(300, 128)) + 3 * rng.normal(size=(5, 128))[y]).astype(np.float32)
    design = Design(H, y)
    fits = {l2: fit_lbfgs(design, l2) for l2 in (1e-3, 1e-4, 1e-5)}
    assert all(fit.converged for fit in fits.values())
    x = design.held.numpy().astype(float)
    theirs = LogisticRegression(C=1 / (1e-4 * 300), tol=1e-10, max_iter=5000).fit(x, y)
    least = objective(x, y, theirs.coef_, theirs.intercept_, 1e-4)
    assert least < 1e-3
    assert fits[1e-4].objective == pytest.approx(least, abs=1e-6)


def test_the_knn_probe_is_scikit_learns_with_the_same_weights():
    H, y = planted(400)
    H += 0.01
    unit = H / np.linalg.norm(H, axis=1, keepdims=True)
    peer = KNeighborsClassifier(20, metric="euclidean", weights=lambda d: np.exp((1 - d**2 / 2) / 0.07)).fit(unit[:300], y[:300])
    assert_array_equal(knn_probe(7 * H[:300], y[:300], 3 * H[300:], k=20), peer.predict(unit[300:]))
    assert_array_equal(knn_probe(H[:300], y[:300] + 5, H[:300], k=1), y[:300] + 5)
    unknown = np.where(np.arange(300) < 250, -1, y[:300])
    assert_array_equal(knn_probe(H[:300], unknown, H[300:], k=60), knn_probe(H[250:300], y[250:300], H[300:], k=50))


@pytest.mark.parametrize(("k", "labels", "says"), [(0, 1, "k is 0"), (3, -1, "no train sample has a known class")])
def test_wrong_input_of_the_knn_probe(k, labels, says):
    H, _ = planted(20)
    with pytest.raises(InputError, match=says):
        knn_probe(H, np.full(20, labels), H, k=k)


def test_sgd_of_100_epochs_comes_near_the_optimum_without_l2():
    H, y = planted(2000)
    design = Design(H, y)
    sgd, best = fit_sgd(design), fit_lbfgs(design, 1e-5)
    X = np.concatenate([b.numpy() for b in design.blocks()])
    assert sgd.objective == pytest.approx(objective(X, y, sgd.weights.numpy(), sgd.bias.numpy(), 0), rel=1e-4)
    assert sgd.iterations == 100
    zero = np.log(4)
    assert sgd.objective - best.objective < 0.1 * (zero - best.objective)
    agree = design.probabilities(sgd, [H]).argmax(1) == design.probabilities(best, [H]).argmax(1)
    assert agree.mean() > 0.93

    probe = linear_probe(H[:1500], y[:1500], H[1500:], y[1500:], protocol="sgd100")
    train = Design(H[:1500], y[:1500])
    assert_allclose(probe.probabilities, train.probabilities(fit_sgd(train), [H[1500:]]), atol=1e-5)
    assert (probe.converged, probe.iterations, probe.l2) == (None, 100, 0.0)
    with pytest.raises(InputError, match="leave l2 out"):
        linear_probe(H, y, H, y, l2=1e-3, protocol="sgd100")
    with pytest.raises(InputError, match='unknown protocol "sgd"'):
        linear_probe(H, y, H, y, protocol="sgd")


def test_sgd_takes_the_steps_of_its_formula():
    """Momentum 0.9, batches of 256 in a seeded order, the rate along half a cosine to 0: by hand, in float64."""
    import torch

    H, y = planted(600)
    design = Design(H, y)
    X, one = design.held.double().numpy(), np.eye(4)[y]
    W, b = np.zeros((4, X.shape[1])), np.zeros(4)
    pushed = [np.zeros_like(W), np.zeros_like(b)]
    generator, step, total = torch.Generator().manual_seed(5), 0, 3 * 2
    for _ in range(3):
        order = torch.randperm(600, generator=generator).numpy()
        for rows in (order[:256], order[256:512]):
            p = np.exp(X[rows] @ W.T + b)
            residual = (p / p.sum(1, keepdims=True) - one[rows]) / 256
            pushed = [0.9 * v + g for v, g in zip(pushed, (residual.T @ X[rows], residual.sum(0)), strict=True)]
            rate = 0.1 * (1 + np.cos(np.pi * step / total)) / 2
            W, b, step = W - rate * pushed[0], b - rate * pushed[1], step + 1
    found = fit_sgd(design, epochs=3, seed=5)
    assert_allclose(found.weights, W, atol=1e-5)
    assert_allclose(found.bias, b, atol=1e-5)
    assert not np.allclose(fit_sgd(design, epochs=3, seed=6).weights, W, atol=1e-3)


@pytest.mark.parametrize("noise", [0.5, 3.0, 8.0])
def test_the_l2_is_the_one_after_which_the_held_out_loss_rises(noise):
    """By scikit-learn's fits on the other four fifths."""
    rng = np.random.default_rng(1)
    y = rng.integers(0, 4, 300)
    H = (rng.normal(size=(4, 40))[y] + noise * rng.normal(size=(300, 40))).astype(np.float32)
    X, held = StandardScaler().fit_transform(H.astype(float)), held_out(y, 0)
    losses = []
    for l2 in L2_PATH:
        peer = LogisticRegression(C=1 / (l2 * (~held).sum()), max_iter=5000, tol=1e-8).fit(X[~held], y[~held])
        losses.append(-np.log(peer.predict_proba(X[held])[np.arange(held.sum()), y[held]]).mean())
    rises = [k for k in range(1, len(losses)) if losses[k] >= losses[k - 1]]
    assert choose_l2(Design(H, y), 0) == L2_PATH[rises[0] - 1 if rises else -1]


def test_classes_of_one_image_do_not_choose_the_l2():
    """Held out, they are unknown to every fit: whatever it says of them is no reason for a strong L2."""
    rng = np.random.default_rng(4)
    y = np.concatenate([rng.integers(0, 3, 240), np.arange(3, 43)])
    H = (3 * rng.normal(size=(43, 30))[y] + rng.normal(size=(280, 30))).astype(np.float32)
    X, held = StandardScaler().fit_transform(H.astype(float)), held_out(y, 0)
    judged = held & np.isin(y, y[~held])
    assert 0 < judged.sum() < held.sum()
    losses = []
    for l2 in L2_PATH:
        peer = LogisticRegression(C=1 / (l2 * (~held).sum()), max_iter=5000, tol=1e-8).fit(X[~held], y[~held])
        shares = peer.predict_proba(X[judged])
        losses.append(-np.log(shares[np.arange(judged.sum()), np.searchsorted(peer.classes_, y[judged])]).mean())
    rises = [k for k in range(1, len(losses)) if losses[k] >= losses[k - 1]]
    wanted = L2_PATH[rises[0] - 1 if rises else -1]
    assert choose_l2(Design(H, y), 0) == wanted < L2_PATH[0]
    alone = np.arange(5)
    assert at_an_end(choose_l2(Design(H[:5], alone), 0)) == ""  # nothing to judge by


@pytest.mark.parametrize(("l2", "words"), [(1e-1, "the strongest of those tried"), (1e-4, "the weakest"), (1e-2, None)])
def test_a_strength_at_the_end_of_the_path_is_said(l2, words):
    assert words in at_an_end(l2) if words else at_an_end(l2) == ""


def test_the_held_out_fifth_is_even_over_classes():
    y = np.repeat([0, 1, 2], [50, 20, 5])
    held = held_out(y, seed=3)
    assert [held[y == k].sum() for k in range(3)] == [10, 4, 1]
    assert not np.array_equal(held, held_out(y, seed=4))


def test_the_seed_reaches_the_choice_of_the_l2(monkeypatch):
    H, y = planted(120)
    seeds = []

    def chosen(design, seed=0, *_):
        seeds.append(seed)
        return 1e-2

    monkeypatch.setattr("sslviz.analysis.probe.choose_l2", chosen)
    monkeypatch.setattr("sslviz.analysis.compression.choose_l2", chosen)
    linear_probe(H, y, H, y, seed=5)
    out_of_fold(H, y, None, folds=2, seed=7)
    compression_curve(H, y, H, y, reductions=[0.5], kinds=["discriminative"], seed=9)
    assert seeds == [5, 7, 7, 9]


@pytest.mark.parametrize(("labels", "n"), [(-1, 0), (3, 1)])
def test_folds_without_two_classes_are_refused(labels, n):
    with pytest.raises(InputError, match=f"a probe needs two classes; these samples have {n}"):
        out_of_fold(np.random.default_rng(0).random((20, 9)), np.full(20, labels), 1e-2)
