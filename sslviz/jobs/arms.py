"""The arms of a fine-tuning: trained one after another from the same start, on the same images in the same order."""

import math
import shutil
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from sslviz.analysis.features import EPS_GRID, ActivationCounts
from sslviz.analysis.probe import linear_probe
from sslviz.analysis.rows import score_rows
from sslviz.data import dataset as datasets
from sslviz.data.loading import ahead, read_picture
from sslviz.encoders.run import Encoder
from sslviz.encoders.store import card_of, save_encoder
from sslviz.errors import InputError, RunFailed, shown
from sslviz.jobs import command_of, readers
from sslviz.jobs.finetune import BASE, Arm, FinetuneSettings, of_arm
from sslviz.jobs.inputs import Embedded, open_embedded
from sslviz.jobs.mended import Judged
from sslviz.jobs.origin import Origin, name_taken
from sslviz.jobs.training import cut_from_files, fabric_for, left_out_by_all, train_ids, train_images
from sslviz.methods import METHODS, Method
from sslviz.methods.heads import take_apart
from sslviz.progress import Prefixed, Progress
from sslviz.store.files import only_writer, read_json, write_json
from sslviz.store.fingerprints import fingerprint
from sslviz.store.workspace import Workspace
from sslviz.training.loop import Schedule, batches_of, collapse, pull_ratio, train
from sslviz.training.regulariser import Regulariser, RegulariserWeights, Selection
from sslviz.training.sources import Source

_STRONG, _STRONG_BATCHES = 0.01, 4
_WATCHED, _WATCHED_TRAIN = 512, 2000


class Plan(NamedTuple):
    """An arm and seed that is to be trained, and the name of the encoder that it makes."""

    arm: Arm
    seed: int
    encoder: str
    weights: RegulariserWeights
    made_of: dict[str, str]
    """Fingerprints of everything that the encoder follows from, by what it is called."""
    notes: list[str]
    there: dict[str, Any] | None
    """The encoder's card, where it is there already."""


@dataclass(frozen=True)
class Trained:
    """An arm's encoder that is made, with the curve of its training (a row an epoch, epoch 0 is the base)."""

    arm: str
    seed: int
    encoder: str
    weights: RegulariserWeights
    curve: pd.DataFrame
    notes: list[str]

    def facts(self) -> dict[str, Any]:
        own = self.weights
        return {"arm": self.arm, "seed": self.seed, "encoder": self.encoder, "lambda1": own.lambda1, "lambda2": own.lambda2}


def known(value: Any) -> Any:
    """None instead of NaN, which JSON lacks."""
    return None if isinstance(value, float) and math.isnan(value) else value


class Trainer:
    """Trains one arm after another from the same start, on the same images in the same order."""

    def __init__(self, settings: FinetuneSettings, workspace: Workspace, origin: Origin, progress: Progress) -> None:
        """`fixed` and, for the process that speaks for all, `base` are known later: before the first arm."""
        if progress.folder is None:
            raise ValueError("finetune needs a run folder for its checkpoints")
        self.settings, self.workspace, self.origin = settings, workspace, origin
        self.folder, self.progress = progress.folder, progress
        self.base: Judged | None = None
        self.fixed = Selection(np.empty(0, np.int64), 0.0)
        self.dataset, _ = datasets.refresh(workspace, settings.dataset)
        self.fabric = fabric_for(settings.device, settings.precision)
        progress.note(device=self.fabric.device.type, precision=settings.precision, processes=self.fabric.world_size)

    def watched(self, embed: Callable[[list[str]], Iterable[tuple[list[str], np.ndarray]]], due: bool) -> dict[str, float]:
        """Of a fixed sample: mean Q, also of what the base's probe got right and wrong apart; where `due`, a probe's accuracy.

        embed: of pictures by sample_id, block by block, the ids of those that can be read and embeddings float[b, D].
        """
        assert self.base is not None

        def together(ids: list[str]) -> tuple[list[str], np.ndarray]:
            blocks = list(embed(ids))
            if not blocks:
                raise RunFailed(f"none of the {len(ids):,} watched pictures can be read. Is the data set's folder still there?")
            read, parts = zip(*blocks, strict=True)
            return [sample_id for block in read for sample_id in block], np.concatenate(parts)

        sample = self.base.sample(_WATCHED)
        ids, H = together(sample.index.tolist())
        sample = sample.loc[ids]
        q = score_rows(H, self.fixed.features, self.fixed.eps).q
        found = {"watched_q": float(q.mean())}
        if "correct" in sample:
            right = sample["correct"].to_numpy(dtype=bool)
            for outcome, part in (("correct", right), ("wrong", ~right)):
                found[f"watched_q_{outcome}"] = float(q[part].mean()) if part.any() else float("nan")
            found["watched_top1"] = float("nan")
            if due:
                train = self.embedded.samples
                train = train[(train["split"] == "train") & (train["label"] >= 0) & ~train["sample_id"].isin(sample.index)]
                train = train.sample(min(_WATCHED_TRAIN, len(train)), random_state=0)
            if due and train["label"].nunique() > 1:
                ids, H_train = together(train["sample_id"].tolist())
                y = train.set_index("sample_id").loc[ids, "label"].to_numpy()
                probe = linear_probe(H_train, y, H, sample["label"].to_numpy(), l2=self.base.l2)
                found["watched_top1"] = float("nan") if probe.top1 is None else probe.top1
        return found

    def watch_base(self) -> dict[str, float]:
        """What is watched of the base, where all curves begin; kept in the run's folder."""
        row_of, store = self.embedded.samples.set_index("sample_id")["row"], self.embedded.store
        found = self.watched(lambda ids: [(ids, store.read(row_of[ids].to_numpy()))], bool(self.settings.judge_every))
        found["moved"] = 0.0
        write_json(self.folder / BASE, {name: known(value) for name, value in found.items()})
        return found

    def plan(self, arm: Arm, seed: int) -> Plan:
        """What an arm is trained with. Raises InputError where another encoder has its name, RunFailed where nothing can pull."""
        name = self.settings.encoder_name(arm, seed)
        weights, notes = self._weights(arm)
        made_of = self._made_of(weights, seed)
        there: dict[str, Any] | None = self.fabric.broadcast(self._there(name, made_of) if self.fabric.is_global_zero else None)
        return Plan(arm, seed, name, weights, made_of, notes, there)

    def train(self, plan: Plan, progress: Prefixed) -> Trained:
        """One arm; where its encoder is there already, made in the very same way, that one is taken."""
        arm, seed, name, weights, made_of = plan[:5]
        if plan.there is not None:
            if self.fabric.is_global_zero:  # it may have been stopped just when the encoder was saved
                (self.folder / of_arm(arm, seed) / "checkpoint.pt").unlink(missing_ok=True)
            return Trained(arm, seed, name, weights, pd.DataFrame(plan.there["curve"], dtype=float), plan.there["notes"])
        epochs, lr, warmup = self.settings.pace()
        settings, made = self.settings, self.origin.made
        method = self._start()
        regulariser = Regulariser(self.fixed, weights)
        watch = _Watch(self, method, regulariser, progress)
        schedule = Schedule(epochs, settings.batch_size, lr, warmup, seed, settings.optimizer, further=True)
        folder = self._folder(of_arm(arm, seed), made_of)
        curve = train(
            method,
            made.views,
            self.images,
            made.size,
            self.normalise,
            schedule,
            folder,
            self.fabric,
            progress,
            watch.every_epoch,
            regulariser,
        )
        notes = list(plan.notes)
        if words := collapse(curve.to_dict("records"), method.idle_loss):
            notes.append(f"{arm}, seed {seed}: {words}")
        if left_out := left_out_by_all(self.images, self.fabric):
            notes.append(f"{len(left_out)} train images could not be read and are left out: {shown(left_out)}")
        if not self.fabric.is_global_zero:
            return Trained(arm, seed, name, weights, curve, notes)
        spec = self.origin.spec.model_copy(
            update={
                "name": name,
                "source": f"sslviz finetune of {settings.encoder} on {settings.dataset}, {arm}, seed {seed}, {epochs} epochs",
                "notes": (command_of("finetune", settings),),
            }
        )
        content: dict[str, Any] = {
            "command": command_of("finetune", settings),
            "epochs": epochs,
            "curve": {column: [known(float(f"{v:.{9 if column == 'step' else 5}g}")) for v in curve[column]] for column in curve},
            "made_by": fingerprint(made_of),
            "notes": notes,
        }
        with only_writer(self.workspace.encoder(name), f"encoder {name}", wait=True):
            self._there(name, made_of)  # another run may have made one of this name meanwhile
            save_encoder(self.workspace, spec, made.kept(method).state_dict(), take_apart(method, made), content)
        (folder / "checkpoint.pt").unlink()
        return Trained(arm, seed, name, weights, pd.DataFrame(content["curve"], dtype=float), notes)

    def _folder(self, name: str, made_of: dict[str, str]) -> Path:
        """A folder for what follows from `made_of`. Raises InputError where a checkpoint of anything else lies there."""
        folder = self.folder / name
        record = folder / "made_by.json"
        was = read_json(record) if record.exists() else {}
        if self.fabric.is_global_zero and was != made_of:
            if (folder / "checkpoint.pt").exists():
                changed = " and ".join(what for what, value in made_of.items() if was.get(what) != value)
                raise InputError(
                    f"{changed} changed since this run began, and what it has trained ({name}) belongs to what was. Put it back, "
                    f"or delete the run and start again: sslviz runs delete {self.folder.name}"
                )
            shutil.rmtree(folder, ignore_errors=True)
            write_json(record, made_of)
        self.fabric.barrier()
        return folder

    def _there(self, name: str, made_of: dict[str, str]) -> dict[str, Any] | None:
        """The card of an encoder that was made in the very same way; None where none is there."""
        if name not in self.workspace.encoders():
            return None
        card = card_of(self.workspace, name)
        if card.get("made_by") != fingerprint(made_of):
            raise name_taken(name)
        return card

    @property
    def normalise(self) -> Any:
        return self.origin.spec.input.mean, self.origin.spec.input.std

    @cached_property
    def embedded(self) -> Embedded:
        """The samples that have an embedding by the base, and where it is."""
        return open_embedded(self.workspace, self.settings.dataset, self.settings.encoder)

    @cached_property
    def ids(self) -> list[str]:
        """Of the images that are trained on."""
        return train_ids(self.dataset, self.settings.most())

    @cached_property
    def from_files(self) -> bool:
        return cut_from_files(self.dataset, len(self.ids), self.origin.made.size, self.settings.input, self.folder)

    @cached_property
    def images(self) -> Source:
        size, workers = self.origin.made.size, readers(self.settings.workers)
        found = train_images(self.dataset, self.ids, size, self.from_files, workers, self.folder, self.progress)
        if len(found) < self.settings.batch_size:
            raise InputError(
                f"{len(found):,} of {len(self.ids):,} train images can be read; expected at least one batch of "
                f"{self.settings.batch_size}. Choose a smaller --batch-size."
            )
        return found

    @cached_property
    def strong(self) -> float:
        """lambda1 at which the Q term pulls with 1 % of the own loss's force, over the first batches of seed 0."""
        self.progress.stage("measuring how hard the Q term pulls")
        record = self._folder("strong", self._made_of(self._plain, 0)) / "lambda1.json"
        if record.exists():
            return float(read_json(record))
        own, method = self.settings, self._start().to(self.fabric.device)
        schedule = Schedule(1, own.batch_size, 0, 0, 0)
        steps = range(min(_STRONG_BATCHES, len(self.images) // own.batch_size))
        made = self.origin.made
        batches = batches_of(made.views, self.images, made.size, self.normalise, schedule, self.fabric, steps)
        ratio = pull_ratio(method, Regulariser(self.fixed, self._plain).to(self.fabric.device), batches)
        lambda1 = float(f"{_STRONG * float(self.fabric.broadcast(ratio)):.3g}")
        if math.isinf(lambda1):
            raise RunFailed("the Q term pulls at nothing here (all sets are empty): leave the arm strong out.")
        if self.fabric.is_global_zero:
            write_json(record, lambda1)
        return lambda1

    @property
    def _plain(self) -> RegulariserWeights:
        own = self.settings
        return RegulariserWeights(own.lambda1, own.lambda2, normalise=own.normalise, empty=own.empty)

    def _weights(self, arm: Arm) -> tuple[RegulariserWeights, list[str]]:
        if arm == "strong":
            if self.strong <= self._plain.lambda1:
                return self._plain, [f"strong: the Q term has 1 % of the own loss's force or more at {self._plain.lambda1:.3g}"]
            weights = replace(self._plain, lambda1=self.strong)
            return weights, [f"strong: lambda1 is {weights.lambda1:.3g}, the Q term at 1 % of the own loss's force"]
        changes: dict[Arm, dict[str, Any]] = {
            "control": {"lambda1": 0.0, "lambda2": 0.0},
            "both": {},
            "lambda1": {"lambda2": 0.0},
            "lambda2": {"lambda1": 0.0},
            "lasso": {"lambda1": 0.0, "lasso": True},
        }
        return replace(self._plain, **changes[arm]), []

    def _made_of(self, weights: RegulariserWeights, seed: int) -> dict[str, str]:
        """Fingerprints of everything that the encoder of an arm follows from, by what it is called."""
        own = self.settings.model_dump(mode="json", include={"optimizer", "batch_size", "refresh_every", "precision"})
        own["from_files"] = self.from_files
        if len(self.ids) < int((self.dataset.samples["split"] == "train").sum()):
            own["images"] = len(self.ids)
        selection = [self.fixed.features.tolist(), self.fixed.eps]
        head = self.origin.head.digest() if self.origin.head else self.settings.head_epochs
        if self.settings.refresh_every:
            own["eps"] = self.settings.eps
        if own["optimizer"] == "lars" and (share := METHODS[self.origin.made.method].recipe.lars_biases) != 1:
            own["lars_biases"] = share
        return {
            "the encoder": fingerprint([self.origin.spec.fingerprint(), self.origin.made.model_dump(mode="json"), head]),
            "the data set": self.dataset.fingerprint,
            "its discriminative features": fingerprint(selection),
            "the weights of the terms": fingerprint(asdict(weights)),
            "the epochs or the learning rate": fingerprint(self.settings.pace()),
            "the seed": str(seed),
            "the number of processes": str(self.fabric.world_size),
            "a setting": fingerprint(own),
        }

    def _start(self) -> Method:
        """The method that every arm begins with; where the encoder came without a head, with one that was trained on it."""
        method = self.origin.method()
        if self.origin.head is None:
            method.load_state_dict(self._fresh)
        return method

    @cached_property
    def _fresh(self) -> dict[str, torch.Tensor]:
        own, made = self.settings, self.origin.made
        torch.manual_seed(0)
        method = self.origin.method()
        lr = method.recipe.base_lr * own.batch_size / 256
        schedule = Schedule(own.head_epochs, own.batch_size, lr, min(1, own.head_epochs - 1), 0, heads_only=True)
        folder = self._folder("head", self._made_of(self._plain, 0))
        progress = Prefixed(self.progress, "fresh head")
        train(method, made.views, self.images, made.size, self.normalise, schedule, folder, self.fabric, progress)
        return method.state_dict()


class _Watch:
    """At the end of an epoch: what is watched of the encoder as it is then, and D where it is to be chosen anew."""

    def __init__(self, trainer: Trainer, method: Method, regulariser: Regulariser, progress: Progress) -> None:
        self.trainer, self.method, self.regulariser, self.progress = trainer, method, regulariser, progress

    def every_epoch(self, rows: list[dict[str, float]]) -> dict[str, float]:
        settings = self.trainer.settings
        epoch, epochs = len(rows), settings.pace()[0]
        if settings.refresh_every and epoch % settings.refresh_every == 0 and epoch < epochs:
            self._refresh()
        due = bool(settings.judge_every) and (epoch % settings.judge_every == 0 or epoch == epochs)
        return {**self.trainer.watched(self._embedded, due), "moved": self._moved()}

    def _moved(self) -> float:
        """How far the encoder's weights are from where they began, as a share of their norm."""
        start = self.trainer.origin.weights
        far = norm = 0.0
        for name, weight in self.trainer.origin.made.kept(self.method).named_parameters():
            before = start[name].to(weight.device)
            far += float((weight.detach() - before).square().sum())
            norm += float(before.square().sum())
        return math.sqrt(far / norm)

    def _refresh(self) -> None:
        assert self.trainer.base is not None
        samples, scored = self.trainer.embedded.samples, self.trainer.base.made_with["score"]
        eps = self.trainer.settings.eps
        counts = ActivationCounts(self.trainer.origin.spec.feature_dim, EPS_GRID if eps == "auto" else [eps])
        for _, block in self._embedded(samples.loc[samples["split"] == "train", "sample_id"].tolist()):
            counts.update(block)
        chosen = counts.select(eps, scored["lower"], scored["upper"])
        self.regulariser.selection = Selection(chosen.features, chosen.eps)

    def _embedded(self, sample_ids: list[str]) -> Iterable[tuple[list[str], np.ndarray]]:
        """Embeddings float32[b, D] of pictures by the kept branch as it is now, batch by batch, and whose they are; pictures that
        cannot be read are left out. The training is not touched."""
        root = self.trainer.dataset.root
        assert root is not None
        spec, batch = self.trainer.origin.spec, 64
        encoder = Encoder(spec, deepcopy(self.trainer.origin.made.kept(self.method)), str(self.regulariser.features.device))
        workers = readers(self.trainer.settings.workers)
        pictures = ahead(
            lambda s: read_picture(root / s, spec.input.resize, spec.input.size, thumb=False), sample_ids, workers, 2 * batch
        )
        ids: list[str] = []
        waiting: list[torch.Tensor] = []
        for sample_id, loaded in zip(sample_ids, pictures, strict=True):
            self.progress.check()
            if loaded.pixels is None:
                self.progress.warn(f"{sample_id} {loaded.error}: it is not watched any more")
            else:
                ids.append(sample_id)
                waiting.append(loaded.pixels)
            if waiting and (len(waiting) == batch or sample_id == sample_ids[-1]):
                yield ids, encoder.embed(torch.stack(waiting)).cpu().numpy()
                ids, waiting = [], []
