"""Images of digits and of things, read pixel by pixel: MNIST and CIFAR-10."""

import gzip
import pickle
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from fastscan.train.errors import TrainError
from fastscan.train.tasks.recorded import Recorded, Recordings, in_memory, standardize
from fastscan.train.tasks.sources import Layout, Source

_IDX = tuple(
    f"{part}-{content}-ubyte"
    for part in ("train", "t10k")
    for content in ("images-idx3", "labels-idx1")
)
MNIST = Source(
    "MNIST",
    tuple(
        Layout(folder, files)
        for folder in ("mnist", "MNIST/raw")
        for files in (tuple(f"{file}.gz" for file in _IDX), _IDX)
    ),
    "https://github.com/cvdfoundation/mnist",
    hub="ylecun/mnist",
)

_TRAIN_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
CIFAR10 = Source(
    "CIFAR-10",
    (
        Layout("cifar-10-batches-py", (*_TRAIN_BATCHES, "test_batch")),
        Layout("cifar-10-batches-bin", (*(f"{b}.bin" for b in _TRAIN_BATCHES), "test_batch.bin")),
    ),
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    hub="uoft-cs/cifar10",
)
CIFAR_PIXELS = 32 * 32

# Of the training set, in units of a pixel's 255 levels; as in S4's sequential CIFAR-10.
COLOUR_MEAN, COLOUR_DEVIATION = (125.3, 123.0, 113.9), (63.0, 62.0, 66.6)
GREY_MEAN, GREY_DEVIATION = 122.6, 61.0

# What red, green and blue add to grey, in units of 2^-16.
LUMA = np.array([19595, 38470, 7471], np.int32)


@dataclass(kw_only=True, eq=False)
class SequentialMNIST(Recorded):
    """Handwritten digits of 28 x 28 grey pixels in [-1, 1], row by row; 60,000 and 10,000.

    LeCun et al., "Gradient-based learning applied to document recognition", 1998; as sequences:
    Le et al., arXiv:1504.00941.
    """

    name = "smnist"
    input_size = 1
    output_size = 10

    sequence_length: int = 28 * 28
    """Steps of a row."""

    def load(self) -> tuple[Recordings, Recordings]:
        """Return both parts."""
        return self._part("train"), self._part("test")

    def _part(self, part: str) -> Recordings:
        if MNIST.is_fetched(self.folder):
            images, labels = read_hub(MNIST, part, "image")
        else:
            folder = MNIST.find(self.folder)
            prefix = {"train": "train", "test": "t10k"}[part]
            images = read_idx(folder, f"{prefix}-images-idx3-ubyte")
            labels = read_idx(folder, f"{prefix}-labels-idx1-ubyte")
        return in_memory(self.arrange(images.reshape(len(images), -1, 1)), labels)

    def arrange(self, pixels: UInt8[np.ndarray, "n 784 1"]) -> UInt8[np.ndarray, "n 784 1"]:
        """Return the pixels in the order in which they are read."""
        return pixels

    @staticmethod
    def encode(values):
        """Return bytes in [-1, 1]."""
        return standardize(values, 127.5, 127.5)


@dataclass(kw_only=True, eq=False)
class PermutedMNIST(SequentialMNIST):
    """`SequentialMNIST` with the pixels in a random order, the same for all images.

    The order is that of NumPy's generator with the seed 0; there is no published one.
    """

    name = "psmnist"

    def arrange(self, pixels: UInt8[np.ndarray, "n 784 1"]) -> UInt8[np.ndarray, "n 784 1"]:
        """Return the pixels in the order in which they are read."""
        return pixels[:, np.random.default_rng(0).permutation(pixels.shape[1])]


@dataclass(kw_only=True, eq=False)
class SequentialCIFAR10(Recorded):
    """Things in 32 x 32 pixels of three colours, row by row; 50,000 and 10,000.

    Every colour is standardised by its mean and deviation over the training set.

    Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
    """

    name = "scifar"
    input_size = 3
    output_size = 10

    sequence_length: int = CIFAR_PIXELS
    """Steps of a row."""

    def load(self) -> tuple[Recordings, Recordings]:
        """Return both parts."""
        return self._part("train"), self._part("test")

    def _part(self, part: str) -> Recordings:
        if CIFAR10.is_fetched(self.folder):
            images, labels = read_hub(CIFAR10, part, "img")
            pixels = images.reshape(len(images), CIFAR_PIXELS, 3)
        else:
            folder = CIFAR10.find(self.folder)
            batches = _TRAIN_BATCHES if part == "train" else ("test_batch",)
            read = [read_cifar(folder, batch) for batch in batches]
            planes, labels = (np.concatenate(arrays) for arrays in zip(*read, strict=True))
            pixels = planes.reshape(-1, 3, CIFAR_PIXELS).swapaxes(1, 2)
        return in_memory(pixels, labels)

    @staticmethod
    def encode(values):
        """Return standardised colours."""
        return standardize(values, COLOUR_MEAN, COLOUR_DEVIATION)


@dataclass(kw_only=True, eq=False)
class GreyCIFAR10(SequentialCIFAR10):
    """`SequentialCIFAR10` in grey: Long Range Arena's image task.

    Tay et al., "Long Range Arena", arXiv:2011.04006.
    """

    name = "scifar_grey"
    input_size = 1

    @staticmethod
    def encode(values):
        """Return the standardised luma of ITU-R BT.601, which is rounded to bytes before."""
        grey = jnp.sum(values * LUMA, axis=-1, keepdims=True) + 2**15 >> 16
        return standardize(grey, GREY_MEAN, GREY_DEVIATION)


def read_hub(source: Source, split: str, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the images and labels of a split on the Hub."""
    images, labels = [], []
    for row in source.fetch(split):
        images.append(np.asarray(row[column], np.uint8))
        labels.append(row["label"])
    return np.stack(images), np.array(labels)


def read_idx(folder: Path, name: str) -> UInt8[np.ndarray, "..."]:
    """Return the array in an IDX file of bytes, unpacked or not.

    Raises:
        TrainError: it is no such file, or not a whole one.
    """
    path = folder / name
    if path.exists():
        data = path.read_bytes()
    else:
        path = folder / f"{name}.gz"
        try:
            data = gzip.decompress(path.read_bytes())
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise TrainError(f"{path} cannot be unpacked: {error}") from error
    # Two zeros, the code of unsigned bytes, the number of axes, and each one's size.
    if data[:3] != b"\0\0\x08" or len(data) < 4 + 4 * data[3]:
        raise TrainError(f"{path} is not an IDX file of bytes")
    axes = data[3]
    shape = tuple(np.frombuffer(data, ">u4", axes, offset=4).tolist())
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * axes)
    if values.size != np.prod(shape):
        raise TrainError(f"{path} is cut off: {values.size:,} bytes of values, not {shape}")
    return values.reshape(shape)


def read_cifar(folder: Path, batch: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images, `(n, 3072)` bytes, red first, and labels of a batch, pickled or binary.

    Raises:
        TrainError: it is no such file.
    """
    path = folder / batch
    if path.exists():
        content = read_pickle(path)
        try:
            images, labels = content[b"data"], content[b"labels"]
        except (KeyError, TypeError):
            raise TrainError(f"{path} is not a batch of CIFAR-10") from None
    else:
        path = folder / f"{batch}.bin"
        data = np.fromfile(path, np.uint8)
        if data.size % (1 + 3 * CIFAR_PIXELS):
            raise TrainError(f"{path} is not a batch of CIFAR-10: {data.size} bytes")
        data = data.reshape(-1, 1 + 3 * CIFAR_PIXELS)
        images, labels = data[:, 1:], data[:, 0]
    images, labels = np.asarray(images), np.asarray(labels)
    if images.shape != (len(labels), 3 * CIFAR_PIXELS) or images.dtype != np.uint8:
        raise TrainError(f"{path} is not a batch of CIFAR-10: images of shape {images.shape}")
    return images, labels


class _ArrayUnpickler(pickle.Unpickler):
    """Makes NumPy arrays of numbers, and nothing that could run code."""

    _allowed = {
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
    }

    def find_class(self, module_name: str, global_name: str) -> Any:
        """Return what an array is made by."""
        if (module_name, global_name) not in self._allowed:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}")
        # Where it is found in every NumPy.
        return getattr(np, global_name, None) or np.empty(0).__reduce__()[0]


def read_pickle(path: Path) -> Any:
    """Return what was pickled, if that is made of plain values and arrays.

    Strings of Python 2 are bytes.

    Raises:
        TrainError: it is something else.
    """
    with path.open("rb") as file:
        try:
            return _ArrayUnpickler(file, encoding="bytes").load()
        except Exception as error:  # any, says the documentation of pickle
            raise TrainError(f"{path} is not a pickle of arrays: {error}") from error
