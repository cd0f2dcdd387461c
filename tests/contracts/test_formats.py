"""Training that goes on from other people's files: a replica of each format, its writer's loss by hand, then ours on the file.

Modules carry their writer's names, layers and grouping of views (docs/formats.md); losses are written out from their code.
"""

import argparse
import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from sslviz.encoders.add import add_encoder
from sslviz.errors import InputError
from sslviz.jobs.finetune import FinetuneSettings
from sslviz.jobs.origin import Origin
from sslviz.methods import Clock
from sslviz.store.workspace import Workspace

CLOCK = Clock(0, 1, 1, further=True)
D, H, P, Q, K = 512, 24, 16, 20, 12
N = 6


def net(seed):
    """A ResNet of torchvision's, a block a stage."""
    torch.manual_seed(seed)
    backbone = ResNet(BasicBlock, [1, 1, 1, 1])
    backbone.fc = nn.Identity()
    return backbone


def seq(*layers):
    return nn.Sequential(*layers)


def linear(a, b, bias=True):
    return nn.Linear(a, b, bias=bias)


def bn(width, affine=True):
    layer = nn.BatchNorm1d(width, affine=affine)
    if affine:  # so that a lost weight shows
        nn.init.uniform_(layer.weight, 0.5, 1.5)
        nn.init.uniform_(layer.bias, -0.3, 0.3)
    return layer


def unit(v):
    return v / v.norm(dim=1, keepdim=True)


def moved(module, seed):
    """A second network: not equal to the first."""
    second = copy.deepcopy(module)
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in second.parameters():
            p.add_(0.05 * p.std().nan_to_num(0.1).clamp_min(0.01) * torch.randn_like(p))
    return second


def weight_normed(a, b):
    layer = nn.utils.weight_norm(linear(a, b, bias=False))
    layer.weight_g.data.uniform_(0.8, 1.2)
    return layer


class Replica(nn.Module):
    """What a writer trains; `loss(views)` is theirs."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, torch.Tensor):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)


def contrast(z, t):
    """SimCLR's loss of 2N rows, the views below one another."""
    z, n, total = unit(z), len(z), 0.0
    for i in range(n):
        others = [j for j in range(n) if j != i]
        scores = torch.stack([z[i] @ z[j] / t for j in others])
        total = total - (z[i] @ z[(i + n // 2) % n] / t - scores.logsumexp(0))
    return total / n


def against_queue(q, k, queue, t):
    """InfoNCE: queue float[P, K]."""
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue], 1) / t
    return -(logits[:, 0] - logits.logsumexp(1)).mean()


def cosine_loss(p, z):
    return -(unit(p) * unit(z.detach())).sum(1).mean()


def standardised(z):
    return (z - z.mean(0)) / (z.var(0, unbiased=False) + 1e-5).sqrt()


def barlow(a, b, off):
    c = standardised(a).T @ standardised(b) / len(a)
    on_diagonal = (c.diagonal() - 1).square().sum()
    return on_diagonal + off * (c.square().sum() - c.diagonal().square().sum())


def vicreg(a, b, variance):
    total = 25 * (a - b).square().mean()
    for z in (a, b):
        total = total + variance * F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean()
        z = z - z.mean(0)
        cov = z.T @ z / (len(z) - 1)
        total = total + (cov.square().sum() - cov.diagonal().square().sum()) / z.shape[1]
    return total


def sinkhorn(scores):
    q = torch.exp(scores / 0.05).T
    q = q / q.sum()
    for _ in range(3):
        q = q / q.sum(1, keepdim=True) / q.shape[0]
        q = q / q.sum(0, keepdim=True) / q.shape[1]
    return (q * q.shape[1]).T


def swapped(scores, n_views):
    """SwAV: each of the two large views assigns, all others predict."""
    total = 0.0
    for i in range(2):
        code = sinkhorn(scores[i].detach())
        others = [v for v in range(n_views) if v != i]
        total = total - sum((code * F.log_softmax(scores[v] / 0.1, 1)).sum(1).mean() for v in others) / len(others)
    return total / 2


def dino(teacher, student, centre, t):
    total, pairs = 0.0, 0
    for i, target in enumerate(teacher):
        for j, said in enumerate(student):
            if i != j:
                total = total - (F.softmax((target - centre) / t, 1) * F.log_softmax(said / 0.1, 1)).sum(1).mean()
                pairs += 1
    return total / pairs


def lightning(model, **more):
    return {"pytorch-lightning_version": "2.0", "epoch": 9, "state_dict": model.state_dict(), **more}


def solo(model, method):
    model.classifier = linear(D, 10)
    return lightning(model, hyper_parameters={"method": method})


FORMATS = {}


def replica(make):
    FORMATS[make.__name__] = make
    return make


# ---- solo-learn: every view by itself, linear layers with bias before BatchNorm


@replica
def solo_simclr():
    m = Replica(backbone=net(0), projector=seq(linear(D, H), nn.ReLU(), linear(H, P)))
    return solo(m, "simclr"), lambda v: contrast(torch.cat([m.projector(m.backbone(x)) for x in v]), 0.2), m


@replica
def solo_mocov2plus():
    m = Replica(backbone=net(0), projector=seq(linear(D, H), nn.ReLU(), linear(H, P)))
    m.momentum_backbone, m.momentum_projector = moved(m.backbone, 1), moved(m.projector, 2)
    m.register_buffer("queue", F.normalize(torch.randn(2, P, K), dim=1))
    m.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))

    def loss(v):
        q = [unit(m.projector(m.backbone(x))) for x in v]
        k = [unit(m.momentum_projector(m.momentum_backbone(x))) for x in v]
        return (against_queue(q[0], k[1], m.queue[1], 0.2) + against_queue(q[1], k[0], m.queue[0], 0.2)) / 2

    return solo(m, "mocov2plus"), loss, m


@replica
def solo_mocov3():
    projector = seq(linear(D, H, False), bn(H), nn.ReLU(), linear(H, P, False), bn(P, affine=False))
    m = Replica(backbone=net(0), projector=projector)
    m.predictor = seq(linear(P, Q, False), bn(Q), nn.ReLU(), linear(Q, P, False))
    m.momentum_backbone, m.momentum_projector = moved(m.backbone, 1), moved(m.projector, 2)
    return solo(m, "mocov3"), lambda v: moco_v3(m, v, 0.2, m.momentum_backbone, m.momentum_projector), m


def moco_v3(m, v, t, key_backbone, key_projector, backbone=None, projector=None):
    backbone, projector = backbone or m.backbone, projector or m.projector
    q = [unit(m.predictor(projector(backbone(x)))) for x in v]
    k = [unit(key_projector(key_backbone(x))) for x in v]
    labels = torch.arange(len(q[0]))
    return 2 * t * (F.cross_entropy(q[0] @ k[1].T / t, labels) + F.cross_entropy(q[1] @ k[0].T / t, labels))


@replica
def solo_byol():
    m = Replica(backbone=net(0), projector=seq(linear(D, H), bn(H), nn.ReLU(), linear(H, P)))
    m.predictor = seq(linear(P, Q), bn(Q), nn.ReLU(), linear(Q, P))
    m.momentum_backbone, m.momentum_projector = moved(m.backbone, 1), moved(m.projector, 2)

    def loss(v):
        p = [m.predictor(m.projector(m.backbone(x))) for x in v]
        z = [m.momentum_projector(m.momentum_backbone(x)) for x in v]
        return 4 + 2 * cosine_loss(p[0], z[1]) + 2 * cosine_loss(p[1], z[0])

    return solo(m, "byol"), loss, m


def simsiam_parts():
    projector = seq(
        linear(D, H, False), bn(H), nn.ReLU(), linear(H, H, False), bn(H), nn.ReLU(), linear(H, P), bn(P, affine=False)
    )
    return projector, seq(linear(P, Q, False), bn(Q), nn.ReLU(), linear(Q, P))


@replica
def solo_simsiam():
    projector, predictor = simsiam_parts()
    m = Replica(backbone=net(0), projector=projector, predictor=predictor)

    def loss(v):
        z = [m.projector(m.backbone(x)) for x in v]
        return (cosine_loss(m.predictor(z[0]), z[1]) + cosine_loss(m.predictor(z[1]), z[0])) / 2

    return solo(m, "simsiam"), loss, m


@replica
def solo_swav():
    m = Replica(backbone=net(0), projector=seq(linear(D, H), bn(H), nn.ReLU(), linear(H, P)), prototypes=weight_normed(P, K))

    def loss(v):
        return swapped([m.prototypes(unit(m.projector(m.backbone(x)))) for x in v], len(v))

    return solo(m, "swav"), loss, m


class DinoHead(nn.Module):
    def __init__(self, use_bn=False, plain=False):
        super().__init__()
        norm = (lambda: [bn(H)]) if use_bn else (lambda: [])
        self.mlp = seq(linear(D, H), *norm(), nn.GELU(), linear(H, H), *norm(), nn.GELU(), linear(H, P))
        self.last_layer = linear(P, K, bias=False) if plain else nn.utils.weight_norm(linear(P, K, bias=False))
        if not plain:
            self.last_layer.weight_g.data.fill_(1)

    def forward(self, x):
        return self.last_layer(unit(self.mlp(x)))


@replica
def solo_dino():
    m = Replica(backbone=net(0), head=DinoHead(use_bn=True))
    m.momentum_backbone, m.momentum_head = moved(m.backbone, 1), DinoHead(use_bn=True)
    m.dino_loss_func = Replica(center=0.1 * torch.randn(1, K))

    def loss(v):
        student = [m.head(m.backbone(x)) for x in v]
        teacher = [m.momentum_head(m.momentum_backbone(x)).detach() for x in v]
        return dino(teacher, student, m.dino_loss_func.center, 0.07)

    return solo(m, "dino"), loss, m


def three(last_bias=True, bias=True):
    return seq(linear(D, H, bias), bn(H), nn.ReLU(), linear(H, H, bias), bn(H), nn.ReLU(), linear(H, P, last_bias))


@replica
def solo_vicreg():
    m = Replica(backbone=net(0), projector=three())
    return solo(m, "vicreg"), lambda v: vicreg(*(m.projector(m.backbone(x)) for x in v), 25), m


@replica
def solo_barlow_twins():
    m = Replica(backbone=net(0), projector=three())
    return solo(m, "barlow_twins"), lambda v: 0.1 * barlow(*(m.projector(m.backbone(x)) for x in v), 0.0051), m


# ---- lightly's benchmarks: heads of its own classes, methods told by their parts


class Layers(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.layers = seq(*layers)

    def forward(self, x):
        return self.layers(x)


def light(m):
    m.online_classifier = Replica(classification_head=linear(D, 10))
    return lightning(m)


@replica
def lightly_simclr():
    m = Replica(backbone=net(0), projection_head=Layers(linear(D, H, False), bn(H), nn.ReLU(), linear(H, P, False), bn(P)))
    return light(m), lambda v: contrast(m.projection_head(m.backbone(torch.cat(v))), 0.1), m


@replica
def lightly_moco():
    m = Replica(backbone=net(0), projection_head=Layers(linear(D, H), nn.ReLU(), linear(H, P)))
    m.key_backbone, m.key_projection_head = moved(m.backbone, 1), moved(m.projection_head, 2)
    queue = F.normalize(torch.randn(65_536, P, generator=torch.Generator().manual_seed(0)), dim=1).T  # no file holds it

    def loss(v):
        return against_queue(
            unit(m.projection_head(m.backbone(v[0]))), unit(m.key_projection_head(m.key_backbone(v[1]))), queue, 0.2
        )

    return light(m), loss, m


@replica
def lightly_byol():
    m = Replica(backbone=net(0), projection_head=Layers(linear(D, H, False), bn(H), nn.ReLU(), linear(H, P)))
    m.prediction_head = Layers(linear(P, Q, False), bn(Q), nn.ReLU(), linear(Q, P))
    m.teacher_backbone, m.teacher_projection_head = moved(m.backbone, 1), moved(m.projection_head, 2)

    def loss(v):  # lightly leaves the constant 4 of the paper's formula out
        p = [m.prediction_head(m.projection_head(m.backbone(x))) for x in v]
        z = [m.teacher_projection_head(m.teacher_backbone(x)) for x in v]
        return 4 + 2 * cosine_loss(p[0], z[1]) + 2 * cosine_loss(p[1], z[0])

    return light(m), loss, m


@replica
def lightly_swav():
    m = Replica(backbone=net(0), projection_head=Layers(linear(D, H, False), bn(H), nn.ReLU(), linear(H, P)))
    m.prototypes = Replica(heads=nn.ModuleList([linear(P, K)]))
    m.prototypes.heads[0].weight.data = unit(m.prototypes.heads[0].weight.data)

    def loss(v):
        return swapped([m.prototypes.heads[0](unit(m.projection_head(m.backbone(x)))) for x in v], len(v))

    return light(m), loss, m


@replica
def lightly_dino():
    def head():
        layer = Layers(linear(D, H), nn.GELU(), linear(H, H), nn.GELU(), linear(H, P))
        layer.last_layer = nn.utils.weight_norm(linear(P, K, bias=False))
        layer.last_layer.weight_g.data.fill_(1)
        return layer

    m = Replica(backbone=net(0), projection_head=head())  # these are the teacher's
    m.student_backbone, m.student_projection_head = moved(m.backbone, 1), head()
    m.criterion = Replica(center=0.1 * torch.randn(1, 1, K))

    def say(h, layer):
        return layer.last_layer(unit(layer.layers(h)))

    def loss(v):
        large, small = torch.cat(v[:2]), torch.cat(v[2:])
        teacher = say(m.backbone(large), m.projection_head).detach().chunk(2)
        student = [*say(m.student_backbone(large), m.student_projection_head).chunk(2)]
        student += say(m.student_backbone(small), m.student_projection_head).chunk(len(v) - 2)
        return dino(teacher, student, m.criterion.center[0], 0.04)

    return light(m), loss, m


@replica
def lightly_vicreg():
    m = Replica(backbone=net(0), projection_head=Layers(linear(D, H, False), bn(H), nn.ReLU(), linear(H, P)))
    return light(m), lambda v: vicreg(*m.projection_head(m.backbone(torch.cat(v))).chunk(2), 12.5), m


@replica
def lightly_barlowtwins():
    head = Layers(linear(D, H, False), bn(H), nn.ReLU(), linear(H, H, False), bn(H), nn.ReLU(), linear(H, P))
    m = Replica(backbone=net(0), projection_head=head)
    return light(m), lambda v: barlow(*m.projection_head(m.backbone(torch.cat(v))).chunk(2), 0.005), m


# ---- the authors' own


def under(lead, state):
    return {lead + name: tensor for name, tensor in state.items()}


@replica
def simsiam_official():
    projector, predictor = simsiam_parts()
    m = Replica(encoder=net(0), predictor=predictor)
    m.encoder.fc = projector

    def loss(v):
        z = [m.encoder(x) for x in v]
        return (cosine_loss(m.predictor(z[0]), z[1]) + cosine_loss(m.predictor(z[1]), z[0])) / 2

    return {"epoch": 100, "arch": "resnet18", "state_dict": under("module.", m.state_dict())}, loss, m


@replica
def moco_v2_official():
    m = Replica(encoder_q=net(0))
    m.encoder_q.fc = seq(linear(D, D), nn.ReLU(), linear(D, P))
    m.encoder_k = moved(m.encoder_q, 1)
    m.register_buffer("queue", F.normalize(torch.randn(P, K), dim=0))
    m.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))

    def loss(v):
        return against_queue(unit(m.encoder_q(v[0])), unit(m.encoder_k(v[1])), m.queue, 0.2)

    return {"epoch": 200, "state_dict": under("module.", m.state_dict())}, loss, m


@replica
def moco_v3_official():
    m = Replica(base_encoder=net(0))
    m.base_encoder.fc = seq(linear(D, H, False), bn(H), nn.ReLU(), linear(H, P, False), bn(P, affine=False))
    m.momentum_encoder = moved(m.base_encoder, 1)
    m.predictor = seq(linear(P, Q, False), bn(Q), nn.ReLU(), linear(Q, P, False))
    same = nn.Identity()
    content = {"epoch": 100, "state_dict": under("module.", m.state_dict())}
    return content, lambda v: moco_v3(m, v, 1.0, m.momentum_encoder, same, m.base_encoder, same), m


@replica
def swav_official():
    m = Replica(net=net(0), projection_head=seq(linear(D, H), bn(H), nn.ReLU(), linear(H, P)), prototypes=linear(P, K, False))
    m.prototypes.weight.data = unit(m.prototypes.weight.data)

    def loss(v):
        h = torch.cat([m.net(torch.cat(v[:2])), m.net(torch.cat(v[2:]))])
        return swapped(m.prototypes(unit(m.projection_head(h))).chunk(len(v)), len(v))

    state = {name.removeprefix("net."): tensor for name, tensor in m.state_dict().items()}
    return under("module.", state), loss, m


def dino_official(student, teacher):
    m = Replica(student=Replica(backbone=net(0), head=student), teacher=Replica(backbone=net(1), head=teacher))
    centre = 0.1 * torch.randn(1, K)

    def say(which, v):
        groups = [v[:2], v[2:]] if len(v) > 2 else [v]
        return which.head(torch.cat([which.backbone(torch.cat(g)) for g in groups])).chunk(len(v))

    def loss(v):
        return dino([t.detach() for t in say(m.teacher, v[:2])], say(m.student, v), centre, 0.04)

    networks = {name: under("module.", getattr(m, name).state_dict()) for name in ("student", "teacher")}
    return {**networks, "epoch": 9, "dino_loss": {"center": centre}}, loss, m


@replica
def dino_official_as_in_the_readme():
    return dino_official(DinoHead(), DinoHead())


@replica
def dino_official_without_weight_norm():
    return dino_official(DinoHead(plain=True), DinoHead(plain=True))


@replica
def vicreg_official():
    m = Replica(backbone=net(0), projector=three(last_bias=False))
    content = {"epoch": 9, "model": under("module.", m.state_dict())}
    return content, lambda v: vicreg(*(m.projector(m.backbone(x)) for x in v), 12.5), m


@replica
def barlow_twins_official():
    m = Replica(backbone=net(0), projector=three(last_bias=False, bias=False), bn=bn(P, affine=False))
    content = {"epoch": 9, "model": under("module.", m.state_dict())}
    return content, lambda v: barlow(*(m.projector(m.backbone(x)) for x in v), 0.0051), m


def stored(tmp_path, content):
    tmp_path.mkdir(exist_ok=True)
    torch.save(content, tmp_path / "x.pth")
    workspace = Workspace(tmp_path / "w").create()
    add_encoder(workspace, str(tmp_path / "x.pth"), "x")
    return Origin.read(workspace, FinetuneSettings(dataset="any", encoder="x"))


@pytest.mark.parametrize("name", list(FORMATS))
def test_training_goes_on_with_the_writers_own_loss(tmp_path, name):
    torch.manual_seed(3)
    content, loss, _ = FORMATS[name]()
    origin = stored(tmp_path, content)
    assert any("goes on with the" in note for note in origin.notes)
    n_local = 2 if origin.made.views.n_local else 0
    torch.manual_seed(5)
    views = [torch.randn(N, 3, 32, 32) for _ in range(2)] + [torch.randn(N, 3, 32, 32) for _ in range(n_local)]
    method = origin.method().train()
    step = method(views, CLOCK)
    with torch.no_grad():
        theirs = float(loss(views))
    assert math.isfinite(theirs)
    assert float(step.loss.detach()) == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    step.loss.backward()
    for weight, p in method.named_parameters():  # second networks, and lengths of DINO's last layer, stay
        second = weight.startswith(("key_", "target_", "teacher_")) or weight.endswith("weight_g")
        assert (p.grad is None) == second, weight


def test_a_file_of_moco_that_was_stripped_goes_on_with_copies(tmp_path):
    """The published files hold the query encoder only."""
    content, _, _ = moco_v2_official()
    content["state_dict"] = {k: v for k, v in content["state_dict"].items() if "encoder_q" in k}
    origin = stored(tmp_path, content)
    assert origin.made.options.queue_size == 65_536
    words = " ".join(origin.notes)
    assert "the file has no key_backbone: it begins as a copy" in words
    assert "the file has no queue" in words
    method = origin.method()
    for (name, ours), (_, query) in zip(method.key_backbone.named_parameters(), method.backbone.named_parameters(), strict=True):
        assert torch.equal(ours, query), name
        assert not ours.requires_grad


@pytest.mark.parametrize("make", [solo_dino, dino_official_as_in_the_readme, dino_official_without_weight_norm])
def test_dino_without_its_centre_begins_with_one_of_zeros(tmp_path, make):
    content, _, _ = make()
    centres = [part for part in (content, content.get("dino_loss"), content.get("state_dict")) if part]
    for part in centres:
        for name in [name for name in part if name.endswith("center")]:
            del part[name]
    origin = stored(tmp_path, content)
    assert "the file has no centre: it begins at zero" in origin.notes
    assert origin.made.options.output_dim == K
    n_local = 2 if origin.made.views.n_local else 0
    views = [torch.randn(N, 3, 32, 32) for _ in range(2 + n_local)]
    assert math.isfinite(float(origin.method().train()(views, CLOCK).loss.detach()))


@pytest.mark.parametrize("make", ["moco_v2_official", "solo_mocov2plus"])
def test_new_keys_of_moco_take_the_place_that_the_file_points_to(tmp_path, make):
    """The authors' _dequeue_and_enqueue: from queue_ptr on."""
    content, _, _ = FORMATS[make]()
    pointer = next(name for name in content["state_dict"] if name.endswith("queue_ptr"))
    content["state_dict"][pointer] = torch.tensor([4])
    method = stored(tmp_path, content).method().train()
    banks = [module for name, module in method.named_modules() if name.endswith("memory_bank")]
    before = [memory.bank.clone() for memory in banks]
    method([torch.randn(N, 3, 32, 32) for _ in range(2)], CLOCK)
    for memory, old in zip(banks, before, strict=True):
        changed = (memory.bank != old).any(1).nonzero().flatten().tolist()
        assert changed == list(range(4, 4 + N))


def test_settings_in_the_file_count(tmp_path):
    content, _, _ = dino_official_as_in_the_readme()
    content["args"] = argparse.Namespace(teacher_temp=0.07, momentum_teacher=0.9995, arch="resnet50", lr=0.03)
    origin = stored(tmp_path, content)
    assert (origin.made.options.temperature, origin.made.options.momentum) == (0.07, 0.9995)
    assert "temperature is 0.07, as the file says" in origin.notes


def test_settings_of_solo_learn_count(tmp_path):
    content, _, _ = solo_byol()
    content["hyper_parameters"]["momentum"] = {"base_tau": 0.996, "classifier": False}
    origin = stored(tmp_path, content)
    assert origin.made.options.momentum == 0.996
    content["hyper_parameters"]["momentum"] = {"base_tau": float("nan")}
    assert stored(tmp_path / "other", content).made.options.momentum == 0.99


def test_lightlys_byol_is_embedded_by_its_online_network(tmp_path):
    content, _, model = lightly_byol()
    origin = stored(tmp_path, content)
    assert torch.equal(origin.weights["conv1.weight"], model.backbone.conv1.weight)


def test_vicreg_and_barlow_twins_of_solo_learn_look_alike_and_are_asked_for(tmp_path):
    content, _, _ = solo_vicreg()
    del content["hyper_parameters"]
    with pytest.raises(InputError, match="solo-learn, method unknown, that is not known. Say which loss to go on with: --method"):
        stored(tmp_path, content)
    workspace = Workspace(tmp_path / "w")
    origin = Origin.read(workspace, FinetuneSettings(dataset="any", encoder="x", method="barlow_twins"))
    assert origin.made.options.terms == (0.1, 0.0051)


@pytest.mark.parametrize(
    ("make", "own", "other"),
    [(solo_simsiam, "simsiam", "simclr"), (solo_byol, "byol", "simsiam"), (solo_mocov3, "moco", "byol")],
)
def test_another_method_than_the_files_is_refused(tmp_path, make, own, other):
    stored(tmp_path, make()[0])
    workspace = Workspace(tmp_path / "w")
    asked = FinetuneSettings(dataset="any", encoder="x", method=own)
    assert Origin.read(workspace, asked).made.method == own
    with pytest.raises(InputError, match=f"has a head of {own}( v3)?; leave --method {other} out"):
        Origin.read(workspace, asked.model_copy(update={"method": other}))


def test_what_went_on_can_go_on_again(tmp_path):
    """A head with other layers than ours, stored as our own, is the same method again."""
    from sslviz.encoders.store import Head
    from sslviz.methods.heads import put_together, take_apart

    origin = stored(tmp_path, solo_byol()[0])
    method = origin.method()
    again: Head = take_apart(method, origin.made)
    other, made, _ = put_together(origin.spec, origin.made.kept(method).state_dict(), again)
    assert made == origin.made
    assert all(torch.equal(t, other.state_dict()[n]) for n, t in method.state_dict().items())
