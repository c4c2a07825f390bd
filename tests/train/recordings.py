"""Writes data sets as they are published, but small, and says what a task should make of them."""

import gzip
import struct

import numpy as np
from PIL import Image
from scipy.io import wavfile

from fastscan.train.tasks.long_range_arena import TOKENS
from fastscan.train.tasks.speech_commands import OTHER_WORDS, TEN_WORDS

RNG = np.random.default_rng(0)


def one_hot(tokens, size):
    return np.eye(size)[np.frombuffer(bytes(tokens), np.uint8)]


def random_bytes(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def idx(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def mnist(root, folder="mnist", packed=True):
    expected = {}
    for part, prefix, count in (("train", "train", 5), ("test", "t10k", 4)):
        images, labels = random_bytes(count, 28, 28), random_bytes(count) % 10
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            name, content = f"{prefix}-{name}-ubyte", idx(array)
            if packed:
                write(root / folder / f"{name}.gz", gzip.compress(content))
            else:
                write(root / folder / name, content)
        pixels = images.reshape(count, 784, 1) / 127.5 - 1
        expected[part] = list(zip(pixels, labels.tolist(), strict=True))
    return expected


def python2_pickle(images, labels):
    """Return what Python 2 pickled as {"data": images, "labels": labels}."""
    kind = (
        b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    count, size = images.shape
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
        + struct.pack("<4sHcHc", b"(K\x01M", count, b"M", size, b"\x86")
        + kind
        + b"\x89T"
        + struct.pack("<I", images.nbytes)
        + images.tobytes()
        + b"tb"
    )
    listed = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(U\x04data" + array + b"U\x06labels" + listed + b"u."


def cifar(root, binary=False):
    expected = {"train": [], "test": []}
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        images, labels = random_bytes(2, 3072), random_bytes(2) % 10
        if binary:
            content = np.concatenate([labels[:, None], images], axis=1).tobytes()
            write(root / "cifar-10-batches-bin" / f"{name}.bin", content)
        else:
            write(root / "cifar-10-batches-py" / name, python2_pickle(images, labels))
        pixels = images.reshape(-1, 3, 1024).swapaxes(1, 2)
        part = "test" if name == "test_batch" else "train"
        expected[part] += zip(pixels, labels.tolist(), strict=True)
    return expected


def imdb(root):
    texts = ["Né à Paris. <br />", "good " * 3, "bad", "x" * 30]
    expected = {}
    for part in ("train", "test"):
        expected[part] = []
        for label, folder in enumerate(("neg", "pos")):
            for number, text in enumerate(texts[label::2]):
                content = f"{part}: {text}".encode()
                write(root / "aclImdb" / part / folder / f"{number}_7.txt", content)
                expected[part].append((one_hot(content[:32], 256), label))
    return expected


def listops(root):
    tokens = {token: place for place, token in enumerate(TOKENS)}
    expected = {}
    for part, name in (("train", "train"), ("validation", "val"), ("test", "test")):
        rows = [
            ("( ( ( ( [MAX 2 ) 9 ) ( ( ( [MIN 4 ) 7 ) ] ) ) ] )", 9),
            ("( ( ( ( [SM 8 ) 9 ) 5 ) ] )", 2),
            (f"( ( ( [MED 1 ) {len(name)} ) ] )", (1 + len(name)) // 2),
        ]
        lines = ["Source\tTarget", *(f"{source}\t{target}" for source, target in rows)]
        write(root / f"listops-1000/basic_{name}.tsv", "\r\n".join([*lines, ""]).encode())
        expected[part] = []
        for source, target in rows:
            words = source.replace("(", "").replace(")", "").split()
            expected[part].append((one_hot([tokens[word] for word in words], 15), target))
    return expected


def aan(root):
    expected = {}
    for part, name in (("train", "train"), ("validation", "eval"), ("test", "test")):
        pairs = [(f"{name} 'a\" paper", "cités", 1), ("p" * 20, f"{name}\rq" * 9, 0)]
        lines = [f"{float(label)}\tW1\tW22\t{a}\t{b}\n" for a, b, label in pairs]
        write(root / f"tsv_data/new_aan_pairs.{name}.tsv", "".join(lines).encode())
        expected[part] = [
            (one_hot(a.encode()[:16] + b"\n" + b.encode()[:16], 256), label)
            for a, b, label in pairs
        ]
    return expected


def pathfinder(root, side, difficulty="curv_contour_length_14", count=10):
    folder = root / f"lra_release/lra_release/pathfinder{side}/{difficulty}"
    images = []
    for group in range(2):
        lines = []
        (folder / f"imgs/{group}").mkdir(parents=True)
        for number in range(count // 2):
            pixels, label = random_bytes(side, side), number % 2
            Image.fromarray(pixels).save(folder / f"imgs/{group}/sample_{number}.png")
            lines.append(f"imgs/{group} sample_{number}.png {number} {label} 1.8 3 14 6 2.4 3 6")
            images.append((pixels.reshape(-1, 1) / 127.5 - 1, label))
        write(folder / f"metadata/{group}.npy", "\n".join([*lines, ""]).encode())
    return images


def speech(root):
    lists = {"validation": [], "test": []}
    expected = {"train": [], "validation": [], "test": []}
    for label, word in enumerate((*TEN_WORDS, *OTHER_WORDS)):
        (root / "speech_commands" / word).mkdir(parents=True)
        for part in expected:
            length = 16000 if part == "test" else 11000
            samples = RNG.integers(-(2**15), 2**15, length, dtype=np.int16)
            file = f"{word}/{part}_nohash_0.wav"
            wavfile.write(root / "speech_commands" / file, 16000, samples)
            padded = np.pad(samples, (0, 16000 - length))[:, None] / 2**15
            expected[part].append((padded, label))
            if part in lists:
                lists[part].append(file)
    for part, name in (("validation", "validation_list.txt"), ("test", "testing_list.txt")):
        write(root / "speech_commands" / name, "\n".join([*lists[part], ""]).encode())
    return expected
