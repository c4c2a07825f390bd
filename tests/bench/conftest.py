import pytest

from fastscan.bench.record import Record, Results, Timing


def make_timing(seconds, spread=0.01):
    samples = tuple(seconds * (1 + spread * step) for step in (-2, -1, 0, 1, 2))
    return Timing(compile=0.1, temporary_bytes=0, calls=1, samples=samples)


def make_record(case="one", direction="forward", memory="default", steps=64, sweeps=(), **times):
    times = times or {"fastscan": 1e-3, "lax_scan": 4e-3}
    floor_bytes = 3 * 4 * 2**20
    return Record(
        case=case,
        family="linear",
        source="test",
        description="float32 (1, 2, 3)",
        size={"batch": 4, "steps": steps, "channels": 64},
        sweeps=tuple(sweeps),
        memory=memory,
        direction=direction,
        bytes=floor_bytes * (1 if direction == "forward" else 3),
        floor_bytes=floor_bytes,
        floor=make_timing(5e-4),
        timings={name: make_timing(seconds) for name, seconds in times.items()},
    )


@pytest.fixture
def record():
    """Makes a record; keywords that are no fields are the seconds of an alternative."""
    return make_record


@pytest.fixture
def timing():
    """Makes a timing with a median and a relative spread."""
    return make_timing


@pytest.fixture
def results():
    """Makes results of records."""

    def make(*records, **environment):
        described = {"device": "Some CPU", "cores": 2, "jax": "0.10.2", **environment}
        return Results(described, records)

    return make
