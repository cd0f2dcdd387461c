"""Files made to harm whoever reads them."""

import io
import os
import pickle
import pickletools
import zipfile

import numpy as np
import pytest
import torch

from sslviz.encoders.add import add_encoder
from sslviz.encoders.files import read_file
from sslviz.errors import InputError, Untrusted
from tests.inputs import small_encoder


def torch_file(path, program):
    """A file of torch.save whose pickle is this program."""
    buffer = io.BytesIO()
    torch.save({"w": torch.ones(3)}, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, program if name.endswith("data.pkl") else source.read(name))
    return path


def call(function, *arguments):
    """The opcodes of function(*arguments); arguments are opcodes."""
    module, name = function.rsplit(".", 1)
    return b"c" + f"{module}\n{name}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def text(value):
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def raw(value):
    return b"C" + bytes([len(value)]) + value


AND = b"(K\x03" + text("|") + b"NNN"
OBJECTS_BY_ADDRESS = call("numpy.dtype", text("O8"), b"\x89", b"\x88") + AND + b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
LONG_TEXT = call("numpy.dtype", text("S4"), b"\x89", b"\x88") + AND + b"M\xa0\x0fK\x01K\x00tb"
FIELDS = call("numpy.dtype", text("V8"), b"\x89", b"\x88")


@pytest.mark.parametrize(
    "number",
    [
        call("numpy.core.multiarray.scalar", OBJECTS_BY_ADDRESS, raw(b"A" * 8)),
        call("numpy.core.multiarray.scalar", LONG_TEXT, raw(b"A" * 4)),
        call("numpy.core.multiarray._reconstruct", b"cnumpy\nndarray\n", b"K\x00\x85", raw(b"b"))
        + b"(K\x01K\x10\x85" + LONG_TEXT + b"\x89" + raw(b"A" * 4) + b"tb",
        call("numpy.core.multiarray._reconstruct", b"cnumpy\nndarray\n", b"K\x00\x85", raw(b"b"))
        + b"(K\x01K\x01\x85" + OBJECTS_BY_ADDRESS + b"\x89" + raw(b"A" * 8) + b"tb",
        call("numpy.core.multiarray.scalar", FIELDS, raw(b"A" * 8)),
    ],
)  # fmt: skip
def test_numbers_that_point_anywhere_in_memory_are_not_made(tmp_path, number):
    program = b"\x80\x02}" + text("args") + number + b"s."
    pickletools.dis(program, out=io.StringIO())  # it is a pickle
    try:
        content = read_file(torch_file(tmp_path / "x.pt", program))
    except InputError:
        return
    assert isinstance(content.other["args"], bytes | np.bytes_)  # the bytes as they are, nothing they would point to
    assert bytes(content.other["args"]) in (b"A" * 8, b"A" * 4)


def test_numpy_in_a_checkpoint_comes_as_it_was(tmp_path):
    kept = {
        "best": np.float64(0.25),
        "seen": np.int64(7),
        "mean": np.array([[0.5, 0.25], [1, 2]], ">f4"),
        "turned": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "names": np.array(["cat", "dog"]),
        "mixed": np.array([1, "a"], object),
        "inside": [(np.arange(3), {"deep": np.bool_(True)})],
    }
    torch.save({"w": torch.ones(3), **kept}, tmp_path / "x.pt")
    found = read_file(tmp_path / "x.pt").other
    for name in ("mean", "turned", "names"):
        assert np.array_equal(found[name], kept[name]), name
        assert found[name].shape == kept[name].shape
    assert (found["best"], found["seen"], list(found["mixed"])) == (0.25, 7, [1, "a"])
    assert found["inside"][0][0].tolist() == [0, 1, 2]
    assert found["inside"][0][1] == {"deep": True}


def test_code_is_refused(tmp_path):
    class Runs:
        def __reduce__(self):
            return os.system, ("touch /tmp/harm",)

    torch.save({"w": torch.ones(3), "x": Runs()}, tmp_path / "x.pt")
    with pytest.raises(Untrusted, match="holds Python code"):
        read_file(tmp_path / "x.pt")
    (tmp_path / "y.pt").write_bytes(pickle.dumps(Runs()))
    with pytest.raises(InputError):
        read_file(tmp_path / "y.pt")


def test_tensors_larger_than_their_file_are_refused(tmp_path):
    torch.save({"conv1.weight": torch.zeros(1).expand(10**8, 128, 1, 1)}, tmp_path / "x.pt")
    with pytest.raises(InputError, match="its tensors would take 51 GB, since they repeat fewer values"):
        read_file(tmp_path / "x.pt")


def test_archives_that_grow_are_refused(tmp_path):
    torch.save({"w": torch.zeros(1000)}, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as source, zipfile.ZipFile(tmp_path / "y.pt", "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(InputError, match="what torch saves is not compressed"):
        read_file(tmp_path / "y.pt")


def test_a_card_that_leads_elsewhere_is_left_alone(workspace, tmp_path):
    small_encoder(workspace)
    place = workspace.encoder("tiny")
    (tmp_path / "secret.json").write_text('{"password": 1}')
    (place / "card.json").symlink_to(tmp_path / "secret.json")
    add_encoder(workspace, str(place / "weights.safetensors"), "again")
    assert not (workspace.encoder("again") / "card.json").exists()
    (place / "card.json").unlink()
    (place / "card.json").write_text('{"epochs": 3, "loss": NaN}')
    add_encoder(workspace, str(place / "weights.safetensors"), "third")
    assert (workspace.encoder("third") / "card.json").read_text().split() == ["{", '"epochs":', "3,", '"loss":', "null", "}"]


def test_a_size_in_words_is_said(workspace):
    small_encoder(workspace)
    with pytest.raises(InputError, match='size is "large"; expected a number of pixels'):
        add_encoder(workspace, str(workspace.encoder("tiny") / "weights.safetensors"), "again", size="large")
    spec, _ = add_encoder(workspace, str(workspace.encoder("tiny") / "weights.safetensors"), "again", size="16")
    assert (spec.input.size, spec.input.resize) == (16, 16)
