"""Which wheels are unpacked for a run on a GPU."""

import sys
import zipfile

from fastscan.bench import unpack

WHEELS = (
    "jax_triton-0.3.1-py3-none-any.whl",
    "jax_triton-0.4.1-py3-none-any.whl",
    "some_scan-1.9.0-py3-none-any.whl",
    "some_scan-1.10.0-py3-none-any.whl",
    "compiled-1.0-cp32-cp32-win_amd64.whl",
)


def test_the_newest_that_works(tmp_path):
    found = unpack.newest(
        [tmp_path / name for name in WHEELS], lambda name, version: version != "0.4.1"
    )
    assert [path.name for path in found] == [WHEELS[0], WHEELS[3]]


def test_jax_triton_is_one_that_works_with_what_is_installed(monkeypatch, tmp_path):
    monkeypatch.setattr(unpack.jax, "__version__", "0.11.2")
    monkeypatch.setattr(unpack.triton, "installed", lambda package: "3.6.0")
    assert unpack.works_here("jax-triton", "0.3.1") and unpack.works_here("other", "1.0")
    assert not unpack.works_here("jax-triton", "0.4.1")

    for name in WHEELS:
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(f"{name.split('-')[0]}/version", name.split("-")[1])
    monkeypatch.setattr(sys, "argv", ["unpack", str(tmp_path), str(tmp_path / "out")])
    unpack.main()
    versions = {p.parent.name: p.read_text() for p in (tmp_path / "out").glob("*/version")}
    assert versions == {"jax_triton": "0.3.1", "some_scan": "1.10.0"}
