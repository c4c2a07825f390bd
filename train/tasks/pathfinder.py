"""Pathfinder: does a dashed path join the two discs?"""

from dataclasses import dataclass

import numpy as np

from fastscan.train.errors import TrainError
from fastscan.train.tasks.generated import Arrays, OnHost, at_least
from fastscan.train.tasks.task import Classification

# In pixels: half the width of a path, the radius of a disc, the distance between two points of a
# path, the smallest distance between two paths, and that of a path to the border.
THICKNESS, DISC, STRIDE, CLEARANCE, BORDER = 0.5, 1.5, 0.5, 3.5, 2.0

# Standard deviation of the change of a path's direction, in radians per pixel.
CURVATURE = 0.15

# How many paths are drawn at once, in the hope that one of them has room.
CANDIDATES = 64

# How often all paths are drawn before there is said to be no room; once is enough most often.
ATTEMPTS = 500


@dataclass(frozen=True, kw_only=True)
class Pathfinder(OnHost, Classification):
    """Two long dashed paths and shorter ones; two discs lie on the ends of one, or on one of each.

    Grey images in [-1, 1] are read pixel by pixel, row by row; at the last one, predict whether a
    path joins the discs (1) or not (0).

    Linsley et al., "Learning long-range spatial dependencies with horizontal gated recurrent
    units", arXiv:1805.08315; Tay et al., "Long Range Arena", arXiv:2011.04006 (32 x 32 pixels, and
    128 x 128 in Path-X).
    """

    name = "pathfinder"
    input_size = 1
    output_size = 2

    side: int = 32
    """Pixels of a side."""
    distractors: int = 2
    """Shorter paths without discs."""
    dash: float = 2.5
    """Length of a dash, in pixels."""
    gap: float = 2.0
    """Length of a gap between dashes, in pixels; 0 draws whole lines."""

    def __post_init__(self):
        """Check the options."""
        super().__post_init__()
        at_least(self, side=16, distractors=0, dash=STRIDE, gap=0)
        self._paths(np.random.default_rng(0))

    @property
    def sequence_length(self) -> int:
        """Pixels of an image."""
        return self.side**2

    def sequence(self, rng: np.random.Generator, training: bool) -> Arrays:
        """Return one image."""
        joined = bool(rng.integers(2))
        image, _ = self.draw(rng, joined)
        place = np.arange(self.sequence_length)
        return Arrays(
            xs=image.astype(np.float32).reshape(-1, 1),
            reset=place == 0,
            targets=np.full(self.sequence_length, joined, np.int32),
            mask=place == self.sequence_length - 1,
        )

    def draw(self, rng: np.random.Generator, joined: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return an image, (side, side), and the centres of its discs, (2, 2)."""
        paths = self._paths(rng)
        ends = np.stack([paths[0][0], paths[0][-1]])
        if not joined:
            # About as far apart as the ends of a path, so that the distance does not tell.
            others = np.stack([paths[1][0], paths[1][-1]])
            surplus = np.abs(_distances(ends, others) - np.hypot(*(ends[1] - ends[0])))
            one, other = np.unravel_index(np.argmin(surplus), surplus.shape)
            ends = np.stack([ends[one], others[other]])
        period = self.dash + self.gap
        dashes = [p[np.arange(len(p)) * STRIDE % period < self.dash] for p in paths]
        ink = self._ink(np.concatenate(dashes), THICKNESS)
        return 2 * np.maximum(ink, self._ink(ends, DISC)) - 1, ends

    def _paths(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Return points along every path, the long ones first.

        Raises:
            TrainError: there is hardly room for them.
        """
        long = int(0.75 * self.side / STRIDE)
        lengths = [long, long] + [long // 3] * self.distractors
        for _ in range(ATTEMPTS):
            paths: list[np.ndarray] = []
            for length in lengths:
                path = self._path(rng, length, paths)
                if path is None:
                    break
                paths.append(path)
            else:
                return paths
        raise TrainError(
            f"there is no room for {self.distractors} distractors on {self.side} x {self.side} "
            "pixels: give fewer distractors or a larger side"
        )

    def _path(
        self, rng: np.random.Generator, length: int, others: list[np.ndarray]
    ) -> np.ndarray | None:
        """Return a path that has room, or None where none of the candidates has."""
        turns = rng.normal(0, CURVATURE * STRIDE**0.5, (CANDIDATES, length))
        angles = rng.uniform(0, 2 * np.pi, (CANDIDATES, 1)) + np.cumsum(turns, axis=1)
        moves = STRIDE * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
        moves[:, 0] = rng.uniform(BORDER, self.side - 1 - BORDER, (CANDIDATES, 2))
        candidates = np.cumsum(moves, axis=1)
        inside = (candidates > BORDER) & (candidates < self.side - 1 - BORDER)
        for path in candidates[inside.all(axis=(1, 2))]:
            apart = np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
            far_along = apart * STRIDE > 2 * CLEARANCE
            if np.all(_distances(path, path)[far_along] > CLEARANCE) and all(
                _distances(path, other).min() > CLEARANCE for other in others
            ):
                return path
        return None

    def _ink(self, points: np.ndarray, radius: float) -> np.ndarray:
        """Return how much of every pixel is covered, about, by discs around the points."""
        grid = np.indices((self.side, self.side)).reshape(2, -1).T
        nearest = _distances(grid, points).min(axis=1)
        return np.clip(radius + 0.5 - nearest, 0, 1).reshape(self.side, self.side)


def _distances(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.hypot(*np.moveaxis(points[:, None] - others, -1, 0))
