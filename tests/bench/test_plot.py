import numpy as np
import pytest

from fastscan.bench import plot


@pytest.fixture
def swept(record, results):
    return results(
        *(
            record(f"{steps}", direction, memory, steps, sweeps=("steps",), fastscan=steps * 1e-6)
            for direction in ("forward", "gradient")
            for memory in ("default", "kept")
            for steps in (64, 256, 1024)
        )
    )


def test_png_from_json(tmp_path, swept):
    path = tmp_path / "linear.json"
    swept.write(path)
    plot.main(path)
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_what_is_drawn(swept):
    axes = plot.draw(swept).axes
    assert len(axes) == 2  # forward and gradient, against steps alone
    for panel in axes:
        assert (panel.get_xscale(), panel.get_yscale()) == ("log", "log")
        assert panel.get_xlabel() == "steps"
        floor, fastscan, *kept = panel.get_lines()
        np.testing.assert_array_equal(fastscan.get_xdata(), [64, 256, 1024])
        np.testing.assert_allclose(np.asarray(fastscan.get_ydata()), [64e-6, 256e-6, 1024e-6])
        assert floor.get_color() == "black" and len(kept) == 2
    # The gradient of the sample moves three times the bytes.
    forward, gradient = (np.asarray(panel.get_lines()[0].get_ydata()) for panel in axes)
    np.testing.assert_allclose(gradient, 3 * forward)


def test_without_a_sweep_there_is_nothing_to_plot(record, results):
    with pytest.raises(ValueError, match="nothing to plot"):
        plot.draw(results(record(), record("p", sweeps=("steps",))))
