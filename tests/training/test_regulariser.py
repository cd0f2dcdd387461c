"""The regulariser against hand-worked rows, slow loops, finite differences, and itself in two processes."""

import math

import numpy as np
import pytest
import torch

import sslviz
from sslviz.errors import InputError
from sslviz.jobs.training import fabric_for
from sslviz.methods import METHODS
from sslviz.training.regulariser import Objective, Regulariser, RegulariserWeights, Selection
from tests.contracts.test_methods import SECOND_EPOCH, make, views_of
from tests.processes import in_two

# unit rows (0, 0, .6, .8) and (0, .6, 0, .8): mean .35, population std .357, threshold at eps .65 .582
ROWS = torch.tensor([[0, 0, 0.6, 0.8], [0, 0.6, 0, 0.8]], dtype=torch.float64)
D23 = Selection(np.array([2, 3]), 0.65)


def terms_of(rows, selection=D23, **weights):
    h = rows.clone().requires_grad_()
    return h, Regulariser(selection, RegulariserWeights(**weights))(h)


def test_the_hand_worked_rows():
    _, terms = terms_of(ROWS, lambda1=0.1, lambda2=10)
    assert float(terms.mean_q) == pytest.approx((0.35 + 0.45) / 2)  # row 1: mean of .6 and .8 less .35; row 2: only .8
    assert float(terms.q_term) == pytest.approx(-0.1 * 0.35 / 2)  # only row 1 lies below the mean; over both rows
    assert float(terms.mean_l1) == pytest.approx((0 + 0.6 + 0.6 + 1.6) / 4)
    assert float(terms.l1_term) == pytest.approx(10 * 1.6)  # only the last column lies above; not divided by the rows
    assert float(terms.empty_share) == 0


def test_a_selection_of_features_alone_gives_the_published_weights():
    H = torch.rand(40, 16, generator=torch.Generator().manual_seed(0))
    selection = sslviz.select_features(H, 1.0)
    found = sslviz.Regulariser(selection)(H)
    same = Regulariser(Selection(selection.features, 1.0), RegulariserWeights(1e-4, 1e-4))(H)
    assert [float(v) for v in found] == [float(v) for v in same]
    assert float(found.q_term) < 0 < float(found.l1_term)


def test_samples_and_columns_that_are_the_mean_do_not_count():
    rows = torch.tensor([[0, 0, 0.6, 0.8], [0.6, 0.8, 0, 0]], dtype=torch.float64)
    terms = Regulariser(Selection(np.arange(4), 0.65), RegulariserWeights(1, 1))(rows)
    assert float(terms.q_term) == 0  # both Q equal their mean
    level = torch.eye(4, dtype=torch.float64)
    assert float(Regulariser(Selection(np.arange(4), 0.65), RegulariserWeights(1, 1))(level).l1_term) == 0


def test_what_cannot_be_is_said():
    for features, eps, words in (([-1], 1.0, "outside 0"), ([0.5], 1.0, "integer feature"), ([1], -1.0, "eps is -1")):
        with pytest.raises(InputError, match=words):
            Regulariser(Selection(np.array(features), eps))
    narrow = sslviz.select_features(np.random.default_rng(0).random((20, 3)), 1.0)
    with pytest.raises(InputError, match="the rows have 4 features; D was selected among 3"):
        Regulariser(narrow)(ROWS)
    with pytest.raises(InputError, match="the rows have 3 features; feature 3 of D is outside"):
        Regulariser(D23)(ROWS[:, :3])
    for given, words in (
        ({"lambda1": -1.0}, "lambda1 is -1"),
        ({"lambda2": math.nan}, "lambda2 is nan"),
        ({"empty": "x"}, 'empty is "x"'),
    ):
        with pytest.raises(InputError, match=words):
            RegulariserWeights(**given)


def test_rows_are_normalised_unless_told_otherwise():
    _, scaled = terms_of(ROWS * torch.tensor([[7.0], [3.0]]))
    _, plain = terms_of(ROWS)
    torch.testing.assert_close(scaled.q_term, plain.q_term)
    torch.testing.assert_close(scaled.l1_term, plain.l1_term)
    _, raw = terms_of(ROWS * torch.tensor([[2.0], [1.0]]), normalise=False)
    assert float(raw.mean_q) == pytest.approx((0.7 + 0.45) / 2)
    assert float(raw.mean_l1) == pytest.approx((0.6 + 1.2 + 2.4) / 4)


def test_the_gradient_by_hand():
    h, terms = terms_of(ROWS, lambda1=0.1, lambda2=10, normalise=False)
    terms.q_term.backward(retain_graph=True)
    expected = torch.tensor([[-0.25, -0.25, 0.25, 0.25], [0, 0, 0, 0]], dtype=torch.float64) * (-0.1 / 2)
    torch.testing.assert_close(h.grad, expected)  # (1/2 in L and D) - 1/4, of row 1
    h.grad = None
    terms.l1_term.backward()
    expected = torch.tensor([[0, 0, 0, 10], [0, 0, 0, 10]], dtype=torch.float64)
    torch.testing.assert_close(h.grad, expected)


def test_lasso_counts_every_column():
    _, terms = terms_of(ROWS, lambda2=1, lasso=True)
    assert float(terms.l1_term) == pytest.approx(2.8)


def test_a_sample_in_which_nothing_of_d_fires():
    only_2 = Selection(np.array([2]), 0.65)
    h, terms = terms_of(ROWS, only_2, lambda1=1)
    assert float(terms.empty_share) == 0.5  # row 2
    assert float(terms.mean_q) == pytest.approx(0.25 / 2)
    terms.q_term.backward()
    assert float(h.grad.abs().sum()) == 0  # the trap: Q = 0 below the mean, and no gradient
    h, terms = terms_of(ROWS, only_2, lambda1=1, empty="highest", normalise=False)
    assert float(terms.mean_q) == pytest.approx((0.25 - 0.35) / 2)  # its highest feature of D: 0 - .35
    terms.q_term.backward()
    torch.testing.assert_close(h.grad[1], torch.tensor([0.25, 0.25, -0.75, 0.25], dtype=torch.float64) / 2)


def test_no_discriminative_feature_at_all():
    h, terms = terms_of(ROWS, Selection(np.array([], dtype=int), 0.65), empty="highest")
    assert float(terms.q_term) == 0
    assert float(terms.empty_share) == 1
    (terms.q_term + terms.l1_term).backward()
    assert torch.isfinite(h.grad).all()


@pytest.mark.parametrize("weights", [{}, {"lasso": True}, {"empty": "highest"}, {"normalise": False}])
@pytest.mark.parametrize("seed", range(3))
def test_gradients_equal_finite_differences(weights, seed):
    torch.manual_seed(seed)
    h = (torch.randn(6, 20, dtype=torch.float64).abs() ** 3 + 0.01).requires_grad_()  # away from the kink of | |
    own = Regulariser(Selection(np.arange(0, 20, 2), 1.0), RegulariserWeights(lambda1=1, lambda2=1, **weights))
    assert torch.autograd.gradcheck(lambda h: own(h).q_term, h)
    assert torch.autograd.gradcheck(lambda h: own(h).l1_term, h)


@pytest.mark.parametrize("seed", range(5))
def test_both_terms_by_loops(seed):
    torch.manual_seed(seed)
    h = torch.randn(9, 30).abs() ** 3
    chosen, eps = list(range(5, 25)), 1.5
    _, terms = terms_of(h, Selection(np.array(chosen), eps), lambda1=2, lambda2=3)
    unit = [[v / math.sqrt(sum(x * x for x in row)) for v in row] for row in h.double().tolist()]
    scores = []
    for row in unit:
        mean = sum(row) / len(row)
        std = math.sqrt(sum((v - mean) ** 2 for v in row) / len(row))
        excess = [row[j] - mean for j in chosen if row[j] > mean + eps * std]
        scores.append(sum(excess) / len(excess) if excess else 0.0)
    alpha = sum(scores) / len(scores)
    assert float(terms.q_term) == pytest.approx(-2 * sum(q for q in scores if q < alpha) / len(scores), rel=1e-5)
    columns = [sum(abs(row[k]) for row in unit) for k in range(30)]
    beta = sum(columns) / len(columns)
    assert float(terms.l1_term) == pytest.approx(3 * sum(c for c in columns if c > beta), rel=1e-5)


@pytest.mark.parametrize("name", list(METHODS))
def test_the_loss_meets_the_features_of_the_global_views(name):
    """The objective adds the terms of exactly those rows and says how hard each loss pulls."""
    method, views = make(name), views_of(name)
    start = {k: v.clone() for k, v in method.state_dict().items()}
    step = method(views, SECOND_EPOCH)
    assert step.features.shape == (2 * len(views[0]), 24)
    alone = torch.autograd.grad(step.loss, step.features, retain_graph=True)[0]
    assert alone.abs().sum() > 0
    method.load_state_dict(start)
    own = Regulariser(Selection(np.arange(8), 0.5), RegulariserWeights(lambda1=0.5, lambda2=0.25))
    objective = Objective(method, own)
    loss, outputs, watched = objective(views, SECOND_EPOCH)
    torch.testing.assert_close(outputs, step.outputs)
    terms = own(step.features)
    torch.testing.assert_close(loss, step.loss + terms.q_term + terms.l1_term)
    assert float(watched["ssl_loss"]) == pytest.approx(float(step.loss), rel=1e-6)
    loss.backward()
    norms = objective.gradient_norms()
    assert norms["ssl_gradient"] == pytest.approx(float(alone.norm()), rel=1e-3)
    for term, key in ((terms.q_term, "q_gradient"), (terms.l1_term, "l1_gradient")):
        pull = torch.autograd.grad(term, step.features, retain_graph=True)[0]
        assert norms[key] == pytest.approx(float(pull.norm()), rel=1e-4)


def test_without_weights_nothing_changes():
    """The control arm watches the terms but trains as if there were none: the same bits."""
    gradients = []
    for own in (None, Regulariser(Selection(np.arange(8), 0.5), RegulariserWeights(0, 0))):
        method = make("simclr")
        loss, *_ = Objective(method, own)(views_of("simclr"), SECOND_EPOCH)
        loss.backward()
        gradients.append([p.grad for p in method.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_mixed_precision_reaches_only_the_features():
    """Under autocast the terms of bf16 features are those of the same numbers in float32."""
    rounded = ROWS_8.relu().bfloat16()
    own = Regulariser(Selection(np.arange(5), 0.5), RegulariserWeights())
    plain = own(rounded.float())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = own(rounded)
    for name, term in mixed._asdict().items():
        assert term.dtype == torch.float32, name
        torch.testing.assert_close(term, getattr(plain, name), rtol=0, atol=0)


ROWS_8 = torch.linspace(-1, 1, 40).reshape(8, 5).sin()
GIVEN = Selection(np.arange(2, 10), 0.8)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(5, 12)
        self.own = Regulariser(GIVEN, RegulariserWeights(lambda1=0.7, lambda2=0.3))

    def forward(self, x):
        return self.own(torch.relu(self.layer(x)))


def terms_of_a_share(out):
    """Facts and gradient of a batch of eight rows, of which this process sees its share."""
    fabric = fabric_for("cpu", "32-true")
    net = Net()
    model, _ = fabric.setup(net, torch.optim.SGD(net.parameters(), 0.1))
    terms = model(ROWS_8.chunk(fabric.world_size)[fabric.global_rank])
    fabric.backward(terms.q_term + terms.l1_term)
    if fabric.is_global_zero:
        facts = [float(terms.mean_q), float(terms.mean_l1), float(terms.empty_share)]
        torch.save({"facts": torch.tensor(facts), "gradient": net.layer.weight.grad}, out)


def test_two_processes_give_the_gradients_of_one(tmp_path):
    terms_of_a_share(tmp_path / "1.pt")
    in_two(terms_of_a_share, tmp_path / "2.pt")
    one, two = (torch.load(tmp_path / f"{devices}.pt", weights_only=True) for devices in (1, 2))
    torch.testing.assert_close(two["facts"], one["facts"])
    torch.testing.assert_close(two["gradient"], one["gradient"])
