"""The rule that cuts the work: what any cut must satisfy, and what some should be."""

import itertools

import jax.numpy as jnp
import pytest

from fastscan.bench import ptx_cases
from fastscan.kernels.triton import tuning
from fastscan.kernels.triton.tuning import Device, Problem, Tile, choose

PROBLEMS = [
    Problem(rows, length, channels, itemsize, planes, gradient)
    for rows, length, channels in itertools.product(
        (1, 7, 4096), (1, 17, 1000, 1_000_000), (1, 2, 5, 16, 17, 63, 64, 100, 2047, 2048, 4099)
    )
    for itemsize, planes in ((2, 1), (4, 1), (8, 1), (4, 2), (8, 2))
    for gradient in (False, True)
]


def test_every_cut_is_one_that_a_kernel_can_run():
    for problem in PROBLEMS:
        config = choose(problem)
        for power in (config.tile.steps, config.channels, config.tile.warps):
            assert power > 0 and power & (power - 1) == 0, (problem, config)
        assert config.vector * problem.itemsize <= 16
        assert 2 <= config.tile.stages <= 8
        # What the tiles in flight take of the 99 KiB that every GPU since Ampere gives a program.
        operands = (2 + problem.gradient) * problem.planes
        tile = config.tile.steps * config.channels * problem.itemsize
        assert operands * tile * config.tile.stages <= 99 * 1024, (problem, config)
        if config.chunk is not None:
            chunks = -(-problem.length // config.chunk)
            assert config.chunk % config.tile.steps == 0
            assert 1 < chunks <= 65535


def test_the_same_problem_is_cut_the_same_way():
    assert all(choose(problem) == choose(problem) for problem in PROBLEMS)


@pytest.mark.parametrize(
    ("problem", "channels", "vector", "split"),
    [
        # Enough rows for accesses of 16 bytes.
        (Problem(32, 8192, 2048, 4), 128, 4, False),
        (Problem(32, 8192, 2048, 2), 256, 8, False),
        # Narrower ones keep all multiprocessors busy, down to 4096 sequences.
        (Problem(8, 8192, 2048, 4), 64, 2, False),
        (Problem(8, 8192, 2048, 2), 64, 2, False),
        (Problem(2, 8192, 2048, 4), 32, 1, False),
        (Problem(1, 8192, 2048, 4), 32, 1, True),
        # An access begins at a multiple of its size.
        (Problem(64, 8192, 2050, 4), 64, 2, False),
        (Problem(64, 8192, 2049, 4), 32, 1, False),
        # Few channels and many steps.
        (Problem(1, 1_000_000, 64, 4), 32, 1, True),
        (Problem(64, 1_000_000, 1, 4), 1, 0, True),
        # Too short to be worth a second pass.
        (Problem(1, 64, 64, 4), 32, 1, False),
    ],
)
def test_examples(problem, channels, vector, split):
    config = choose(problem, Device(132))
    assert (config.channels, config.vector, config.chunk is not None) == (channels, vector, split)


def test_tuned_tiles_take_the_place_of_the_rule(tmp_path, monkeypatch):
    problem = Problem(64, 8192, 2048, 4)
    monkeypatch.setattr(tuning, "TUNED", tmp_path)
    tuning._tuned.cache_clear()
    (tmp_path / "nvidia-h100.json").write_text(
        '{"scan 1x4 bytes, 128 channels": {"steps": 8, "stages": 4, "warps": 2}}'
    )
    assert choose(problem, Device(132, "NVIDIA H100")).tile == Tile(8, 4, 2)
    assert choose(problem, Device(132, "NVIDIA H200")) == choose(problem, Device(132))
    tuning._tuned.cache_clear()


def test_a_tile_on_trial_takes_the_place_of_both():
    problem = Problem(64, 8192, 2048, 4)
    usual = choose(problem)
    with tuning.trying(tuning.key(problem, usual.channels), Tile(4, 2)):
        assert choose(problem).tile == Tile(4, 2)
        assert choose(Problem(64, 8192, 2048, 4, gradient=True)).tile != Tile(4, 2)
    assert choose(problem) == usual


def test_every_tile_is_among_those_that_are_compiled():
    """By `fastscan.bench.ptx`, which looks for spilled registers."""
    compiled = set()
    for name in ptx_cases.DTYPES:
        dtype = jnp.dtype(name)
        planes = 2 if dtype.kind == "c" else 1
        for _, (rows, length, channels), _, _ in ptx_cases._linear_cases(name):
            for gradient in (False, True):
                problem = Problem(
                    rows, length, channels, dtype.itemsize // planes, planes, gradient
                )
                compiled.add(kind(problem))
    assert {kind(problem) for problem in PROBLEMS} <= compiled


def kind(problem):
    config = choose(problem)
    return tuning.key(problem, config.channels), config.vector, config.tile
