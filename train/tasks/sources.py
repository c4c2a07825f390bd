"""Where recorded data come from: a folder with the published files, or the Hugging Face Hub."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastscan.train.errors import TrainError

FOLDER_VARIABLE = "FASTSCAN_DATA"
"""Environment variable with the folder that data sets are looked for in."""


@dataclass(frozen=True)
class Layout:
    """Files that make up a data set, or folders of files."""

    folder: str
    """Where they stand, relative to the folder of all data sets."""
    files: tuple[str, ...]
    """Relative to `folder`."""


@dataclass(frozen=True)
class Source:
    """A data set."""

    title: str
    layouts: tuple[Layout, ...]
    """Any one of them is enough; the first is what the error asks for."""
    url: str
    """Where the files are published."""
    hub: str | None = None
    """Its name on the Hugging Face Hub, where it is there as it was published."""

    def is_fetched(self, folder: str | Path | None) -> bool:
        """Return whether `fetch` has to be used: no folder is given, and none has the files."""
        return self.hub is not None and folder is None and self._look(folder) is None

    def find(self, folder: str | Path | None) -> Path:
        """Return where the files stand.

        Args:
            folder: the folder of all data sets; None takes the environment variable's.

        Raises:
            TrainError: they are not there; the message says what to put where.
        """
        path = self._look(folder)
        if path is None:
            raise TrainError(self._instructions(folder))
        return path

    def fetch(self, split: str) -> Iterable[Mapping[str, Any]]:
        """Return a split from the Hub.

        Raises:
            TrainError: it cannot be had.
        """
        if self.hub is None:
            raise ValueError(f"{self.title} is not on the Hub")
        try:
            return load_dataset(self.hub, split=split)
        except ImportError:
            raise TrainError(
                f"{self._instructions()}; or have it fetched: pip install 'fastscan[data]'"
            ) from None
        except (OSError, RuntimeError, ValueError) as error:
            raise TrainError(
                f"{self._instructions()}; {self.hub} could not be fetched: {error}"
            ) from error

    def _look(self, folder: str | Path | None) -> Path | None:
        if base := data_folder(folder):
            for layout in self.layouts:
                if all((base / layout.folder / file).exists() for file in layout.files):
                    return base / layout.folder
        return None

    def _instructions(self, folder: str | Path | None = None) -> str:
        layout, base = self.layouts[0], data_folder(folder)
        files = ", ".join(layout.files)
        if base is not None:
            return (
                f"there is no {self.title} in {base}: put {files} from {self.url} into "
                f"{base / layout.folder}"
            )
        return (
            f"there is no {self.title}: put {files} from {self.url} into FOLDER/{layout.folder}, "
            f"and name FOLDER in the environment variable {FOLDER_VARIABLE} or the task option "
            "folder=FOLDER"
        )


def data_folder(folder: str | Path | None) -> Path | None:
    """Return the folder that data sets are looked for in, if one was named."""
    named = os.environ.get(FOLDER_VARIABLE) if folder is None else folder
    return Path(named).expanduser() if named else None


def load_dataset(name: str, *, split: str) -> Iterable[Mapping[str, Any]]:
    """Return a split of a data set of the Hub, fetched unless it was before: one mapping a row.

    Raises:
        ImportError: `datasets` is not installed.
        OSError: there is no network.
    """
    # Nothing else needs it.
    import datasets  # pyright: ignore[reportMissingImports]

    return datasets.load_dataset(name, split=split)
