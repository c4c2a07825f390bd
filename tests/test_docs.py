"""The reference names all that is public. (`make docs` checks the links.)"""

import inspect
import re
from pathlib import Path

import pytest

import fastscan
from fastscan import models
from fastscan.models import convert, language, memory_transformer
from fastscan.train import tasks

REFERENCE = Path(__file__).parents[1] / "docs" / "reference"


@pytest.mark.parametrize(
    ("page", "packages"),
    [
        ("scans", [fastscan]),
        ("models", [models, convert, language, memory_transformer]),
        ("training", [tasks]),
    ],
)
def test_everything_public_is_in_the_reference(page, packages):
    text = (REFERENCE / f"{page}.md").read_text()
    entries = re.findall(r"^::: fastscan\.(?:.*\.)?(\w+)$", text, re.MULTILINE)
    assert len(entries) == len(set(entries))
    for package in packages:
        modules = {name for name in package.__all__ if inspect.ismodule(getattr(package, name))}
        assert set(package.__all__) <= modules | set(entries), package.__name__
