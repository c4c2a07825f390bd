"""The rule that cuts the work: what any cut must satisfy, and what some should be."""

import dataclasses
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


def compiled(cases):
    """The problems that `fastscan.bench.ptx` compiles, which looks for spilled registers."""
    for name in ptx_cases.DTYPES:
        dtype = jnp.dtype(name)
        planes = 2 if dtype.kind == "c" else 1
        for _, (rows, length, channels), _, _ in cases(name):
            for gradient in (False, True):
                yield Problem(rows, length, channels, dtype.itemsize // planes, planes, gradient)


def kind(problem):
    config = choose(problem)
    return tuning.key(problem, config.channels), config.vector, config.tile


def test_every_tile_is_among_those_that_are_compiled():
    kinds = {kind(problem) for problem in compiled(ptx_cases._linear_cases)}
    assert {kind(problem) for problem in PROBLEMS} <= kinds


def chains(problems):
    """(config, chain) for those that take one pass where that is asked for."""
    with tuning.one_pass():
        found = {problem: choose(problem) for problem in problems}
    return {p: (config, config.chain) for p, config in found.items() if config.chain is not None}


def test_every_chain_is_one_that_a_kernel_can_run():
    found = chains(PROBLEMS)
    assert set(found) == {problem for problem in PROBLEMS if choose(problem).chunk}
    for problem, (config, chain) in found.items():
        tile = config.tile
        for power in (tile.steps, tile.warps, config.channels, chain.run, chain.group):
            assert power > 0 and power & (power - 1) == 0, (problem, config)
        assert config.chunk == tile.steps and chain.run <= tile.steps
        # Every thread has a lane, and every lane of a run a thread's whole access.
        lanes = tile.steps // chain.run * config.channels
        assert lanes >= 32 * tile.warps, (problem, config)
        assert chain.group // 2 < -(-problem.length // tile.steps), (problem, config)
        # Three numbers a step, and the cotangent's two more, while the state goes one group on.
        bytes_ = (3 + 2 * problem.gradient) * problem.planes * problem.itemsize
        rows = problem.rows * -(-problem.channels // config.channels)
        moved = chain.group * tile.steps * config.channels * rows * bytes_
        assert moved < 2 * tuning._HOP or chain.group == 1, (problem, config)


def test_every_chain_is_among_those_that_are_compiled():
    largest = {}
    for problem, (config, chain) in chains(compiled(ptx_cases._split_cases)).items():
        kind = tuning.chain_key(problem), config.tile, chain.run
        largest[kind] = max(chain.group, largest.get(kind, 0))
    for problem, (config, chain) in chains(PROBLEMS).items():
        kind = tuning.chain_key(problem), config.tile, chain.run
        assert chain.group <= largest[kind], (problem, config)


@pytest.mark.parametrize(
    ("problem", "steps", "channels", "run", "group"),
    [
        # A hop of 8192 steps: 123 in all.
        (Problem(1, 1_000_000, 64, 4), 256, 16, 32, 32),
        (Problem(1, 1_000_000, 64, 4, gradient=True), 256, 16, 32, 32),
        (Problem(1, 1_000_000, 64, 4, planes=2), 256, 8, 16, 32),
        # More chains move more in the same time.
        (Problem(1, 100_000, 1024, 4), 256, 16, 32, 4),
        (Problem(64, 262_144, 1, 4), 2048, 1, 4, 8),
        # A map is of few numbers: all tiles are one group.
        (Problem(1, 1_000_000, 1, 4), 2048, 1, 4, 512),
    ],
)
def test_examples_of_chains(problem, steps, channels, run, group):
    assert choose(problem).chain is None
    config, chain = chains([problem])[problem]
    found = (config.tile.steps, config.channels, chain.run, chain.group)
    assert found == (steps, channels, run, group)


def test_a_tile_for_it_has_split_time_take_one_pass():
    problem = Problem(1, 1_000_000, 64, 4)
    three_phases = choose(problem)
    with tuning.trying(tuning.chain_key(problem), Tile(512, 1, 8)):
        config = choose(problem)
        assert config == dataclasses.replace(
            config, tile=Tile(512, 1, 8), chunk=512, chain=tuning.Chain(run=32, group=32)
        )
        assert choose(Problem(1, 1_000_000, 64, 4, gradient=True)).chain is None
        assert choose(Problem(1, 1_000_000, 64, 4, split=False)).chunk is None
        # In three phases, as without the tile.
        assert choose(Problem(1, 1_000_000, 64, 4, flags=True)) == three_phases
    assert choose(problem) == three_phases
