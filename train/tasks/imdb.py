"""Reviews of films, read byte by byte."""

from dataclasses import dataclass

import numpy as np

from fastscan.train.errors import TrainError
from fastscan.train.tasks.recorded import Recorded, Recordings
from fastscan.train.tasks.sources import Layout, Source
from fastscan.train.tasks.task import one_hot

# A review's class is the place of its folder's name.
CLASSES = ("neg", "pos")

IMDB = Source(
    "IMDb",
    (Layout("aclImdb", tuple(f"{part}/{c}" for part in ("train", "test") for c in CLASSES)),),
    "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",
    hub="stanfordnlp/imdb",
)


@dataclass(kw_only=True, eq=False)
class IMDb(Recorded):
    """Is a film praised (1) or not (0)? 25,000 and 25,000 reviews, as one-hot bytes of UTF-8.

    As in Long Range Arena, the end of a long review is left out.

    Maas et al., "Learning word vectors for sentiment analysis", 2011; as bytes: Tay et al., "Long
    Range Arena", arXiv:2011.04006.
    """

    name = "imdb"
    input_size = 256
    output_size = 2

    sequence_length: int = 4096
    """Steps of a row."""
    cut: bool = True
    """Leave out what is beyond `sequence_length`; otherwise a longer review is an error."""

    def load(self) -> tuple[Recordings, Recordings]:
        """Return both parts."""
        return self._part("train"), self._part("test")

    def _part(self, part: str) -> Recordings:
        if IMDB.is_fetched(self.folder):
            rows = list(IMDB.fetch(part))
            texts = [row["text"].encode() for row in rows]
            labels = [row["label"] for row in rows]
        else:
            folder = IMDB.find(self.folder)
            texts, labels = [], []
            for label, name in enumerate(CLASSES):
                files = sorted((folder / part / name).glob("*.txt"))
                if not files:
                    raise TrainError(f"there are no .txt files in {folder / part / name}")
                texts += [file.read_bytes() for file in files]
                labels += [label] * len(files)
        return Recordings(
            lengths=np.array([len(text) for text in texts]),
            labels=np.array(labels),
            sequence=lambda i: np.frombuffer(texts[i], np.uint8),
        )

    @staticmethod
    def encode(values):
        """Return one-hot bytes."""
        return one_hot(values, 256)
