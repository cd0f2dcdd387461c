import os
import shutil
import unicodedata

import pytest

from sslviz.data import dataset as datasets
from sslviz.data.folder import class_titles, is_inside, list_folder
from sslviz.data.loading import read_picture
from sslviz.errors import InputError, NotFound
from sslviz.store.workspace import Workspace
from tests.inputs import folder, picture


def counts(listing):
    return listing.samples.groupby(["split", "label_name"]).size().to_dict()


@pytest.mark.parametrize(("train", "test"), [("train", "val"), ("Training", "testing"), ("tr", "eval"), ("train", "valid")])
def test_split_folders_under_any_usual_name(tmp_path, train, test):
    listing = list_folder(folder(tmp_path, {f"{train}/cat": 3, f"{train}/dog": 2, f"{test}/cat": 1}))
    assert sorted(listing.samples["split"].unique()) == sorted({"train", {"v": "val", "t": "test", "e": "test"}[test[0]]})
    assert listing.classes == ["cat", "dog"]
    assert set(listing.samples["sample_id"]) >= {f"{train}/cat/000.png", f"{test}/cat/000.png"}


def test_without_split_folders_a_fifth_of_each_class_is_held_out_and_said(tmp_path):
    root = folder(tmp_path, {"cat": 10, "dog": 5, "rare": 1})
    listing = list_folder(root)
    assert counts(listing) == {
        ("train", "cat"): 8,
        ("test", "cat"): 2,
        ("train", "dog"): 4,
        ("test", "dog"): 1,
        ("train", "rare"): 1,
    }
    assert any("held out as test" in note for note in listing.notes)
    again = list_folder(root)
    assert again.samples.equals(listing.samples)
    picture(99).save(root / "cat" / "zzz.png")
    before = listing.samples.set_index("sample_id")["split"]
    after = list_folder(root).samples.set_index("sample_id")["split"]
    assert (after.loc[before.index] != before).sum() <= 1  # a new file hardly moves the others


def test_images_without_classes_have_no_labels(tmp_path):
    root = folder(tmp_path, {".": 6})
    listing = list_folder(root)
    assert listing.classes == []
    assert listing.samples["label_name"].isna().all()


def test_a_class_called_test_is_a_class(tmp_path):
    assert list_folder(folder(tmp_path, {"test": 5, "cat": 5})).classes == ["cat", "test"]


def test_unpacked_archives_with_a_folder_around_the_splits(tmp_path):
    listing = list_folder(folder(tmp_path, {"photos/train/cat": 2, "photos/test/cat": 1}))
    assert counts(listing) == {("train", "cat"): 2, ("test", "cat"): 1}
    assert listing.samples["sample_id"].str.startswith("photos/").all()


def test_hidden_and_foreign_files_are_left_out_and_counted(tmp_path):
    root = folder(tmp_path, {"train/disc": 6, "train/ring": 6})
    for name in ("._000.png", ".DS_Store", "Thumbs.db"):
        (root / "train" / "disc" / name).write_bytes(b"x")
    folder(root, {"train/.ipynb_checkpoints": 1, "train/__MACOSX": 1})
    (root / "train" / "labels.csv").write_text("x")
    listing = list_folder(root)
    assert listing.classes == ["disc", "ring"]
    assert len(listing.samples) == 12
    assert listing.notes == ["left out: 5 hidden or system files and folders, 1 other file (.csv)"]


def test_one_class_list_for_all_splits(tmp_path, workspace):
    layout = {"train/apple": 3, "train/bread": 3, "train/cheese": 3, "val/apple": 2, "val/cheese": 2}
    dataset, _ = datasets.add_folder(workspace, "a", folder(tmp_path / "a", layout))
    cheese = dataset.samples[dataset.samples["label_name"] == "cheese"]
    assert set(cheese["label"]) == {2}  # in val too, where it is the second folder


def test_empty_and_unknown_classes_keep_their_place_and_are_named(tmp_path, workspace):
    root = folder(tmp_path / "c", {"train/apple": 3, "train/cheese": 3, "val/bread": 2})
    (root / "train" / "bread").mkdir()
    dataset, notes = datasets.add_folder(workspace, "c", root)
    assert dataset.classes == ["apple", "bread", "cheese"]
    assert "classes without a train image, unknown to a probe: bread" in notes


def test_nothing_at_all(tmp_path):
    (tmp_path / "train" / "apple").mkdir(parents=True)
    with pytest.raises(InputError, match="no images found in"):
        list_folder(tmp_path)
    with pytest.raises(NotFound, match="no folder"):
        list_folder(tmp_path / "missing")
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(InputError, match="is a file; expected a folder"):
        list_folder(tmp_path / "file.txt")


def test_odd_paths(tmp_path, workspace):
    odd = tmp_path / "with space" / "日本語 ümläut" / "100% #1 & [x]" / "~tilde"
    folder(odd, {"train/disc": 4, "train/ring": 4})
    nfd = unicodedata.normalize("NFD", "é") + ".png"
    picture(1).save(odd / "train" / "disc" / nfd)
    dataset, _ = datasets.add_folder(workspace, "odd", odd)
    assert len(dataset.samples) == 9
    assert f"train/disc/{nfd}" in set(dataset.samples["sample_id"])


def test_links_are_followed_loops_are_not(tmp_path):
    store = folder(tmp_path / "store", {"cat": 3, "dog": 3})
    root = tmp_path / "links" / "train"
    root.mkdir(parents=True)
    for name in ("cat", "dog"):
        (root / name).symlink_to(store / name)
    (store / "cat" / "again").symlink_to(root)
    (store / "cat" / "self").symlink_to(store / "cat" / "self")
    (store / "cat" / "nowhere.jpg").symlink_to(store / "gone.jpg")
    listing = list_folder(tmp_path / "links")
    assert (listing.samples["size"] >= 0).sum() >= 6
    assert "train/cat/nowhere.jpg" in set(listing.samples["sample_id"])  # listed, so that embed can name it
    assert "links that lead back" in listing.notes[0]


def test_what_a_browser_names_does_not_leave_the_allowed_folders(tmp_path):
    store = folder(tmp_path / "secret", {"cat": 3})
    root = folder(tmp_path / "open", {"train/dog": 2})
    (root / "train" / "cat").symlink_to(store / "cat")
    listing = list_folder(root, inside=[root])
    assert listing.classes == ["dog"]
    assert "outside the allowed folders" in listing.notes[0]
    assert list_folder(root, inside=[tmp_path]).classes == ["cat", "dog"]


def test_a_subset_of_classes_by_name_or_wordnet_id(tmp_path):
    root = folder(tmp_path, {"train/n01440764": 2, "train/n02102040_english_springer": 2, "train/n03028079": 2})
    listing = list_folder(root, classes=["n02102040", "n01440764"])
    assert listing.classes == ["n01440764", "n02102040_english_springer"]
    with pytest.raises(NotFound, match='unknown class "n0144076". Did you mean "n01440764"'):
        list_folder(root, classes=["n0144076"])


def test_wordnet_ids_show_as_english_names():
    titles = class_titles(["n01440764", "n02102040_english_springer", "n02012849", "n03126707", "cat"])
    assert list(titles.values()) == ["tench", "english springer", "crane (n02012849)", "crane (n03126707)", "cat"]


def test_the_fingerprint_sees_every_edit(tmp_path, workspace):
    root = folder(tmp_path / "set", {"train/disc": 4, "train/ring": 4})
    before, _ = datasets.add_folder(workspace, "set", root)
    same, _ = datasets.refresh(workspace, "set")
    assert same.fingerprint == before.fingerprint
    path = root / "train" / "ring" / "003.png"
    stat = path.stat()
    picture(998, kind=3).save(path)  # another picture under the old name and time
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert datasets.refresh(workspace, "set")[0].fingerprint != before.fingerprint


def test_a_name_belongs_to_one_folder(tmp_path, workspace):
    datasets.add_folder(workspace, "set", folder(tmp_path / "one", {"train/a": 1}))
    with pytest.raises(InputError, match='data set "set" is already .*one'):
        datasets.add_folder(workspace, "set", folder(tmp_path / "two", {"train/a": 1}))


def test_pictures_inside_a_workspace_move_with_it(tmp_path, workspace):
    before, _ = datasets.add_folder(workspace, "set", folder(workspace.dataset("set") / "images", {"train/a": 2}))
    moved = Workspace(shutil.move(workspace.root, tmp_path / "elsewhere"))
    after, _ = datasets.refresh(moved, "set")
    assert after.root == tmp_path / "elsewhere" / "datasets" / "set" / "images"
    assert (after.fingerprint, after.facts) == (before.fingerprint, {**before.facts, "root": str(after.root)})
    assert datasets.load(moved, "set").root == after.root


def test_a_pipe_is_no_picture(tmp_path):
    root = folder(tmp_path / "photos", {"train/cat": 2, "train/dog": 2})
    os.mkfifo(root / "train" / "cat" / "endless.png")
    (root / "train" / "dog" / "zeros.png").symlink_to("/dev/zero")
    listing = list_folder(root)
    assert len(listing.samples) == 4
    assert any("2 names that are no regular files" in note for note in listing.notes)
    for name in ("cat/endless.png", "dog/zeros.png"):  # as one that was put there after the listing
        assert read_picture(root / "train" / name, 16, 16).error == "no regular file, or one of more than 1 GB"


def test_nothing_outside_the_allowed_folders_is_listed_by_a_link_to_begin_with(tmp_path):
    secret = folder(tmp_path / "secret", {"train/cat": 1})
    (tmp_path / "allowed").mkdir()
    (tmp_path / "allowed" / "photos").symlink_to(secret)
    with pytest.raises(InputError):
        list_folder(tmp_path / "allowed" / "photos", inside=[tmp_path / "allowed"])
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert not is_inside(loop, [tmp_path / "allowed"])
