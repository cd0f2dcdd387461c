"""Every method of the registry: what training, export and resume rely on; and each loss against its paper, by loops."""

import copy
import dataclasses
import math

import pytest
import torch
from torch import distributed

from sslviz.encoders.backbones.small_resnet import SmallResNet
from sslviz.methods import METHODS, Clock, Made, Views
from sslviz.methods.heads import take_apart
from tests.inputs import picture, pixels
from tests.processes import in_two
from tests.training.test_views import random_views

OPTIONS = {"hidden_dim": 16, "output_dim": 16, "prototypes": 6, "queue_size": 12}
SECOND_EPOCH = Clock(step=2, total=8, steps_per_epoch=2)
IMAGES = torch.stack([pixels(picture(s, kind=s)) for s in range(8)]).float() / 255
EVERY = pytest.mark.parametrize("name", list(METHODS))
SECOND = {"moco": "key", "byol": "target", "dino": "teacher"}


def make(name, seed=0, version=2):
    torch.manual_seed(seed)
    cls = METHODS[name]
    options = cls.options.changed(name, **{k: v for k, v in OPTIONS.items() if getattr(cls.options, k)})
    method = cls(SmallResNet(width=8, blocks=1, feature_dim=24), 24, dataclasses.replace(options, version=version), 2)
    if name in SECOND:  # as it would be after some steps: the two networks differ
        with torch.no_grad():
            for p in [*method.backbone.parameters(), *method.projector.parameters()]:
                if p.requires_grad:
                    p.add_(0.02 * torch.randn_like(p))
    return method.train()


def views_of(name, seed=0):
    own = METHODS[name].views
    return random_views(IMAGES, Views(n_local=own.n_local, local_scale=(0.1, 0.3)), 16, seed)


def trained(method):
    return {k: p for k, p in method.named_parameters() if p.requires_grad}


@EVERY
def test_one_step_lowers_the_loss_of_its_batch(name):
    method, views = make(name), views_of(name)
    start = copy.deepcopy(method.state_dict())
    loss, *_ = method(views, SECOND_EPOCH)
    loss.backward()
    method.load_state_dict(start)
    again, *_ = method(views, SECOND_EPOCH)
    length = math.sqrt(sum(float(p.grad.square().sum()) for p in trained(method).values()))
    with torch.no_grad():
        for p in trained(method).values():
            p.sub_(p.grad * (0.002 / length))
    state = method.state_dict()
    method.load_state_dict({k: v if k in trained(method) else start[k] for k, v in state.items()})
    after, *_ = method(views, SECOND_EPOCH)
    noise = abs(float(again.detach() - loss.detach()))
    expected = 0.002 * length  # of a step this small along the gradient
    assert float(loss.detach() - after.detach()) > noise + 0.5 * expected


@EVERY
def test_every_trainable_weight_gets_a_gradient_and_no_other(name):
    method = make(name)
    method(views_of(name), SECOND_EPOCH)[0].backward()
    method.after_backward(SECOND_EPOCH)
    for weight, p in method.named_parameters():
        if p.requires_grad:
            assert p.grad is not None, weight
            assert p.grad.abs().sum() > 0, weight
        else:
            assert p.grad is None, weight
    second = {"moco": "key_", "byol": "target_", "dino": ("teacher_", "projector.last_layer.weight_g")}
    assert {k for k, p in method.named_parameters() if not p.requires_grad} == {
        k for k, _ in method.named_parameters() if name in second and k.startswith(second[name])
    }


@EVERY
def test_held_still_in_the_first_epoch(name):
    method = make(name)
    method(views_of(name), Clock(0, 8, 2))[0].backward()
    method.after_backward(Clock(0, 8, 2))
    held = {k for k, p in trained(method).items() if p.grad is None}
    assert held == {"swav": {"prototypes.weight"}, "dino": {"projector.last_layer.weight_v"}}.get(name, set())


@pytest.mark.parametrize("name", list(SECOND))
def test_the_moving_average_moves_the_second_network_only(name):
    method = make(name)
    before = copy.deepcopy(method.state_dict())
    method.after_step(SECOND_EPOCH)
    m = method.momentum
    if name != "moco":  # 0.99 at the start, 1 at the end of the run: Grill et al., section 3.3
        m = 1 - (1 - m) * (math.cos(math.pi * 2 / 7) + 1) / 2
    parameters = dict(method.named_parameters())
    for key, value in method.state_dict().items():
        prefix = SECOND[name] + "_"
        if key.startswith(prefix) and key in parameters:
            expected = m * before[key] + (1 - m) * before[key.removeprefix(prefix)]
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-7)
        else:
            assert torch.equal(value, before[key]), key
    assert any(not torch.equal(v, before[k]) for k, v in method.state_dict().items())


@EVERY
def test_the_same_seed_gives_the_same_bits(name):
    results = []
    for _ in range(2):
        method = make(name)
        loss, outputs, _ = method(views_of(name), SECOND_EPOCH)
        loss.backward()
        results.append((loss, outputs, *(p.grad for p in trained(method).values())))
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


@EVERY
def test_backbone_and_head_together_are_the_whole_state(name):
    """What is shipped (kept backbone, head) gives back the method that was saved: same loss, bit for bit."""
    method, views = make(name), views_of(name)
    method(views, SECOND_EPOCH)  # fills queues, moves centres
    method.after_step(SECOND_EPOCH)
    kept = {f"{method.keeps}.{k}": v.clone() for k, v in getattr(method, method.keeps).state_dict().items()}
    made = Made(method=name, options=METHODS[name].options, views=METHODS[name].views, size=16)
    head = {k: v.clone() for k, v in take_apart(method, made).tensors.items()}
    assert not kept.keys() & head.keys()
    expected = method(views, SECOND_EPOCH)[0]
    other = make(name, seed=7)
    other.load_state_dict({**kept, **head}, strict=True)
    assert torch.equal(other(views, SECOND_EPOCH)[0], expected)


@EVERY
def test_losses_do_not_suffer_from_half_precision_networks(name):
    method, views = make(name), views_of(name)
    start = copy.deepcopy(method.state_dict())
    exact = method(views, SECOND_EPOCH)[0]
    method.load_state_dict(start)
    with torch.autocast("cpu", torch.bfloat16):
        loss = method(views, SECOND_EPOCH)[0]
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(float(exact.detach()), rel=0.05)


# ---- the papers' formulas, from outputs of the right branches


def unit(v):
    norm = math.sqrt(sum(x * x for x in v))
    return [x / norm for x in v]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def softmax(v):
    top = max(v)
    exps = [math.exp(x - top) for x in v]
    return [e / sum(exps) for e in exps]


def rows(*tensors):
    return [t.detach().double().tolist() for t in tensors]


def simclr(method, views):  # eq. 1
    z = [unit(v) for v in rows(method.projector(method.backbone(torch.cat(views))))[0]]
    n, t = len(z), method.criterion.temperature
    losses = []
    for i in range(n):
        partner = (i + n // 2) % n
        others = sum(math.exp(dot(z[i], z[k]) / t) for k in range(n) if k != i)
        losses.append(-math.log(math.exp(dot(z[i], z[partner]) / t) / others))
    return sum(losses) / n


def moco(method, views):  # He et al., eq. 1, both views as queries of the same queue
    queue = rows(method.criterion.memory_bank.bank)[0]
    t, total = method.criterion.temperature, 0.0
    q = rows(*(method.projector(method.backbone(v)) for v in views))
    k = rows(*(method.key_projector(method.key_backbone(v)) for v in views))
    for queries, keys in ((q[0], k[1]), (q[1], k[0])):
        queries, keys = [unit(v) for v in queries], [unit(v) for v in keys]
        for query, key in zip(queries, keys, strict=True):
            logits = [dot(query, key) / t] + [dot(query, old) / t for old in queue]
            total -= math.log(softmax(logits)[0]) / len(queries) / 2
    return total


def byol(method, views):  # eq. 2, symmetric
    guesses = rows(*(method.predictor(method.projector(method.backbone(v))) for v in views))
    targets = rows(*(method.target_projector(method.target_backbone(v)) for v in views))
    total = 0.0
    for guess, target in ((guesses[0], targets[1]), (guesses[1], targets[0])):
        for p, z in zip(guess, target, strict=True):
            total += sum((a - b) ** 2 for a, b in zip(unit(p), unit(z), strict=True)) / len(guess)
    return total


def simsiam(method, views):  # eq. 2
    z = [method.projector(method.backbone(v)) for v in views]
    p, z = rows(*(method.predictor(v) for v in z)), rows(*z)
    pairs = [(p[0], z[1]), (p[1], z[0])]
    return sum(-dot(unit(a), unit(b)) / len(g) / 2 for g, h in pairs for a, b in zip(g, h, strict=True))


def barlow_twins(method, views):  # eqs. 1 and 2, outputs standardised over the batch
    columns = []
    for out in rows(*(method.projector(method.backbone(v)) for v in views)):
        standard = []
        for column in zip(*out, strict=True):
            mean = sum(column) / len(column)
            variance = sum((v - mean) ** 2 for v in column) / len(column)
            standard.append([(v - mean) / math.sqrt(variance + 1e-5) for v in column])
        columns.append(standard)
    total = 0.0
    for i, a in enumerate(columns[0]):
        for j, b in enumerate(columns[1]):
            c = dot(a, b) / len(a)
            total += (1 - c) ** 2 if i == j else 0.005 * c**2
    return total


def vicreg(method, views):  # eqs. 1 to 6
    outs = rows(*(method.projector(method.backbone(v)) for v in views))
    n, d = len(outs[0]), len(outs[0][0])
    # the paper's s(Z, Z') is the mean over the batch of squared distances; its code, and lightly, also divide by d
    near = sum((a - b) ** 2 for x, y in zip(*outs, strict=True) for a, b in zip(x, y, strict=True)) / (n * d)
    variance = covariance = 0.0
    for out in outs:
        centred = []
        for column in zip(*out, strict=True):
            mean = sum(column) / n
            centred.append([v - mean for v in column])
        for i, a in enumerate(centred):
            variance += max(0, 1 - math.sqrt(dot(a, a) / (n - 1) + 1e-4)) / d
            covariance += sum((dot(a, b) / (n - 1)) ** 2 for j, b in enumerate(centred) if j != i) / d
    return 25 * near + 25 * variance / 2 + covariance  # the code halves the variance term


def swav(method, views):  # eqs. 2 to 5; codes by three rounds of Sinkhorn at epsilon 0.03, as the recipe says
    h = torch.cat([method.backbone(torch.cat(views[:2])), method.backbone(torch.cat(views[2:]))])
    z, prototypes = rows(method.projector(h), method.prototypes.weight)
    scores = [[dot(unit(v), c) for c in prototypes] for v in z]
    n, t = len(views[0]), 0.1
    of_view = [scores[k * n : (k + 1) * n] for k in range(len(views))]
    total = 0.0
    for k in range(2):
        q = [[math.exp(s / 0.03) for s in row] for row in of_view[k]]
        for _ in range(3):
            for j in range(len(prototypes)):
                column = sum(row[j] for row in q)
                for row in q:
                    row[j] /= column
            q = [[v / sum(row) for v in row] for row in q]
        others = [v for v in range(len(views)) if v != k]
        for v in others:
            for code, row in zip(q, of_view[v], strict=True):
                guess = softmax([s / t for s in row])
                total -= sum(c * math.log(g) for c, g in zip(code, guess, strict=True)) / n / len(others) / 2
    return total


def dino(method, views):  # eqs. 1 and 3, algorithm 1
    def head(projector, h):
        v = torch.nn.functional.normalize(projector.layers(h), dim=1)
        weight = projector.last_layer.weight_v
        return v @ torch.nn.functional.normalize(weight, dim=1).T

    h = torch.cat([method.backbone(torch.cat(views[:2])), method.backbone(torch.cat(views[2:]))])
    student = rows(head(method.projector, h))[0]
    teacher = rows(head(method.teacher_projector, method.teacher_backbone(torch.cat(views[:2]))))[0]
    centre = rows(method.criterion.center)[0][0][0]
    n, total, pairs = len(views[0]), 0.0, 0
    temperature = 0.04 + 0.03 * min(1, SECOND_EPOCH.done / 0.1)
    for t in range(2):
        for s in range(len(views)):
            if s == t:
                continue
            pairs += 1
            for i in range(n):
                target = softmax([(v - c) / temperature for v, c in zip(teacher[t * n + i], centre, strict=True)])
                guess = softmax([v / 0.1 for v in student[s * n + i]])
                total -= sum(a * math.log(b) for a, b in zip(target, guess, strict=True)) / n
    return total / pairs


def test_swavs_prototypes_lie_on_the_sphere_from_the_start_and_after_every_step():
    method = make("swav")
    for _ in range(2):
        torch.testing.assert_close(method.prototypes.weight.norm(dim=1), torch.ones(6), rtol=0, atol=1e-6)
        with torch.no_grad():
            method.prototypes.weight.add_(1.0)
        method.after_step(SECOND_EPOCH)


@pytest.mark.parametrize(("step", "temperature"), [(0, 0.04), (5, 0.055), (10, 0.07), (60, 0.07)])
def test_dinos_teacher_sharpens_less_over_the_first_tenth(step, temperature):
    method, used = make("dino"), []
    criterion = method.criterion.forward
    method.criterion.forward = lambda *args, teacher_temp: (
        used.append(teacher_temp) or criterion(*args, teacher_temp=teacher_temp)
    )
    method(views_of("dino"), Clock(step, 101, 1))
    assert used == [pytest.approx(temperature)]
    method(views_of("dino"), Clock(0, 101, 1, further=True))  # heads that were trained before begin where they ended
    assert used[1] == pytest.approx(0.07)


def gradient_of(name, rank, world, **options):
    """Of a process's share of a batch, with BatchNorm held still: means over its rows are its own by design."""
    method = make(name, **options)
    for module in method.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
            torch.manual_seed(1)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    torch.manual_seed(5)
    loss = method([view.chunk(world)[rank] for view in views_of(name)], SECOND_EPOCH).loss
    loss.backward()
    return torch.cat([p.grad.flatten() for p in method.parameters() if p.grad is not None])


def shared_gradients(folder):
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    found = {name: gradient_of(name, rank, 2) for name in METHODS} | {"moco v3": gradient_of("moco", rank, 2, version=3)}
    for gradient in found.values():
        distributed.all_reduce(gradient)
    if rank == 0:
        torch.save({name: gradient / 2 for name, gradient in found.items()}, folder / "gradients.pt")
    distributed.destroy_process_group()


def test_two_processes_share_one_loss(tmp_path):
    """Averaged over processes, as training does, the gradient of each method is that of the whole batch in one."""
    in_two(shared_gradients, tmp_path)
    for name, shared in torch.load(tmp_path / "gradients.pt", weights_only=True).items():
        whole = gradient_of("moco", 0, 1, version=3) if name == "moco v3" else gradient_of(name, 0, 1)
        assert float((shared - whole).norm() / whole.norm()) < 1e-3, name


def test_simsiams_target_gets_no_gradient():
    """Eq. 3: the gradient is that of predictions against outputs that are constants (Chen & He, section 3)."""
    gradients = []
    for by_hand in (False, True):
        method, views = make("simsiam"), views_of("simsiam")
        if by_hand:
            z = [method.projector(method.backbone(view)) for view in views]
            p = [method.predictor(one) for one in z]
            loss = -sum(torch.cosine_similarity(p[k], z[1 - k].detach()).mean() for k in range(2)) / 2
        else:
            loss = method(views, SECOND_EPOCH).loss
        loss.backward()
        gradients.append([p.grad for p in method.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


FORMULAS = {f.__name__: f for f in (simclr, moco, byol, simsiam, barlow_twins, vicreg, swav, dino)}


@EVERY
def test_loss_is_the_papers(name):
    method, views = make(name), views_of(name)
    start = copy.deepcopy(method.state_dict())
    method(views_of(name, seed=5), SECOND_EPOCH)  # so that queue and centre are not those of the start
    state = {k: v for k, v in method.state_dict().items() if k.startswith("criterion.")}
    method.load_state_dict({**start, **copy.deepcopy(state)})
    with torch.no_grad():
        expected = FORMULAS[name](method, views)
    method.load_state_dict({**start, **state})
    assert float(method(views, SECOND_EPOCH)[0].detach()) == pytest.approx(expected, rel=1e-4)
