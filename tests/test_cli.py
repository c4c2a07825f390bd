"""The command line: its report, its help, and what it says when something is wrong."""

import subprocess
import sys

import jax
import pytest

import fastscan
from fastscan.cli import EXTRAS, main


def run(*args, without=()):
    """Run the command in a process of its own, as if some packages were not installed."""
    code = (
        f"import sys\nfor name in {without!r}: sys.modules[name] = None\n"
        f"from fastscan.cli import main\nmain({list(args)!r})"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_doctor(capsys):
    main(["doctor"])
    report = capsys.readouterr().out
    for row in fastscan.implementations().values():
        assert str(row) in report
    assert f"jax {jax.__version__}" in report
    assert f"python {sys.version_info.major}.{sys.version_info.minor}" in report


def test_doctor_works_without_the_extras_and_names_the_cure():
    done = run("doctor", without=tuple(m for modules in EXTRAS.values() for m in modules))
    assert done.returncode == 0, done.stderr
    for extra in EXTRAS:
        assert f"pip install 'fastscan[{extra}]'" in done.stdout


def test_train_without_its_extra_is_one_line(tmp_path):
    done = run("train", "--directory", str(tmp_path), without=("optax",))
    assert done.returncode == 1
    assert done.stderr == "fastscan: train needs optax: pip install 'fastscan[train]'\n"


def test_a_user_error_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--resume", "--directory", str(tmp_path)])
    assert str(stop.value).startswith("fastscan: there is no run of digits-lru")
    assert "\n" not in str(stop.value)


@pytest.mark.parametrize(
    "args", [["train", "--task", "nothing"], ["train", "--steps", "many"], ["nothing"], []]
)
def test_wrong_arguments_exit_with_2(args, capsys):
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "baselines", "bench", "doctor"])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"usage: fastscan {command}" in capsys.readouterr().out


def test_help_shows_every_field_with_its_default(capsys):
    import dataclasses

    from fastscan.train import Train

    with pytest.raises(SystemExit):
        main(["train", "--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())

    def fields(config, prefix=""):
        for f in dataclasses.fields(config):
            value = getattr(config, f.name)
            if dataclasses.is_dataclass(value):
                yield from fields(value, f"{prefix}{f.name}.")
            else:
                yield f"--{prefix}{f.name}".replace("_", "-"), value

    found = list(fields(Train()))
    assert len(found) > 20
    for option, default in found:
        text = shown[shown.index(option) :]
        assert f"(default: {'' if default == () else default})" in text, option
