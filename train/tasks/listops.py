"""ListOps: the value of a nested expression."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastscan.train.errors import TrainError
from fastscan.train.tasks.generated import Arrays, OnHost, at_least
from fastscan.train.tasks.task import Classification

# The first ten tokens are the digits.
TOKENS = (*"0123456789", "[MIN", "[MAX", "[MED", "[SM", "]")
MIN, MAX, MED, SUM, CLOSE = range(10, 15)

# An argument is an expression of its own with this chance, where the depth allows it.
NESTED = 0.25

# How often an expression is drawn in the hope that its length is allowed: about one in three of the
# Long Range Arena's is.
ATTEMPTS = 100_000


@dataclass(frozen=True, kw_only=True)
class ListOps(OnHost, Classification):
    """Expressions such as `[MAX 2 9 [MIN 4 7 ] 0 ]`: smallest, largest, median, sum modulo ten.

    Inputs are one-hot tokens, read one by one; the value, a digit, is to be predicted at the last
    one. The median of an even number of arguments is rounded down.

    Nangia and Bowman, "ListOps", arXiv:1804.06028, with the grammar of Tay et al., "Long Range
    Arena", arXiv:2011.04006: there, `min_length=500, max_length=2000, max_depth=10,
    max_arguments=10`.
    """

    name = "listops"
    input_size = len(TOKENS)
    output_size = 10

    min_length: int = 10
    """Tokens of the shortest expression."""
    max_length: int = 100
    """Tokens of the longest expression."""
    max_depth: int = 4
    """Levels of an expression's tree, the digits' included."""
    max_arguments: int = 5
    """Arguments of an operator; the fewest are two."""
    sequence_length: int = 1024
    """Steps of a sequence."""
    padding: bool = False
    """One expression a sequence, padded with zeros, instead of many end to end."""

    def __post_init__(self):
        """Check the options."""
        super().__post_init__()
        at_least(self, max_depth=2, max_arguments=2, max_length=max(self.min_length, 4))
        at_least(self, sequence_length=self.max_length)
        self.expression(random.Random(0))

    def sequence(self, rng: np.random.Generator, training: bool) -> Arrays:
        """Return expressions packed end to end, or a single one."""
        draw = random.Random(int(rng.integers(2**63)))
        length = self.sequence_length
        xs = np.zeros((length, self.input_size), np.float32)
        reset, mask = np.zeros((2, length), bool)
        targets = np.zeros(length, np.int32)
        start = 0
        while start < length and (start == 0 or not self.padding):
            tokens = self.expression(draw)
            end = min(start + len(tokens), length)
            xs[np.arange(start, end), tokens[: end - start]] = 1
            reset[start] = True
            if start + len(tokens) == end:
                targets[end - 1], mask[end - 1] = evaluate(tokens), True
            start = end
        return Arrays(xs, reset, targets, mask)

    def expression(self, draw: random.Random) -> list[int]:
        """Return the tokens of an expression whose length is allowed.

        Raises:
            TrainError: there is hardly one.
        """
        for _ in range(ATTEMPTS):
            tokens = self._grow(draw)
            if self.min_length <= len(tokens) <= self.max_length:
                return tokens
        raise TrainError(
            f"expressions of {self.min_length} to {self.max_length} tokens are too rare with "
            f"max_depth={self.max_depth} and max_arguments={self.max_arguments}: allow other "
            "lengths, or change these two"
        )

    def _grow(self, draw: random.Random) -> list[int]:
        tokens, wanted = [], []  # wanted: arguments that every open operator still takes
        while len(tokens) <= self.max_length:
            nested = len(wanted) < self.max_depth - 1 and draw.random() < NESTED
            if nested or not tokens:
                tokens.append(draw.randrange(MIN, CLOSE))
                wanted.append(draw.randint(2, self.max_arguments))
                continue
            tokens.append(draw.randrange(10))
            wanted[-1] -= 1
            while wanted[-1] == 0:
                tokens.append(CLOSE)
                wanted.pop()
                if not wanted:
                    return tokens
                wanted[-1] -= 1
        return tokens  # too long already


def evaluate(tokens: Sequence[int]) -> int:
    """Return the value of an expression."""
    stack: list[list[int]] = [[]]
    operators = []
    for token in tokens:
        if token < MIN:
            stack[-1].append(token)
        elif token < CLOSE:
            operators.append(token)
            stack.append([])
        else:
            values = stack.pop()
            stack[-1].append(_APPLY[operators.pop()](values))
    return stack[0][0]


def _median(values: list[int]) -> int:
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) // 2


_APPLY = {MIN: min, MAX: max, MED: _median, SUM: lambda values: sum(values) % 10}
