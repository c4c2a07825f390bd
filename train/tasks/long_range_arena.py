"""Tasks of the Long Range Arena, from the files of its release.

Tay et al., "Long Range Arena: a benchmark for efficient transformers", arXiv:2011.04006.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from fastscan.train.errors import TrainError
from fastscan.train.tasks.listops import TOKENS
from fastscan.train.tasks.recorded import Recordings, WithValidation, standardize
from fastscan.train.tasks.sources import Layout, Source
from fastscan.train.tasks.task import one_hot

RELEASE = "https://storage.googleapis.com/long-range-arena/lra_release.gz"


def released(title: str, folder: str, files: tuple[str, ...]) -> Source:
    """Return the source of a folder of the release, where that unpacks it or further up."""
    parents = ("lra_release/lra_release/", "lra_release/", "")
    return Source(title, tuple(Layout(parent + folder, files) for parent in parents), RELEASE)


LISTOPS_PARTS = {
    "train": "basic_train.tsv",
    "validation": "basic_val.tsv",
    "test": "basic_test.tsv",
}
LISTOPS = released("ListOps", "listops-1000", tuple(LISTOPS_PARTS.values()))


@dataclass(kw_only=True, eq=False)
class ListOpsFiles(WithValidation):
    """Values of expressions such as `[MAX 2 9 [MIN 4 7 ] 0 ]`; 96,000, 2,000 and 2,000.

    Inputs are one-hot tokens, up to 2,000 of them; parentheses, which say nothing more, are left
    out.
    """

    name = "lra_listops"
    input_size = len(TOKENS)
    output_size = 10

    sequence_length: int = 2048
    """Steps of a row."""

    def load(self) -> tuple[Recordings, Recordings]:
        """Return the training set and the one to evaluate on."""
        folder = LISTOPS.find(self.folder)
        train, other = (
            read_listops(folder / LISTOPS_PARTS[part]) for part in ("train", self.evaluate_on)
        )
        return train, other

    @staticmethod
    def encode(values):
        """Return one-hot tokens."""
        return one_hot(values, len(TOKENS))


AAN_PARTS = {
    "train": "new_aan_pairs.train.tsv",
    "validation": "new_aan_pairs.eval.tsv",
    "test": "new_aan_pairs.test.tsv",
}
AAN = released("AAN", "tsv_data", tuple(AAN_PARTS.values()))

# Stands between two documents, and in none of them, since it ends the lines of the files.
SEPARATOR = np.frombuffer(b"\n", np.uint8)


@dataclass(kw_only=True, eq=False)
class Retrieval(WithValidation):
    """Does one of two papers cite the other (1) or not (0)? 147,086, 18,090 and 17,437 pairs.

    The bytes of both, each cut off at `document_length`, are read one after the other, with a
    newline between. (Long Range Arena encodes each by itself, and then compares.)

    Radev et al., "The ACL anthology network corpus", 2013.
    """

    name = "aan"
    input_size = 256
    output_size = 2

    document_length: int = 4000
    """Bytes of a document that are read."""
    sequence_length: int = 8192
    """Steps of a row."""

    def load(self) -> tuple[Recordings, Recordings]:
        """Return the training set and the one to evaluate on."""
        if self.document_length < 1:
            raise TrainError(f"document_length must be at least 1, got {self.document_length}")
        folder = AAN.find(self.folder)
        train, other = (
            read_pairs(folder / AAN_PARTS[part], self.document_length)
            for part in ("train", self.evaluate_on)
        )
        return train, other

    @staticmethod
    def encode(values):
        """Return one-hot bytes."""
        return one_hot(values, 256)


Difficulty = Literal["curv_contour_length_14", "curv_contour_length_9", "curv_baseline"]

# It has no bytes.
EMPTY_IMAGE = "pathfinder32/curv_baseline/imgs/0/sample_172.png"


@dataclass(kw_only=True, eq=False)
class PathfinderFiles(WithValidation):
    """Does a dashed path join two discs (1) or not (0)? 200,000 images of 32 x 32 grey pixels.

    They are read pixel by pixel, row by row, in [-1, 1], and are decoded as they are needed. As in
    Long Range Arena, four fifths are for training, and a tenth each for validation and testing;
    which ones they are is drawn by NumPy's generator with the seed 0, as no lists are published.

    Linsley et al., "Learning long-range spatial dependencies with horizontal gated recurrent
    units", arXiv:1805.08315.
    """

    name = "lra_pathfinder"
    input_size = 1
    output_size = 2
    side: ClassVar[int] = 32

    difficulty: Difficulty = "curv_contour_length_14"
    """Folder of the release."""
    sequence_length: int = 32 * 32
    """Steps of a row."""

    def load(self) -> tuple[Recordings, Recordings]:
        """Return the training set and the one to evaluate on."""
        folders = tuple(f"{self.difficulty}/{content}" for content in ("metadata", "imgs"))
        source = released("Pathfinder", f"pathfinder{self.side}", folders)
        folder = source.find(self.folder) / self.difficulty
        names, labels = [], []
        for name, label in read_metadata(folder):
            if not (folder / name).as_posix().endswith(EMPTY_IMAGE):
                names.append(name)
                labels.append(label)
        names, labels = np.array(names), np.array(labels)
        order = np.random.default_rng(0).permutation(len(names))
        tenth = len(names) // 10
        parts = {
            "train": order[2 * tenth :],
            "validation": order[:tenth],
            "test": order[tenth : 2 * tenth],
        }

        def recordings(part: str) -> Recordings:
            chosen = parts[part]
            return Recordings(
                lengths=np.full(len(chosen), self.side**2),
                labels=labels[chosen],
                sequence=lambda i: read_grey(folder / names[chosen[i]], self.side),
            )

        return recordings("train"), recordings(self.evaluate_on)

    @staticmethod
    def encode(values):
        """Return bytes in [-1, 1]."""
        return standardize(values, 127.5, 127.5)


@dataclass(kw_only=True, eq=False)
class PathX(PathfinderFiles):
    """`PathfinderFiles` with 128 x 128 pixels."""

    name = "path_x"
    side = 128

    sequence_length: int = 128 * 128
    """Steps of a row."""


def read_listops(path: Path) -> Recordings:
    """Return the expressions of a file and their values.

    Raises:
        TrainError: there is something else in it.
    """
    # An operator becomes one byte, its token, and a digit and the end its own; nothing else is one.
    operators = {TOKENS[token].encode(): bytes([token]) for token in range(10, 14)}
    tokens_of_bytes = np.full(256, len(TOKENS), np.uint8)
    tokens_of_bytes[10:14] = range(10, 14)
    for token in (*range(10), 14):
        tokens_of_bytes[ord(TOKENS[token])] = token
    table = tokens_of_bytes.tobytes()
    values = {str(value).encode(): value for value in range(10)}

    expressions, labels = [], []
    with path.open("rb") as file:
        next(file, None)  # the names of the columns
        for number, line in enumerate(file, start=2):
            source, _, target = line.rstrip().partition(b"\t")
            for operator, token in operators.items():
                source = source.replace(operator, token)
            tokens = np.frombuffer(source.translate(table, b"() "), np.uint8)
            if target not in values or tokens.max(initial=0) >= len(TOKENS):
                raise TrainError(
                    f"line {number} of {path} is not an expression, a tab and its value"
                )
            expressions.append(tokens)
            labels.append(values[target])
    lengths = np.array([len(expression) for expression in expressions])
    return Recordings(lengths, np.array(labels), expressions.__getitem__)


def read_pairs(path: Path, longest: int) -> Recordings:
    """Return pairs of documents, each up to `longest` bytes, which stay in the file.

    Raises:
        TrainError: there is something else in it.
    """
    spans, labels = [], []
    line_start = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            fields = line.rstrip(b"\r\n").split(b"\t")
            try:
                label, id1, id2, text1, text2 = fields
                labels.append(int(float(label)))
            except ValueError:
                raise TrainError(
                    f"line {number} of {path} is not a label, two names and two texts with tabs "
                    "between"
                ) from None
            start1 = line_start + len(label) + len(id1) + len(id2) + 3
            start2 = start1 + len(text1) + 1
            spans.append((start1, min(len(text1), longest), start2, min(len(text2), longest)))
            line_start += len(line)
    starts1, lengths1, starts2, lengths2 = np.array(spans, np.int64).reshape(-1, 4).T
    content = np.memmap(path, np.uint8, "r") if spans else np.empty(0, np.uint8)

    def pair(index: int) -> UInt8[np.ndarray, " bytes"]:
        text1 = content[starts1[index] :][: lengths1[index]]
        text2 = content[starts2[index] :][: lengths2[index]]
        return np.concatenate([text1, SEPARATOR, text2])

    return Recordings(lengths1 + 1 + lengths2, np.array(labels), pair)


def read_metadata(folder: Path) -> Iterator[tuple[str, int]]:
    """Return the images of a folder of Pathfinder, in the order of its lists, and their labels.

    Raises:
        TrainError: a list is of another form.
    """
    # Text, whatever the ending says: folder, file, number, label, and how it was drawn.
    for path in sorted((folder / "metadata").glob("*.npy"), key=lambda p: (len(p.name), p.name)):
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            try:
                directory, file, _, label = line.decode().split()[:4]
                yield f"{directory}/{file}", int(label)
            except ValueError:
                raise TrainError(
                    f"line {number} of {path} is not a folder, a file, a number and a label"
                ) from None


def read_grey(path: Path, side: int) -> UInt8[np.ndarray, "pixels 1"]:
    """Return the grey pixels of an image, row by row.

    Raises:
        TrainError: there is no such image of that size.
    """
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("L"))
    except OSError as error:  # which includes those of Pillow
        raise TrainError(f"{path} cannot be read: {error}") from error
    if pixels.shape != (side, side):
        raise TrainError(f"{path} has {pixels.shape} pixels, not {side} x {side}")
    return pixels.reshape(-1, 1)
