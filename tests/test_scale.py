"""The page on scale says what its script computes."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "scale.md").read_text("utf-8")
SCRIPT = ROOT / "benchmarks" / "scale.py"


def tables(*options: str) -> list[str]:
    command = [sys.executable, str(SCRIPT), *options]
    return subprocess.check_output(command, text=True).strip().split("\n\n")


def test_the_tables_are_those_that_the_script_prints():
    shown = re.findall(r"<!-- a .*? -->\n\n(.*?)\n\n<!-- end -->", PAGE, re.DOTALL)
    assert shown == tables(), "run benchmarks/scale.py and put its tables into docs/scale.md"


def test_the_sums_by_pencil_are_right():
    for said, number in [
        ("0.035 · *n* + 0.8 + 0.05 = 14.85", 0.035 * 400 + 0.8 + 0.05),
        ("86,400 · 64 · 0.9 / 14.85 = 335,000", 86_400 * 64 * 0.9 / 14.85),
        ("3.9 · 8 + 64 / 15 = 35", 3.9 * 8 + 64 / 15),
    ]:
        assert said in PAGE
        right = float(said.split("=")[-1].replace(",", ""))
        assert abs(right - number) < 0.02 * number
    assert "| 64 workers | 340,000 |" in PAGE


def test_larger_slides_take_longer():
    day, cohort = tables("--gb", "2", "--tiles", "800")
    assert "| 64 workers | 170,000 |" in day
    assert "| reading, 118 MB/s | 10,000 |" in day
    assert "| slides, TB | 2 | 20 | 200 | 2,000 |" in cohort
