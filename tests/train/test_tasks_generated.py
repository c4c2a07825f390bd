"""The generated tasks, each against a slow reference, and what all of them have in common."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from fastscan.train import tasks
from fastscan.train.errors import TrainError
from fastscan.train.tasks import (
    Classification,
    Regression,
    digit_math,
    listops,
    localization,
    maps,
    pathfinder,
)
from fastscan.train.tasks.digits import Digits
from fastscan.train.tasks.forecasting import Forecasting
from fastscan.train.tasks.generated import Episodic, Generated, pack
from fastscan.train.tasks.recall import followers
from fastscan.train.tasks.reinforcement import lambda_returns

GOLDEN = Path(__file__).parents[1] / "golden"

SHORT = {"length": 12, "washout": 2}
TINY = {
    "copy": {"pattern": 5, "episodes": 2},
    "selective_copy": {"length": 20, "symbols": 4, "alphabet": 5},
    "induction_heads": {"length": 9, "alphabet": 6},
    "associative_recall": {"length": 20, "alphabet": 6},
    "adding": {"length": 7, "episodes": 3},
    "parity": {"length": 9},
    "listops": {"sequence_length": 300, "max_length": 60},
    "localization": {"length": 12},
    "digit_math": {"operands": 3},
    "pathfinder": {"side": 20},
    "narma": {"length": 40},
    **dict.fromkeys(("logistic", "sines", "lorenz", "multiscroll"), SHORT),
    "henon": SHORT | {"observed": 1},
    "roessler": SHORT | {"observed": 2, "horizon": 3},
    "mackey_glass": SHORT | {"tau": 5},
    "lorenz96": SHORT | {"sites": 5},
    "kuramoto_sivashinsky": SHORT | {"points": 16, "horizon": 3},
    "repeat_previous": {"episodes": 2},
    "tmaze": {"min_length": 3, "max_length": 9, "sequence_length": 40},
    "lambda_returns": {"states": 5, "sequence_length": 40},
}


def tiny(name) -> Any:
    return tasks.make(name, test_sequences=3, **TINY[name])


def golden(name):
    with np.load(GOLDEN / f"data_{name}.npz") as file:
        return {key.removeprefix("out/"): file[key] for key in file.files}


def test_every_generated_task_is_here():
    assert set(TINY) == {n for n in tasks.available() if issubclass(tasks.find(n), Generated)}


@pytest.mark.parametrize("name", TINY)
def test_task(name):
    """One test, since the compilation of the batches is what takes time."""
    task = tiny(name)
    batch = jax.tree.map(np.asarray, task.train_batch(3, 2, 2))
    check_shapes(task, batch)
    check_randomness(name, task, batch)
    if isinstance(task, Forecasting):
        check_horizon(task, batch)
    if name in REFERENCES:
        REFERENCES[name](task, batch)


def check_shapes(task, batch):
    length, outputs = task.sequence_length, task.output_size
    assert (batch.xs.shape, batch.xs.dtype) == ((2, length, task.input_size), np.float32)
    assert batch.reset.shape == batch.mask.shape == (2, length)
    assert batch.reset.dtype == batch.mask.dtype == bool
    assert batch.mask.any(axis=1).all() and batch.reset[:, 0].all()
    assert np.isfinite(batch.xs).all() and np.isfinite(batch.targets).all()
    if isinstance(task, Regression):
        assert batch.targets.shape == (2, length, outputs)
        assert batch.targets.dtype == np.float32
    else:
        largest = outputs - 1 if isinstance(task, Classification) else 1
        assert batch.targets.dtype == np.int32
        assert batch.targets.min() >= 0 and batch.targets.max() <= largest
    if isinstance(task, Episodic):
        expected = np.arange(length) % task.episode_length == 0
        np.testing.assert_array_equal(batch.reset, np.stack([expected, expected]))
    ys = jax.ShapeDtypeStruct((2, length, outputs), np.float32)
    for measure in (task.loss, task.metric):
        assert jax.eval_shape(measure, ys, batch.targets).shape == (2, length)


def check_randomness(name, task, batch):
    """The same again, and another for every other seed, step and row, and in the test set."""
    for same, other in zip(batch, tiny(name).train_batch(3, 2, 2), strict=True):
        np.testing.assert_array_equal(same, other)
    tests = list(task.test_batches(2))
    assert [t.xs.shape for t in tests] == [batch.xs.shape] * 2
    np.testing.assert_array_equal(np.any(tests[1].mask, axis=1), [True, False])
    drawn = [batch, tests[0], *(task.train_batch(*at, 2) for at in ((3, 3), (4, 2), (0, 0)))]
    rows = [row.tobytes() for b in drawn for row in np.asarray(b.xs)]
    rows.append(np.asarray(tests[1].xs)[0].tobytes())
    assert len(set(rows)) == len(rows) == 11


def check_horizon(task, batch):
    assert task.horizon < task.length
    np.testing.assert_array_equal(batch.targets[:, : -task.horizon], batch.xs[:, task.horizon :])
    np.testing.assert_array_equal(task.persistence(batch), batch.xs)


def test_the_test_set_does_not_depend_on_the_batch_size():
    def rows(batch_size):
        batches = list(tiny("parity").test_batches(batch_size))
        return np.concatenate([np.asarray(b.xs)[np.asarray(b.mask).any(axis=1)] for b in batches])

    np.testing.assert_array_equal(rows(2), rows(3))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("copy", {"pattern": "long"}, "pattern of the task copy takes int, got 'long'"),
        ("copy", {"pattern": 0}, "pattern of the task copy must be at least 1, got 0"),
        ("adding", {"test_sequences": 0}, "test_sequences of the task adding must be at least 1"),
        ("listops", {"sequence_length": 20}, "must be at least 100, got 20"),
        ("listops", {"min_length": 60, "max_depth": 2}, "of 60 to 100 tokens are too rare with"),
        ("pathfinder", {"side": 16, "distractors": 9}, "no room for 9 distractors on 16 x 16"),
        ("digits", {"digits_per_sequence": 0}, "digits_per_sequence must be a whole number from 1"),
        ("digits", {"test_fraction": 1.0}, "test_fraction must be between 0 and 1, got 1.0"),
        ("repeat_previous", {"delay": 52}, "add decks"),
        ("localization", {"dimensions": 4}, "must be 2 or 3, got 4"),
        ("lambda_returns", {"trace": 1.5}, r"trace must be in \[0, 1\], got 1.5"),
    ],
)
def test_an_option_out_of_range(name, options, message):
    with pytest.raises(TrainError, match=message):
        tasks.make(name, **options)


def test_regression_measures_the_outputs_of_a_step():
    task = tiny("localization")
    outputs, targets = jnp.array([[3.0, 4.0], [1.0, 1.0]]), jnp.array([[0.0, 0.0], [1.0, 2.0]])
    np.testing.assert_allclose(task.loss(outputs, targets), [12.5, 0.5])
    np.testing.assert_allclose(task.metric(outputs, targets), np.sqrt([12.5, 0.5]), rtol=1e-6)
    assert not task.higher_is_better and tiny("parity").higher_is_better


def check_copy(_, batch):
    """The layout is that of minimal-LRU."""

    def assert_copy(x, y):
        assert x.shape == (18, 8) and y.shape == (18, 7)
        for t in range(18):
            np.testing.assert_array_equal(y[t], x[t - 13, :7] if t >= 13 else np.zeros(7))
            if t >= 5:
                assert not x[t, :7].any()
            assert x[t, 7] == (t == 12)
        assert 0.2 < x[:5, :7].mean() < 0.8

    reference = golden("minlru_copy")
    for x, y in zip(reference["x"], reference["y"], strict=True):
        assert_copy(x, y)
    for x, y in zip(batch.xs.reshape(4, 18, 8), batch.targets.reshape(4, 18, 7), strict=True):
        assert_copy(x, y)
    np.testing.assert_array_equal(batch.mask[0, :18], np.arange(18) >= 13)


def test_the_loss_of_copying_is_that_of_its_bits():
    task = tiny("copy")
    logits, bits = jnp.array([[2.0, -1.0, 0.5]]), jnp.array([[1, 1, 0]])
    right = np.array([1 / (1 + np.exp(-2)), 1 / (1 + np.exp(1)), 1 / (1 + np.exp(0.5))])
    np.testing.assert_allclose(task.loss(logits, bits), [-np.log(right).mean()], rtol=1e-6)
    np.testing.assert_allclose(task.metric(logits, bits), [1 / 3], rtol=1e-6)


def check_selective_copy(_, batch):
    for read, targets, mask in zip(batch.xs.argmax(-1), batch.targets, batch.mask, strict=True):
        assert list(read[20:]) == [6] * 4
        assert list(np.flatnonzero(mask)) == [20, 21, 22, 23]
        assert list(targets[mask]) == [symbol for symbol in read[:20] if symbol < 5]


def check_induction_heads(_, batch):
    for read, targets, mask in zip(batch.xs.argmax(-1), batch.targets, batch.mask, strict=True):
        assert list(np.flatnonzero(mask)) == [8] and list(read).count(6) == 2 and read[8] == 6
        assert targets[8] == read[list(read).index(6) + 1]


def check_associative_recall(_, batch):
    """And that of GatedLinearRNN gives the same."""

    def slow(symbols, unseen):
        return [
            next((symbols[s + 1] for s in range(t - 1, -1, -1) if symbols[s] == symbols[t]), unseen)
            for t in range(len(symbols))
        ]

    for x, y in zip(batch.xs.argmax(-1), batch.targets, strict=True):
        assert list(y) == slow(list(x), 6)
    # There, "not seen" is the same number as one of the symbols.
    reference = golden("gln_associative_recall")
    ours = np.asarray(
        jax.jit(jax.vmap(lambda x: followers(x, 8)))(reference["inputs"].astype(np.int32))
    )
    np.testing.assert_array_equal(np.where(ours == 8, 6, ours), reference["targets"])


def check_adding(_, batch):
    for x, y, mask in zip(
        batch.xs.reshape(6, 7, 2),
        batch.targets.reshape(6, 7),
        batch.mask.reshape(6, 7),
        strict=True,
    ):
        assert x[:3, 1].sum() == 1 and x[3:, 1].sum() == 1 and 0 <= x[:, 0].min() < 1
        np.testing.assert_allclose(y[6], np.sum(x[:, 0] * x[:, 1]), rtol=1e-6)
        assert list(np.flatnonzero(mask)) == [6]


def check_parity(_, batch):
    for bits, targets in zip(batch.xs[..., 1].astype(int), batch.targets, strict=True):
        assert list(targets) == [sum(bits[: t + 1]) % 2 for t in range(9)]


def by_python(tokens):
    """Return the value of an expression as Python reads it."""
    functions = {
        "MIN": lambda *v: min(v),
        "MAX": lambda *v: max(v),
        "MED": lambda *v: int(np.median(v)),
        "SM": lambda *v: sum(v) % 10,
    }
    text = " ".join(listops.TOKENS[token] for token in tokens)
    for name in functions:
        text = text.replace(f"[{name} ", f"{name}(")
    return eval(text.replace(" ]", ")").replace(" ", ","), functions)


def levels(tokens):
    nested = np.cumsum([(t in range(10, 14)) - int(t == listops.CLOSE) for t in tokens])
    return nested.max() + 1


def check_listops(task, batch):
    """By evaluating the text, over as many as hold every operator and depth."""
    operators, depths = set(), set()
    batches = [batch, *(task.train_batch(0, step, 2) for step in range(4))]
    for x, reset, y, mask in (row for b in batches for row in zip(*b, strict=True)):
        x, y = np.asarray(x), np.asarray(y)
        np.testing.assert_array_equal(x.sum(-1), 1)
        starts, ends = np.flatnonzero(reset), np.flatnonzero(mask)
        # Every expression ends where the next one starts, but for the one that is cut off.
        assert len(starts) - len(ends) in (0, 1)
        np.testing.assert_array_equal((ends + 1)[: len(starts) - 1], starts[1:])
        for start, end in zip(starts, ends, strict=False):
            tokens = list(x[start : end + 1].argmax(-1))
            assert task.min_length <= len(tokens) <= task.max_length
            assert y[end] == by_python(tokens)
            operators |= set(tokens) & set(range(10, 14))
            depths.add(levels(tokens))
    assert len(operators) == 4 and max(depths) == task.max_depth


def test_listops_one_by_one():
    task = listops.ListOps(sequence_length=120, padding=True)
    batch = task.train_batch(0, 0, 3)
    for x, reset, y, mask in zip(*(np.asarray(a) for a in batch), strict=True):
        (end,) = np.flatnonzero(mask)
        assert list(np.flatnonzero(reset)) == [0] and not x[end + 1 :].any()
        assert y[end] == by_python(x[: end + 1].argmax(-1))


def check_localization(_, batch):
    for x, y in zip(batch.xs.astype(float), batch.targets, strict=True):
        pose = np.eye(3)
        for t, (turn, *move) in enumerate(x):
            c, s = np.cos(turn), np.sin(turn)
            pose = pose @ np.array([[c, -s, move[0]], [s, c, move[1]], [0, 0, 1]])
            expected = [*pose[:2, 2] / np.sqrt(12), *pose[:2, 0]]
            np.testing.assert_allclose(y[t], expected, atol=1e-5)


def test_localization_in_space_is_that_of_memax():
    reference = golden("memax_continuous_localization")
    rotations, positions = jax.jit(jax.vmap(localization.poses))(
        reference["delta_rotation"], reference["delta_position"]
    )
    expected = Rotation.from_rotvec(reference["absolute_rotation"].reshape(-1, 3)).as_matrix()
    np.testing.assert_allclose(rotations.reshape(-1, 3, 3), expected, atol=1e-5)
    np.testing.assert_allclose(positions, reference["absolute_position"], atol=1e-5)
    task = localization.Localization(dimensions=3, length=4)
    episode = jax.eval_shape(task.episode, jax.random.key(0))
    assert episode.xs.shape == (4, task.input_size) == (4, 6)
    assert episode.targets.shape == (4, task.output_size) == (4, 9)


def check_digit_math(task, _):
    digits = Digits()
    for batch in task.test_batches(3):
        images = np.asarray(batch.xs).reshape(3, 5, 8, 8)
        for row, target in zip(images, batch.targets[:, -1], strict=True):
            value = 0
            for i in range(0, 5, 2):
                (found,) = np.flatnonzero((digits.test_images == row[i]).all(axis=(1, 2)))
                minus = i > 0 and np.array_equal(row[i - 1], digit_math.MINUS)
                assert i == 0 or minus or np.array_equal(row[i - 1], digit_math.PLUS)
                value += -digits.test_labels[found] if minus else digits.test_labels[found]
            assert target == task.class_of(value)


def test_digit_math_classes_are_about_as_likely_as_one_another():
    task = digit_math.DigitMath(operands=2, classes=4)
    values = [a + sign * b for a in range(10) for b in range(10) for sign in (1, -1)]
    classes = [task.class_of(value) for value in values]
    assert digit_math.value_of([1, 2, 3], [True, False]) == 0
    np.testing.assert_allclose(np.bincount(classes) / len(values), 0.25, atol=0.03)
    order = np.argsort(values)
    assert (np.diff(np.array(classes)[order]) >= 0).all()


def check_pathfinder(_, batch):
    """Where lines have no gaps, the discs are joined if they lie on the same patch of ink."""
    task = pathfinder.Pathfinder(side=24, gap=0.0)
    rng = np.random.default_rng(0)
    for joined in [True, False] * 5:
        image, ends = task.draw(rng, joined)
        labelled: Any = ndimage.label(image > -0.6, np.ones((3, 3)))
        patches, count = labelled
        first, second = (patches[tuple(np.rint(end).astype(int))] for end in ends)
        assert count == 4 and first > 0 and second > 0
        assert (first == second) == joined
    np.testing.assert_array_equal(batch.targets[:, 0], batch.targets[:, -1])


def check_repeat_previous(_, batch):
    for suits, targets, mask in zip(
        batch.xs.argmax(-1).reshape(4, 52),
        batch.targets.reshape(4, 52),
        batch.mask.reshape(4, 52),
        strict=True,
    ):
        np.testing.assert_array_equal(np.bincount(suits), 13)
        assert list(np.flatnonzero(mask)) == list(range(4, 52))
        assert list(targets[4:]) == list(suits[:-4])


def test_pack():
    episode, place = pack(jnp.array([3, 1, 4, 2]), 9)
    np.testing.assert_array_equal(episode, np.repeat([0, 1, 2, 3], [3, 1, 4, 1]))
    np.testing.assert_array_equal(place, [0, 1, 2, 0, 0, 1, 2, 3, 0])


def check_tmaze(_, batch):
    lengths = set()
    for seen, reset, targets, mask in zip(
        batch.xs.argmax(-1), batch.reset, batch.targets, batch.mask, strict=True
    ):
        starts = [*np.flatnonzero(reset), 40]
        for start, end in zip(starts[:-1], starts[1:], strict=True):
            whole = int(end < 40 or seen[-1] == 3)
            expected = [seen[start], *[2] * (end - start - 1 - whole), *[3] * whole]
            assert seen[start] in (0, 1) and list(seen[start:end]) == expected
            assert list(mask[start:end]) == [s == 3 for s in expected]
            assert not whole or targets[end - 1] == seen[start]
            assert not whole or 3 <= end - start <= 9
            lengths.add(end - start)
    assert len(lengths) > 2


def test_lambda_returns_by_averaging_returns_of_n_steps():
    """The forward view: (1 - lambda) sum of lambda^(n-1) G_n, and lambda^N of the whole return."""
    rng = np.random.default_rng(0)
    rewards, following = rng.normal(size=(2, 9)).astype(np.float32)
    ends = np.arange(9) % 5 == 3  # episodes of 4 and 5 steps
    discount, trace = 0.9, 0.7
    actual = lambda_returns(
        jnp.asarray(rewards), jnp.asarray(following), jnp.asarray(ends), discount, trace
    )
    for t in range(9):
        last = next(s for s in range(t, 9) if ends[s])
        expected, so_far = 0.0, 0.0
        for n in range(1, last - t + 1):
            so_far += discount ** (n - 1) * rewards[t + n - 1]
            by_critic = so_far + discount**n * following[t + n - 1]
            expected += (1 - trace) * trace ** (n - 1) * by_critic
        whole = so_far + discount ** (last - t) * rewards[last]
        expected += trace ** (last - t) * whole
        np.testing.assert_allclose(actual[t], expected, rtol=1e-5)


def check_lambda_returns(task, batch):
    """Of the walks that are seen, and with values that fulfil Bellman's equation."""
    values = task.values()
    chance = (
        np.array([*values[1:], 1 / task.discount]),
        np.array([-1 / task.discount, *values[:-1]]),
    )
    np.testing.assert_allclose(values, task.discount * 0.5 * (chance[0] + chance[1]), atol=1e-12)
    for x, reset, y in zip(batch.xs, batch.reset, batch.targets[..., 0], strict=True):
        states = np.zeros(40, int)
        for t in range(40):
            assert x[t].sum() == (not reset[t])
            states[t] = 2 if reset[t] else states[t - 1] + (1 if x[t, 1] else -1)
        assert set(states) == set(range(5))
        following = y[-1]
        for t in range(38, -1, -1):
            if reset[t + 1]:
                assert states[t] in (0, 4)
                following = -1.0 if states[t] == 0 else 1.0
            else:
                critic = (1 - task.trace) * values[states[t + 1]]
                following = task.discount * (critic + task.trace * following)
            np.testing.assert_allclose(y[t], following, rtol=1e-4, atol=1e-6)


def check_henon(task, batch):
    """With the other coordinate put in."""
    x = batch.xs[..., 0] * task.deviation[0] + task.mean[0]
    expected = 1 - 1.4 * x[:, 1:-1] ** 2 + 0.3 * x[:, :-2]
    np.testing.assert_allclose(x[:, 2:], expected, atol=1e-5)


def check_sines(task, batch):
    """Up to amplitudes and phases: least squares leave nothing over."""
    angles = np.outer(np.arange(22), maps.FREQUENCIES[:5])
    waves = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    for x, y in zip(batch.xs[..., 0], batch.targets[..., 0], strict=True):
        series = np.concatenate([x, y[-10:]])
        solution = np.linalg.lstsq(waves, series)[0]
        np.testing.assert_allclose(waves @ solution, series, atol=1e-4)
        np.testing.assert_allclose(np.hypot(solution[:5], solution[5:]), np.sqrt(2 / 5), rtol=1e-3)


def check_narma(_, batch):
    for u, targets in zip(batch.xs[..., 0], batch.targets[..., 0], strict=True):
        u, y = u * maps.INPUT_DEVIATION + maps.INPUT_MEAN, np.zeros(41)
        assert -1e-6 <= u.min() and u.max() <= 0.5 + 1e-6
        for t in range(40):
            total = sum(y[t - i] for i in range(10) if t - i >= 0)
            product = u[t - 9] * u[t] if t >= 9 else 0
            y[t + 1] = 0.3 * y[t] + 0.05 * y[t] * total + 1.5 * product + 0.1
        np.testing.assert_allclose(
            targets, (y[1:] - maps.OUTPUT_MEAN) / maps.OUTPUT_DEVIATION, atol=1e-4
        )


REFERENCES = {
    name.removeprefix("check_"): function
    for name, function in list(globals().items())
    if name.removeprefix("check_") in TINY
}
