"""The tasks that are read from files: small files of the published formats, and what goes wrong."""

import gzip
import os
import pickle
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from fastscan.models import RunningMean
from fastscan.train import tasks
from fastscan.train.errors import TrainError
from fastscan.train.tasks import digits, sources, speech_commands
from tests.train import recordings

RECORDED = ("smnist", "psmnist", "scifar", "scifar_grey", "imdb", "lra_listops", "aan")
RECORDED += ("lra_pathfinder", "path_x", "speech_commands")


def make(name, **options) -> Any:
    return tasks.make(name, **options)


def sequences(batches):
    """Return the sequences in batches, and the label of each."""
    found = []
    for batch in batches:
        for xs, reset, targets, mask in zip(*map(np.asarray, batch), strict=True):
            for start, stop in zip(np.flatnonzero(reset), np.flatnonzero(mask), strict=True):
                found.append((xs[start : stop + 1], int(targets[stop])))
    return found


def assert_same_set(actual, expected):
    left = list(expected)
    for xs, label in actual:
        place = next(
            i
            for i, (other, its_label) in enumerate(left)
            if label == its_label and xs.shape == other.shape and np.allclose(xs, other, atol=1e-5)
        )
        left.pop(place)
    assert left == []


def check(task, train, test, batch_size=2):
    """The first epoch, and the test set, are what they should be."""
    assert_same_set(sequences(task.test_batches(batch_size)), test)
    assert len({batch.xs.shape for batch in task.test_batches(batch_size)}) == 1
    stream = []
    step = 0
    while len(stream) < 2 * len(train):
        batch = task.train_batch(5, step, batch_size)
        assert batch.xs.shape == (batch_size, task.sequence_length, task.input_size)
        assert (batch.xs.dtype, batch.targets.dtype) == (jnp.float32, jnp.int32)
        stream += sequences([batch])
        step += 1
    assert_same_set(stream[: len(train)], train)
    assert_same_set(stream[len(train) : 2 * len(train)], train)
    for same, other in zip(task.train_batch(5, 1, 2), task.train_batch(5, 1, 2), strict=True):
        np.testing.assert_array_equal(same, other)


@pytest.mark.parametrize(("folder", "packed"), [("mnist", True), ("MNIST/raw", False)])
def test_mnist(tmp_path, folder, packed):
    expected = recordings.mnist(tmp_path, folder, packed)
    task = make("smnist", folder=tmp_path, sequence_length=2 * 784 + 3)
    check(task, expected["train"], expected["test"])


def test_permuted_mnist(tmp_path, monkeypatch):
    expected = recordings.mnist(tmp_path)
    monkeypatch.setenv("FASTSCAN_DATA", str(tmp_path))
    order = np.random.default_rng(0).permutation(784)
    train, test = ([(xs[order], y) for xs, y in expected[part]] for part in ("train", "test"))
    check(make("psmnist"), train, test)


@pytest.mark.parametrize("binary", [False, True])
def test_cifar(tmp_path, binary):
    expected = recordings.cifar(tmp_path, binary)

    def colours(pixels):
        return (pixels - np.array([125.3, 123.0, 113.9])) / [63.0, 62.0, 66.6]

    def grey(pixels):
        image = Image.fromarray(pixels.reshape(32, 32, 3)).convert("L")
        return (np.asarray(image).reshape(-1, 1) - 122.6) / 61.0

    for name, encode in (("scifar", colours), ("scifar_grey", grey)):
        train, test = ([(encode(xs), y) for xs, y in expected[p]] for p in ("train", "test"))
        check(make(name, folder=tmp_path), train, test)


def test_imdb(tmp_path):
    expected = recordings.imdb(tmp_path)
    task = make("imdb", folder=tmp_path, sequence_length=32)
    check(task, expected["train"], expected["test"])
    with pytest.raises(TrainError, match="1 of 4 sequences are longer than sequence_length=32"):
        make("imdb", folder=tmp_path, sequence_length=32, cut=False)


@pytest.mark.parametrize("part", ["test", "validation"])
def test_listops(tmp_path, part):
    expected = recordings.listops(tmp_path)
    task = make("lra_listops", folder=tmp_path, sequence_length=12, evaluate_on=part)
    check(task, expected["train"], expected[part])


@pytest.mark.parametrize("part", ["test", "validation"])
def test_aan(tmp_path, part):
    expected = recordings.aan(tmp_path)
    options = {"document_length": 16, "sequence_length": 33, "evaluate_on": part}
    check(make("aan", folder=tmp_path, **options), expected["train"], expected[part])


@pytest.mark.parametrize(("name", "side"), [("lra_pathfinder", 32), ("path_x", 128)])
def test_pathfinder(tmp_path, name, side):
    drawn = recordings.pathfinder(tmp_path, side)
    task, other = (make(name, folder=tmp_path, evaluate_on=part) for part in ("test", "validation"))
    train, test, validation = (
        [(task.encode(part.sequence(i)), label) for i, label in enumerate(part.labels)]
        for part in (task.train, task.test, other.test)
    )
    assert (len(train), len(test), len(validation)) == (8, 1, 1)
    assert_same_set(train + test + validation, drawn)
    check(task, train, test)


def test_pathfinder_without_the_empty_image(tmp_path):
    recordings.pathfinder(tmp_path, 32, "curv_baseline", 350)
    folder = tmp_path / "lra_release/lra_release/pathfinder32/curv_baseline"
    (folder / "imgs/0/sample_172.png").write_bytes(b"")
    task = make("lra_pathfinder", folder=tmp_path, difficulty="curv_baseline")
    assert len(task.train.labels) + 2 * len(task.test.labels) == 349


@pytest.mark.parametrize(("words", "part"), [(35, "test"), (10, "validation")])
def test_speech_commands(tmp_path, words, part):
    expected = recordings.speech(tmp_path)
    task = make("speech_commands", folder=tmp_path, words=words, evaluate_on=part)
    assert task.output_size == words
    check(task, expected["train"][:words], expected[part][:words], batch_size=16)


def test_hub(tmp_path, monkeypatch):
    """Rows as `datasets` gives them: mappings with the published names of the columns."""
    monkeypatch.delenv("FASTSCAN_DATA", raising=False)
    files = {
        "ylecun/mnist": ("smnist", recordings.mnist(tmp_path)),
        "uoft-cs/cifar10": ("scifar", recordings.cifar(tmp_path)),
        "stanfordnlp/imdb": ("imdb", recordings.imdb(tmp_path)),
    }

    def row(name, xs, label):
        if name == "ylecun/mnist":
            pixels = np.round(xs * 127.5 + 127.5).astype(np.uint8)
            return {"image": Image.fromarray(pixels.reshape(28, 28)), "label": label}
        if name == "uoft-cs/cifar10":
            return {"img": Image.fromarray(xs.reshape(32, 32, 3)), "label": label}
        return {"text": bytes(np.argmax(xs, axis=1).tolist()).decode(), "label": label}

    def fake(name, *, split):
        return [row(name, xs, label) for xs, label in files[name][1][split]]

    monkeypatch.setattr(sources, "load_dataset", fake)
    for name, _ in files.values():
        options = {"sequence_length": 32} if name == "imdb" else {}
        fetched, local = make(name, **options), make(name, folder=tmp_path, **options)
        for ours, theirs in zip(
            fetched.train_batch(0, 0, 5), local.train_batch(0, 0, 5), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", RECORDED)
def test_without_data_the_error_says_what_to_put_where(name, tmp_path, monkeypatch):
    def offline(name, *, split):
        raise ConnectionError(f"Couldn't reach {name}")

    monkeypatch.setattr(sources, "load_dataset", offline)
    with pytest.raises(TrainError) as error:
        make(name, folder=tmp_path)
    message = str(error.value)
    assert f"in {tmp_path}: put " in message and " from https://" in message
    assert f" into {tmp_path}/" in message and "Couldn't reach" not in message

    monkeypatch.delenv("FASTSCAN_DATA", raising=False)
    with pytest.raises(TrainError, match="put .* from https://.* into FOLDER/.* FASTSCAN_DATA"):
        make(name)
    monkeypatch.setenv("FASTSCAN_DATA", str(tmp_path))
    with pytest.raises(TrainError, match="put .* from https://.* into ") as error:
        make(name)
    on_hub = name in ("smnist", "psmnist", "scifar", "scifar_grey", "imdb")
    assert ("could not be fetched: Couldn't reach" in str(error.value)) == on_hub


def test_without_datasets_the_error_names_the_extra(monkeypatch):
    monkeypatch.delenv("FASTSCAN_DATA", raising=False)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(TrainError, match=r"pip install 'fastscan\[data\]'"):
        make("smnist")


class Evil:
    def __reduce__(self):
        return os.getcwd, ()


BROKEN = {
    "not an IDX file": ("smnist", "mnist/train-images-idx3-ubyte.gz", gzip.compress(b"GIF89a...")),
    "cannot be unpacked": ("smnist", "mnist/t10k-images-idx3-ubyte.gz", b"\x1f\x8b\x08"),
    "is cut off": (
        "smnist",
        "mnist/train-images-idx3-ubyte.gz",
        gzip.compress(recordings.idx(np.zeros((2, 28, 28), np.uint8))[:-1]),
    ),
    "asks for posix.getcwd": ("scifar", "cifar-10-batches-py/data_batch_2", pickle.dumps(Evil())),
    "is not a batch": ("scifar", "cifar-10-batches-py/data_batch_2", pickle.dumps({b"data": 1})),
    "line 2 of .*basic_val.tsv is not": (
        "lra_listops",
        "listops-1000/basic_val.tsv",
        b"Source\tTarget\n( [MAN 2 ] )\t2\n",
    ),
    "training set of smnist has 5 sequences, but 4": (
        "smnist",
        "mnist/train-labels-idx1-ubyte.gz",
        gzip.compress(recordings.idx(np.zeros(4, np.uint8))),
    ),
    "test set of smnist has a label 10, and its classes are 0 to 9": (
        "smnist",
        "mnist/t10k-labels-idx1-ubyte.gz",
        gzip.compress(recordings.idx(np.full(4, 10, np.uint8))),
    ),
    "line 1 of .*eval.tsv is not": ("aan", "tsv_data/new_aan_pairs.eval.tsv", b"1\ta\tb\tc\n"),
}


@pytest.mark.parametrize("message", BROKEN)
def test_broken_files_are_named(message, tmp_path):
    name, file, content = BROKEN[message]
    writers = {"smnist": recordings.mnist, "scifar": recordings.cifar}
    writers |= {"lra_listops": recordings.listops, "aan": recordings.aan}
    writers[name](tmp_path)
    (tmp_path / file).write_bytes(content)
    options = {"evaluate_on": "validation"} if name in ("lra_listops", "aan") else {}
    with pytest.raises(TrainError, match=message) as error:
        make(name, folder=tmp_path, **options)
    assert "set of" in message or str(tmp_path / file) in str(error.value)


def test_bad_images_and_recordings_are_named(tmp_path):
    folder = tmp_path / "lra_release/lra_release/pathfinder32/curv_contour_length_14/imgs/0"
    recordings.pathfinder(tmp_path, 32)
    for number in range(5):
        Image.new("L", (32, 31)).save(folder / f"sample_{number}.png")
    with pytest.raises(TrainError, match=r"sample_\d.png has \(31, 32\) pixels, not 32 x 32"):
        make("lra_pathfinder", folder=tmp_path).train_batch(0, 0, 8)
    for number in range(5):
        (folder / f"sample_{number}.png").write_bytes(b"")
    with pytest.raises(TrainError, match=r"sample_\d.png cannot be read"):
        make("lra_pathfinder", folder=tmp_path).train_batch(0, 0, 8)

    path = tmp_path / "word.wav"
    wavfile.write(path, 8000, np.zeros(10, np.int16))
    with pytest.raises(TrainError, match=r"word.wav is not up to .* but \(10,\) of int16 at 8,000"):
        speech_commands.read_second(path)
    path.write_bytes(b"RIFX")
    with pytest.raises(TrainError, match="word.wav cannot be read"):
        speech_commands.read_second(path)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "aan",
            {"evaluate_on": "train"},
            r"evaluate_on .* takes Literal\['test', 'validation'\], got",
        ),
        ("aan", {"document_length": 0}, "document_length must be at least 1, got 0"),
        ("smnist", {"sequence_length": "long"}, "sequence_length .* takes int, got 'long'"),
        ("smnist", {"padding": 1}, "padding of the task smnist takes bool, got 1"),
        ("speech_commands", {"words": 12}, "words must be 10 or 35, got 12"),
        ("path_x", {"difficulty": "easy"}, r"difficulty .* takes Literal\['curv_con"),
    ],
)
def test_options_are_checked(name, options, message):
    with pytest.raises(TrainError, match=message):
        make(name, **options)


def test_packing_and_padding_give_the_same_predictions(tmp_path):
    """With the mean over a sequence's own steps before the head."""
    recordings.listops(tmp_path)
    model = RunningMean(15, implementation="scan")

    @jax.jit
    def losses_of(batch):
        ys = jax.vmap(lambda xs, reset: model(None, xs, reset=reset)[1])(batch.xs, batch.reset)
        return -jnp.take_along_axis(jax.nn.log_softmax(ys), batch.targets[..., None], -1)[..., 0]

    losses = []
    for padding in (False, True):
        task = make("lra_listops", folder=tmp_path, sequence_length=12, padding=padding)
        (batch,) = task.test_batches(3)
        resets = np.asarray(batch.reset).sum(axis=1)
        assert resets.sum() == 3 and bool((resets == 1).all()) == padding
        losses.append(np.sort(np.asarray(losses_of(batch))[np.asarray(batch.mask)]))
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_permuted_digits():
    """An order that is no image's, and the same for all: the pixels of each are the same set."""
    plain, permuted = (make(name) for name in ("digits", "permuted_digits"))
    for ours, theirs in zip(permuted.test_batches(3), plain.test_batches(3), strict=True):
        xs, originals = (batch.xs.reshape(-1, 64) for batch in (ours, theirs))
        np.testing.assert_array_equal(xs, originals[:, digits.ORDER])
        for name in ("reset", "targets", "mask"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    assert sorted(digits.ORDER) == list(range(64)) and list(digits.ORDER) != list(range(64))
