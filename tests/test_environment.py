"""conda gives what pip gives: environment.yml and constraints.txt against pyproject.toml."""

import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name as canonical
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
PINS = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
]


def ranges(requirements):
    """The version range of each package; two lines for one package do not pass."""
    parsed = [Requirement(line) for line in requirements]
    assert len({canonical(r.name) for r in parsed}) == len(parsed)
    return {canonical(r.name): r.specifier for r in parsed}


WANTED = ranges(PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"])


def conda_requirements(dependencies):
    """What `conda env create` installs: its own lines, and those of its `pip:` section."""
    (pip_lines,) = (d["pip"] for d in dependencies if isinstance(d, dict))
    for line in pip_lines:
        if line == "-e .[dev]":
            yield from PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]
        elif line != "-c constraints.txt":
            yield line
    for line in dependencies:
        if isinstance(line, str) and line.split("=")[0] not in ("python", "pip", "pango"):
            yield line


def test_conda_installs_what_pip_installs():
    assert ranges(conda_requirements(CONDA)) == WANTED
    assert "-c constraints.txt" in CONDA[-1]["pip"]


def test_conda_has_a_python_we_support():
    (python,) = (d for d in CONDA if isinstance(d, str) and d.startswith("python="))
    assert Version(python.removeprefix("python=")) in SpecifierSet(PROJECT["requires-python"])


def test_everything_is_pinned_once_and_in_its_range():
    pins = ranges(map(str, PINS))
    assert not WANTED.keys() - pins.keys(), "make setup would take any version of these"
    for name, wanted in WANTED.items():
        (pin,) = pins[name]
        assert pin.version in wanted, f"{name}: constraints.txt against pyproject.toml"


def test_every_pin_is_exact_and_from_a_registry():
    wrong = [str(p) for p in PINS if p.url or [s.operator for s in p.specifier] != ["=="]]
    assert not wrong
