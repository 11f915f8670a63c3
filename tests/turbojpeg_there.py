"""Whether slides can be converted to DICOM here."""

import pytest

try:
    from opentile.jpeg.jpeg import find_turbojpeg_path

    find_turbojpeg_path()
    IS_THERE = True
except (ImportError, FileNotFoundError, RuntimeError, OSError):
    IS_THERE = False

needs_turbojpeg = pytest.mark.skipif(
    not IS_THERE, reason="libturbojpeg is missing: install libturbojpeg0"
)
