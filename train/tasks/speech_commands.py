"""Spoken words, read sample by sample."""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int16
from scipy.io import wavfile

from fastscan.train.errors import TrainError
from fastscan.train.tasks.recorded import Recordings, WithValidation, standardize
from fastscan.train.tasks.sources import Layout, Source

RATE = 16_000
"""Samples a second, and of a recording."""

TEN_WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
OTHER_WORDS = (
    *("backward", "bed", "bird", "cat", "dog", "eight", "five", "follow", "forward", "four"),
    *("happy", "house", "learn", "marvin", "nine", "one", "seven", "sheila", "six", "three"),
    *("tree", "two", "visual", "wow", "zero"),
)

# The second is torchaudio's.
PLACES = ("speech_commands", "SpeechCommands/speech_commands_v0.02")
LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}


@dataclass(kw_only=True, eq=False)
class SpeechCommands(WithValidation):
    """Which of 35 words is said? 84,843, 9,981 and 11,005 recordings of a second, or a little less.

    Inputs are the 16,000 samples in [-1, 1), with zeros after the end of a shorter recording; they
    are read as they are needed. The parts are those of the published lists.

    Warden, "Speech Commands", arXiv:1804.03209, version 2.
    """

    name = "speech_commands"
    input_size = 1

    words: int = 35
    """35 is all of them; 10 is yes, no, up, down, left, right, on, off, stop and go."""
    sequence_length: int = RATE
    """Steps of a row."""

    def load(self) -> tuple[Recordings, Recordings]:
        """Return the training set and the one to evaluate on."""
        if self.words not in (10, 35):
            raise TrainError(f"words must be 10 or 35, got {self.words}")
        words = TEN_WORDS if self.words == 10 else (*TEN_WORDS, *OTHER_WORDS)
        self.output_size = len(words)
        folder = Source(
            "Speech Commands",
            tuple(Layout(place, (*LISTS.values(), *words)) for place in PLACES),
            "https://download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
        ).find(self.folder)

        listed = {part: set((folder / file).read_text().split()) for part, file in LISTS.items()}
        files: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
        labels: dict[str, list[int]] = {part: [] for part in files}
        for label, word in enumerate(words):
            for path in sorted((folder / word).glob("*.wav")):
                file = f"{word}/{path.name}"
                part = next((part for part in listed if file in listed[part]), "train")
                files[part].append(file)
                labels[part].append(label)

        def recordings(part: str) -> Recordings:
            return Recordings(
                lengths=np.full(len(files[part]), RATE),
                labels=np.array(labels[part]),
                sequence=lambda i: read_second(folder / files[part][i]),
            )

        return recordings("train"), recordings(self.evaluate_on)

    @staticmethod
    def encode(values):
        """Return 16-bit samples in [-1, 1)."""
        return standardize(values, 0, 2**15)


def read_second(path: Path) -> Int16[np.ndarray, "samples 1"]:
    """Return the samples of a WAV file of 16 bits and one channel, with zeros up to one second.

    Raises:
        TrainError: it is not such a file, or longer.
    """
    try:
        rate, samples = wavfile.read(path)
    except (OSError, ValueError, struct.error) as error:
        raise TrainError(f"{path} cannot be read: {error}") from error
    if rate != RATE or samples.dtype != np.int16 or samples.ndim != 1 or len(samples) > RATE:
        raise TrainError(
            f"{path} is not up to {RATE:,} samples of 16 bits at {RATE:,} Hz, but {samples.shape} "
            f"of {samples.dtype} at {rate:,} Hz"
        )
    return np.pad(samples, (0, RATE - len(samples)))[:, None]
