"""The page on scale says what its script computes."""

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "scale.md").read_text("utf-8")


def load():
    spec = importlib.util.spec_from_file_location("scale", ROOT / "benchmarks" / "scale.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_is_what_the_script_prints():
    (shown,) = re.findall(r"<!-- benchmarks/scale.py -->\n(.*?)\n<!-- end -->", PAGE, re.DOTALL)
    assert shown == load().table(), "run benchmarks/scale.py and put its table into docs/scale.md"


def test_the_sums_by_pencil_are_those_of_the_script():
    plan = load().Plan(10_000)
    assert "10,000 × 27.05 s = 270,500 core seconds" in PAGE
    assert round(plan.workers * 86_400) == 270_500
    assert f"is {plan.workers:.1f} workers" in PAGE
    assert f"is {plan.disk_gb_s:.2f} GB/s" in PAGE
    assert f"in all {plan.commits_s:.1f}" in PAGE
