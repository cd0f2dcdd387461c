"""Data sets by name: torchvision's own download from a server of ours, and a Hugging Face data set in a folder."""

import hashlib
import http.server
import io
import pickle
import shutil
import tarfile
import threading
from functools import partial

import datasets as hugging
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_array_equal
from PIL import Image
from torchvision import datasets as torchvision

from sslviz.data import dataset as datasets
from sslviz.data.folder import list_folder
from sslviz.data.masks import load_masks, mask_facts, refresh_masks
from sslviz.data.sources import SOURCES, Found, Picture, split_source, write_pictures
from sslviz.errors import Cancelled, InputError
from sslviz.jobs.import_data import ImportDataSettings, import_data, name_of
from sslviz.progress import Progress
from sslviz.store.workspace import Workspace


def encoded(pixels, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def archive(path, files):
    """A .tar.gz of name -> content; returns its MD5."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def served(tmp_path):
    """(folder, its address)."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    folder = tmp_path / "served"
    folder.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def cifar(served, monkeypatch):
    """CIFAR-10 as its authors pack it, six and four images of it: (their pixels by split, their labels)."""
    folder, url = served
    rng = np.random.default_rng(0)
    pixels = {"train": rng.integers(0, 256, (6, 3, 32, 32), np.uint8), "test": rng.integers(0, 256, (4, 3, 32, 32), np.uint8)}
    labels = {"train": [0, 1, 0, 1, 0, 1], "test": [1, 0, 1, 0]}
    packed = {
        name: pickle.dumps({"data": pixels[split].reshape(-1, 3072), "labels": labels[split]})
        for name, split in (("data_batch_1", "train"), ("test_batch", "test"))
    }
    packed["batches.meta"] = pickle.dumps({"label_names": ["air/plane", "cat"]})
    lists = {name: hashlib.md5(content).hexdigest() for name, content in packed.items()}
    digest = archive(folder / "cifar.tar.gz", {f"cifar-10-batches-py/{name}": content for name, content in packed.items()})
    for name, value in {
        "url": f"{url}/cifar.tar.gz",
        "tgz_md5": digest,
        "train_list": [["data_batch_1", lists["data_batch_1"]]],
        "test_list": [["test_batch", lists["test_batch"]]],
        "meta": {"filename": "batches.meta", "key": "label_names", "md5": lists["batches.meta"]},
    }.items():
        monkeypatch.setattr(torchvision.CIFAR10, name, value)
    return pixels, labels


def run(workspace, name, source):
    return import_data(ImportDataSettings(name=name, source=source), workspace, Progress())


def test_cifar_comes_in_pixel_by_pixel(cifar, served, workspace):
    pixels, labels = cifar
    result = run(workspace, "c", "torchvision:CIFAR10")
    assert result["counts"] == {"train": 6, "test": 4}
    dataset = datasets.load(workspace, "c")
    assert dataset.classes == ["air-plane", "cat"]
    for split, part in dataset.samples.groupby("split"):
        part = part.assign(k=part["sample_id"].str.extract(r"(\d+)\.png$")[0].astype(int)).sort_values("k")
        assert part["label"].tolist() == labels[split]
        for sample_id, right in zip(part["sample_id"], pixels[split], strict=True):
            assert_array_equal(np.asarray(Image.open(dataset.root / sample_id)), right.transpose(1, 2, 0))
    (served[0] / "cifar.tar.gz").unlink()  # asked for again, it is there
    assert run(workspace, "c", "torchvision:CIFAR10")["counts"] == {"train": 6, "test": 4}
    assert run(workspace, "d", "torchvision:CIFAR10")["counts"] == {"train": 6, "test": 4}
    with pytest.raises(InputError, match='"c" is already there, from elsewhere'):
        run(workspace, "c", "torchvision:CIFAR100")


def test_what_cannot_be_had_is_one_line_and_leaves_nothing(cifar, served, workspace, monkeypatch):
    with pytest.raises(InputError, match='unknown torchvision data set "CIFAR11"'):
        run(workspace, "c", "torchvision:CIFAR11")
    with pytest.raises(InputError, match=r'"CIFAR10" is not the name of a data set. Write hf:OWNER/NAME or torchvision:NAME'):
        run(workspace, "c", "CIFAR10")
    (served[0] / "cifar.tar.gz").unlink()
    with pytest.raises(InputError, match=r"torchvision:CIFAR10 could not be downloaded \(HTTP Error 404.*data add NAME FOLDER$"):
        run(workspace, "c", "torchvision:CIFAR10")
    archive(served[0] / "cifar.tar.gz", {"other": b"x"})
    with pytest.raises(InputError, match="could not be downloaded"):  # another MD5 than its authors'
        run(workspace, "c", "torchvision:CIFAR10")
    assert workspace.datasets() == []
    assert not workspace.dataset("c").exists()


def test_pets_come_with_their_masks_and_names(served, workspace, tmp_path, monkeypatch):
    folder, url = served
    rng = np.random.default_rng(1)
    names = {"trainval": ["Abyssinian_1", "beagle_2"], "test": ["Abyssinian_3"]}
    pictures = {
        f"images/{n}.jpg": encoded(rng.integers(0, 256, (40, 60, 3), np.uint8), "JPEG") for k in names.values() for n in k
    }
    trimap = np.full((40, 60), 2, np.uint8)
    trimap[10:30, 10:30] = 1
    notes = {f"annotations/trimaps/{n}.png": encoded(trimap) for k in names.values() for n in k}
    for split, members in names.items():
        lines = [f"{name} {1 + (name[0] == 'b')} 1 1\n" for name in members]
        notes[f"annotations/{split}.txt"] = "".join(lines).encode()
    resources = [
        (f"{url}/{name}.tar.gz", archive(folder / f"{name}.tar.gz", content)) for name, content in (("i", pictures), ("a", notes))
    ]
    monkeypatch.setattr(torchvision.OxfordIIITPet, "_RESOURCES", resources)
    result = run(workspace, "pets", "torchvision:OxfordIIITPet")
    assert result["counts"] == {"train": 2, "test": 1}
    assert "core: 3 of 3 images have a mask" in result["notes"]
    dataset = datasets.load(workspace, "pets")
    assert sorted(dataset.samples["sample_id"]) == [
        "test/Abyssinian/Abyssinian_3.jpg",
        "train/Abyssinian/Abyssinian_1.jpg",
        "train/Beagle/beagle_2.jpg",
    ]
    assert (dataset.root / "train/Beagle/beagle_2.jpg").read_bytes() == pictures["images/beagle_2.jpg"]
    mask = load_masks(dataset).read("train/Beagle/beagle_2.jpg", (60, 40), 40, 40)["core"]
    assert mask[10:30, :20].min() == 255
    assert mask[:, 20:].max() == 0
    shutil.rmtree(workspace.root / "downloads")
    moved = Workspace(workspace.root.rename(tmp_path / "moved"))  # pictures and masks go along
    there = datasets.load(moved, "pets")
    assert_array_equal(load_masks(there).read("train/Beagle/beagle_2.jpg", (60, 40), 40, 40)["core"], mask)
    assert refresh_masks(there).facts["counts"]["core"] == 3


def test_what_a_cut_left_unpacked_is_unpacked_again(served, workspace, monkeypatch):
    """Imagenette's class takes a folder for the whole of it."""
    folder, url = served
    png = encoded(np.zeros((4, 4, 3), np.uint8), "JPEG")
    files = {
        f"imagenette2-320/{split}/{wnid}/{wnid}_{k}.JPEG": png
        for split in ("train", "val")
        for wnid in torchvision.Imagenette._WNID_TO_CLASS
        for k in range(2)
    }
    digest = archive(folder / "imagenette2-320.tgz", files)
    monkeypatch.setattr(torchvision.Imagenette, "_ARCHIVES", {"320px": (f"{url}/imagenette2-320.tgz", digest)})
    root = workspace.root / "downloads/torchvision/Imagenette"
    (half := root / "imagenette2-320/train/n01440764").mkdir(parents=True)
    (half / "n01440764_0.JPEG").write_bytes(png)
    (folder / "imagenette2-320.tgz").rename(root / "imagenette2-320.tgz")  # put there by hand
    assert run(workspace, "i", "torchvision:Imagenette")["counts"] == {"train": 20, "test": 20}
    shutil.rmtree(root / "imagenette2-320")  # taken away again
    assert run(workspace, "j", "torchvision:Imagenette")["counts"] == {"train": 20, "test": 20}
    assert datasets.load(workspace, "i").titles[-1] == "tench"
    assert len(list((workspace.dataset("i") / "images").rglob("*.jpeg"))) == 40


@pytest.fixture
def hub(tmp_path):
    """A data set as it lies on the hub: two splits that we know, one that we do not, two columns of labels."""
    rng = np.random.default_rng(2)
    pixels = {
        split: rng.integers(0, 256, (n, 20, 30, 3), np.uint8) for split, n in (("train", 5), ("validation", 3), ("extra", 2))
    }
    features = hugging.Features(
        {
            "caption": hugging.Value("string"),
            "img": hugging.Image(),
            "kind": hugging.ClassLabel(names=["cat", "dog"]),
            "breed": hugging.ClassLabel(names=["a", "b", "c"]),
        }
    )
    (tmp_path / "hub" / "data").mkdir(parents=True)
    for split, each in pixels.items():
        rows = {
            "caption": ["?"] * len(each),
            "img": [{"bytes": encoded(p), "path": None} for p in each],
            "kind": [k % 2 if k < 4 else -1 for k in range(len(each))],
            "breed": [0] * len(each),
        }
        path = tmp_path / "hub" / "data" / f"{split}-00000-of-00001.parquet"
        hugging.Dataset.from_dict(rows, features=features).to_parquet(path)
        if split == "train":
            table = pq.read_table(path)
            images = table["img"].to_pylist()
            images[1] = {"bytes": None, "path": str(tmp_path / "secret.png")}
            column = pa.chunked_array([pa.array(images, table.schema.field("img").type)])
            pq.write_table(table.set_column(1, table.schema.field("img"), column), path)
    (tmp_path / "secret.png").write_bytes(encoded(np.zeros((4, 4, 3), np.uint8)))
    return tmp_path / "hub", pixels


def test_a_hugging_face_data_set_comes_in_byte_by_byte(hub, workspace):
    folder, pixels = hub
    result = run(workspace, "h", f"hf:{folder}")
    assert result["counts"] == {"train": 4, "val": 3}
    assert result["notes"][:3] == [
        "labels: kind, not breed",
        "splits left out: extra",
        "1 rows without a picture are left out",  # a path in a file of others is not followed
    ]
    dataset = datasets.load(workspace, "h")
    assert dataset.classes == ["cat", "dog"]
    labels = dataset.samples.set_index("sample_id")["label"].to_dict()
    assert labels == {
        "train/cat/train-0000000.png": 0,
        "train/cat/train-0000002.png": 0,
        "train/dog/train-0000003.png": 1,
        "train/train-0000004.png": -1,  # unknown
        "val/cat/validation-0000000.png": 0,
        "val/dog/validation-0000001.png": 1,
        "val/cat/validation-0000002.png": 0,
    }
    for sample_id in labels:
        split, k = sample_id.rsplit("/", 1)[-1].removesuffix(".png").split("-")
        assert_array_equal(np.asarray(Image.open(dataset.root / sample_id)), pixels[split][int(k)])


def test_pictures_that_lie_as_files_in_the_data_set_are_taken(tmp_path, workspace):
    rng = np.random.default_rng(3)
    pixels = {
        f"{split}/{kind}/{k}.png": rng.integers(0, 256, (6, 6, 3), np.uint8)
        for split in ("train", "test")
        for kind in "ab"
        for k in range(2)
    }
    for name, each in pixels.items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(encoded(each))
    result = run(workspace, "s", f"hf:{tmp_path / 'set'}")
    assert (result["counts"], result["classes"]) == ({"train": 4, "test": 4}, 2)
    dataset = datasets.load(workspace, "s")
    found = sorted(np.asarray(Image.open(dataset.root / s)).tobytes() for s in dataset.samples["sample_id"])
    assert found == sorted(each.tobytes() for each in pixels.values())


def test_nothing_but_paths_elsewhere_is_no_data_set(hub, workspace, tmp_path):
    rows = {"image": [{"bytes": None, "path": str(tmp_path / "secret.png")}]}
    table = pa.table(rows, schema=pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))]))
    about = {b"huggingface": b'{"info": {"features": {"image": {"_type": "Image"}}}}'}
    (tmp_path / "paths").mkdir()
    pq.write_table(table.replace_schema_metadata(about), tmp_path / "paths" / "train.parquet")
    with pytest.raises(InputError, match="none of its 1 rows holds a picture that can be taken"):
        run(workspace, "p", f"hf:{tmp_path / 'paths'}")
    assert not workspace.dataset("p").exists()


def test_a_readme_that_names_files_elsewhere_is_refused(hub, tmp_path, workspace):
    folder, _ = hub
    (tmp_path / "bait").mkdir()
    (tmp_path / "bait/README.md").write_text(
        f"---\nconfigs:\n- config_name: default\n  data_files: {folder}/data/train-00000-of-00001.parquet\n---\n"
    )
    with pytest.raises(InputError, match="names files elsewhere"):
        run(workspace, "bait", f"hf:{tmp_path / 'bait'}")
    assert workspace.datasets() == []


def test_a_folders_name_may_hold_an_at(hub, workspace):
    folder, _ = hub
    there = folder.rename(folder.with_name("hub@home"))
    assert run(workspace, "h", f"hf:{there}")["counts"] == {"train": 4, "val": 3}


def test_masks_that_were_not_paired_are_paired_later(served, workspace, tmp_path, monkeypatch):
    test_pets_come_with_their_masks_and_names(served, Workspace(tmp_path / "other").create(), tmp_path, monkeypatch)
    monkeypatch.setattr("sslviz.data.masks.add_masks", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(workspace, "pets", "torchvision:OxfordIIITPet")
    monkeypatch.undo()
    assert mask_facts(datasets.load(workspace, "pets")) is None
    run(workspace, "pets", "torchvision:OxfordIIITPet")
    assert mask_facts(datasets.load(workspace, "pets"))["counts"]["core"] == 3


def test_splits_that_only_look_like_some_are_no_splits(tmp_path, workspace):
    (tmp_path / "odd").mkdir()
    features = hugging.Features({"image": hugging.Image(), "label": hugging.ClassLabel(names=["a"])})
    for split in ("data", "test"):
        png = [{"bytes": encoded(np.full((4, 4, 3), k, np.uint8)), "path": None} for k in range(5)]
        rows = hugging.Dataset.from_dict({"image": png, "label": [0] * 5}, features=features)
        rows.to_parquet(tmp_path / "odd" / f"{split}-00000-of-00001.parquet")
    (tmp_path / "odd/README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: data\n    path: data-*\n"
        "  - split: test\n    path: test-*\n---\n"
    )
    assert run(workspace, "o", f"hf:{tmp_path / 'odd'}")["counts"] == {"train": 8, "test": 2}  # held out as of any folder


@pytest.mark.parametrize("name", ["parquet", "", "../x", "a/b/c", "~nobody-of-this-name/x/y", "x" * 5000])
def test_what_is_neither_folder_nor_name_of_the_hub_is_refused(name, workspace):
    with pytest.raises(InputError, match="neither a folder here nor a name of the hub"):
        SOURCES["hf"].open(name, workspace.root)


def test_a_hugging_face_data_set_without_pictures_is_refused(tmp_path, workspace, monkeypatch):
    (tmp_path / "texts").mkdir()
    hugging.Dataset.from_dict({"text": ["a"]}).to_parquet(tmp_path / "texts" / "train.parquet")
    with pytest.raises(InputError, match=r"has no column of pictures \(text\)"):
        run(workspace, "t", f"hf:{tmp_path / 'texts'}")
    monkeypatch.setattr(hugging.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="hf:nobody/nothing could not be downloaded"):
        run(workspace, "t", "hf:nobody/nothing")


def test_classes_keep_apart_and_stay_inside(tmp_path):
    labels = [
        "a/b",
        "A-b",
        "../up",
        "..",
        "train",
        ".hidden",
        "cat.png",
        "",
        "Lost+Found",
        "\ud800",
        "\N{CJK UNIFIED IDEOGRAPH-6F22}" * 120,
    ]
    png = encoded(np.zeros((2, 2, 3), np.uint8))
    pictures = [Picture("train", label, str(k), png) for k, label in enumerate(labels)] + [Picture("", None, "x", b"no picture")]
    write_pictures(Found(len(pictures), pictures), tmp_path / "images", Progress())
    written = sorted(p.relative_to(tmp_path / "images").as_posix() for p in tmp_path.rglob("*") if p.is_file())
    assert len(written) == 12
    assert "x.jpg" in written
    folders = {path.split("/")[1] for path in written if path != "x.jpg"}
    short = "\N{CJK UNIFIED IDEOGRAPH-6F22}" * 66
    assert folders == {"a-b", "A-b-", "-up", "class", "train-", "hidden", "cat.png-", "class-", "Lost+Found-", "class--", short}
    assert list_folder(tmp_path / "images").samples["label_name"].nunique() == 11


def test_cancelled_nothing_is_left(tmp_path):
    class Stopped(Progress):
        def advance(self, done=1):
            raise Cancelled("stop")

    pictures = [Picture("train", "a", "0", encoded(np.zeros((2, 2, 3), np.uint8)))]
    with pytest.raises(Cancelled):
        write_pictures(Found(1, pictures), tmp_path / "images", Stopped())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("torchvision:CIFAR10", ("torchvision", "CIFAR10")),
        ("hf:owner/name@config", ("hf", "owner/name@config")),
        ("C:/photos", None),
        ("photos", None),
        ("hf:", None),
    ],
)
def test_what_is_had_by_name(text, found):
    assert split_source(text) == found


def test_names_without_being_given():
    assert [name_of(s) for s in ("torchvision:CIFAR10", "hf:uoft-cs/cifar100@Plain")] == ["cifar10", "cifar100-plain"]
