"""Weight and vocabulary files: what is written can be read, and what was tampered with is refused."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from llmasos.api import TokenizerError, WeightsError
from llmasos_ngram.weights import HEADER, NgramFormat
from llmasos_ngram.words import FILE, WordsFormat


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A model that the test may damage."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def damaged(file: Path, offset: int, new: bytes) -> None:
    content = bytearray(file.read_bytes())
    content[offset : offset + len(new)] = new
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("offset", "new", "message"),
    [
        (8, struct.pack("<I", 2), "version 2"),
        (12, struct.pack("<I", 1), "order = 1"),
        (12, struct.pack("<I", 6), "order = 6"),
        (12, struct.pack("<I", 3), "level 4 = "),
        (16, struct.pack("<I", 0), "vocabulary = 0"),
        (16, struct.pack("<I", 0xFFFFFFFF), "vocabulary = 4294967295"),
        (20, struct.pack("<I", 1), "longest sequence = 1"),
        (24, struct.pack("<Q", 1 << 63), "level 1 = "),
        (32, struct.pack("<Q", 0), "level 2 = 0"),
        (32, struct.pack("<Q", 1 << 62), "level 2 = "),
        (40, struct.pack("<Q", 1 << 30), "its header promises"),
        (56, struct.pack("<Q", 1), "level 5 = 1"),
    ],
)
def test_a_header_that_lies_is_refused_before_anything_is_read(
    copy: Path, offset: int, new: bytes, message: str
) -> None:
    damaged(copy / "model.ngram", offset, new)
    with pytest.raises(WeightsError, match=message):
        NgramFormat().open(copy)


@pytest.mark.parametrize("length", [0, 7, 63, 64, 5000])
def test_a_file_cut_short_is_refused(copy: Path, length: int) -> None:
    file = copy / "model.ngram"
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(WeightsError, match="refused"):
        NgramFormat().open(file)


def test_bytes_after_the_end_are_refused(copy: Path) -> None:
    file = copy / "model.ngram"
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(WeightsError, match="its header promises"):
        NgramFormat().open(file)


@pytest.mark.parametrize(
    ("name", "place", "value", "message"),
    [
        ("level.1.token", 3, 4, "does not list the vocabulary"),
        ("level.1.share", 0, 0.0, "level 1"),
        ("level.1.share", 257, 0.9, "probabilities of level 1"),
        ("level.1.share", 0, float("nan"), "not between 0 and 1"),
        ("level.2.share", 0, -0.5, "not between 0 and 1"),
        ("level.2.share", 0, 0.999, "probabilities after entry"),
        ("level.1.rest", 257, float("inf"), "probabilities after entry"),
        ("level.1.rest", 257, -1.0, "probabilities after entry"),
        ("level.1.first", 0, 1, "ranges of level 1"),
        ("level.2.first", 1, 2**31 - 1, "ranges of level 2"),
        ("level.3.first", -1, 0, "ranges of level 3"),
        ("level.4.token", 0, -1, "outside the vocabulary"),
        ("level.4.token", 0, 2**31 - 1, "outside the vocabulary"),
    ],
)
def test_numbers_that_are_no_model_are_refused(
    cats, copy: Path, name: str, place: int, value: float, message: str
) -> None:
    checkpoint = NgramFormat().open(copy)
    offset = HEADER.size
    for info in checkpoint.tensors.values():
        if info.name == name:
            break
        offset += info.nbytes
    place = place if place >= 0 else info.shape[0] + place
    kind = "<f4" if info.dtype == "F32" else "<i4"
    damaged(copy / "model.ngram", offset + 4 * place, np.array([value], dtype=kind).tobytes())
    with pytest.raises(WeightsError, match=message):
        cats.load_model(str(copy))


def test_tokens_out_of_order_are_refused(cats, copy: Path) -> None:
    checkpoint = NgramFormat().open(copy)
    many = int(np.argmax(np.diff(checkpoint.array("level.1.first"))))
    place = int(checkpoint.array("level.1.first")[many])
    offset = HEADER.size + sum(
        info.nbytes for name, info in checkpoint.tensors.items() if name.startswith("level.1.")
    )
    twice = checkpoint.array("level.2.token")[place + 1]
    damaged(copy / "model.ngram", offset + 4 * place, twice.tobytes())
    with pytest.raises(WeightsError, match="ascending"):
        cats.load_model(str(copy))


def test_no_single_damaged_byte_crashes_the_reader(cats, folder: Path, tmp_path: Path) -> None:
    """Every damaged file is refused with WeightsError or is still a model: no other exception, no read out of bounds."""
    architecture = cats.get("model_architecture", "kneser-ney")()
    original = (folder / "model.ngram").read_bytes()
    file = tmp_path / "model.ngram"
    refused = 0
    rng = np.random.default_rng(7)
    places = [*range(HEADER.size), *rng.integers(HEADER.size, len(original), 300).tolist()]
    for place in places:
        content = bytearray(original)
        content[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(content)
        try:
            architecture.build(NgramFormat().open(file), None, dtype="float32", device="cpu")
        except WeightsError:
            refused += 1
    assert refused > len(places) // 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "expected the keys"),
        (b'{"format": "llmasos-ngram words", "version": 2, "words": []}', "newer"),
        (b'{"format": "llmasos-ngram words", "version": 1, "words": {}}', "not a list"),
        (b'{"format": "llmasos-ngram words", "version": 1, "words": [1]}', "word 0"),
        (b'{"format": "llmasos-ngram words", "version": 1, "words": ["two words"]}', "word 0"),
        (b'{"format": "llmasos-ngram words", "version": 1, "words": ["a\\ud800"]}', "word 0"),
        (b'{"format": "llmasos-ngram words", "version": 1, "words": ["the", "the"]}', "twice"),
    ],
)
def test_a_vocabulary_that_is_none_is_refused(copy: Path, content: bytes, message: str) -> None:
    (copy / FILE).write_bytes(content)
    with pytest.raises(TokenizerError, match=message):
        WordsFormat().open(copy)


def test_a_vocabulary_that_does_not_belong_to_the_weights_is_an_error(cats, copy: Path) -> None:
    content = json.loads((copy / FILE).read_text())
    content["words"] += [f"word{i}" for i in range(1000)]
    (copy / FILE).write_text(json.dumps(content))
    loaded = cats.load_model(str(copy))
    from llmasos.api import EvaluationError, SamplingParams

    with pytest.raises(EvaluationError, match="outside the vocabulary"):
        list(cats.generate(loaded, ["word999"], SamplingParams(max_new_tokens=1)))
