"""What a cohort of many slides would take: `docs/scale.md` explains each number and formula.

`python benchmarks/scale.py [--gb 1 --tiles 400]` prints the tables of that page, for your slides.
"""

import argparse
from dataclasses import dataclass

DAY_S = 86_400
WORKERS, COHORTS = (2, 16, 64, 256), (10**3, 10**4, 10**5, 10**6)  # workers of one core each
TILE_S, REPORT_S, OVERHEAD_S = 0.035, 0.8, 0.05  # of one core: a tile, a report, the runner
EFFICIENCY = 0.9  # of a worker among others: half the speed-up of two
INTAKE_S, INTAKE_S_PER_GB = 0.3, 2.0
LOOK_S, LIST_S = 0.04, 6e-6  # at a slide that is done; at a row of the worklist
TRANSACTIONS, RENEW_S = 8, 15  # a slide from its file to its report; between renewals of a lease
SQLITE, POSTGRES = 190, 91  # transactions a second
SCHEDULER_S, DRIVER_S = 0.0025, 0.0017  # a slide
FILES, OUTPUT_MB, ROWS_KB, DRIVER_KB = 11, 2.2, 2.9, 2.3  # a slide
PICTURES_MB, LINE_KB = 10.4, 0.14  # of cohort.html: 500 pictures, then a line a slide
READ = 0.5  # share of a file that is decoded: the finest level, where tissue lies


@dataclass(frozen=True)
class Slide:
    """What slides are like."""

    gb: float = 1.0
    tiles: int = 400

    @property
    def seconds(self) -> float:
        """What one core takes for one."""
        return self.tiles * TILE_S + REPORT_S + OVERHEAD_S


def a_day(slide: Slide) -> dict[str, float]:
    """Return the slides a day that each part could do if all others took no time."""
    second = {f"{n} workers": n * EFFICIENCY / slide.seconds for n in WORKERS}
    second["intake, one process"] = 1 / (INTAKE_S + slide.gb * INTAKE_S_PER_GB)
    second |= {f"reading, {rate:,} MB/s": rate / (1000 * READ * slide.gb) for rate in (118, 1180)}
    transactions = TRANSACTIONS + slide.seconds / RENEW_S
    second |= {"SQLite": SQLITE / transactions, "PostgreSQL": POSTGRES / transactions}
    second |= {"Dask's scheduler": 1 / SCHEDULER_S, "driver of the cohort": 1 / DRIVER_S}
    return {part: DAY_S * rate for part, rate in second.items()}


def for_cohort(slide: Slide, n: int) -> dict[str, float]:
    """Return what a cohort of `n` slides takes."""
    rates = a_day(slide)
    days = {f"days, {workers} workers": n / rates[f"{workers} workers"] for workers in WORKERS}
    return days | {
        "days of intake": n / rates["intake, one process"],
        "hours to look again, 16 workers": n * LOOK_S / 16 / 3600,
        "slides, TB": n * slide.gb / 1000,
        "outputs, GB": n * OUTPUT_MB / 1000,
        "files": n * FILES,
        "catalogue, GB": n * ROWS_KB / 1e6,
        "driver, MB": n * DRIVER_KB / 1000,
        "`cohort.html`, MB": min(n / 500, 1) * PICTURES_MB + n * LINE_KB / 1000,
        "worklist, s": n * LIST_S,
    }


def tables(slide: Slide) -> str:
    """Return both tables in Markdown; two figures of each number count."""
    sizes = " | ".join(f"{n:,}" for n in COHORTS)
    cohorts = [for_cohort(slide, n) for n in COHORTS]
    found = {"| part | slides a day |": [a_day(slide)], f"| slides | {sizes} |": cohorts}
    lines = []
    for head, numbers in found.items():
        lines += ["", head, "|---" * (len(numbers) + 1) + "|"]
        for name in numbers[0]:
            said = [f"{float(f'{column[name]:.2g}'):,.9g}" for column in numbers]
            lines.append(f"| {name} | {' | '.join(said)} |")
    return "\n".join(lines[1:])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gb", type=float, default=Slide.gb)
    parser.add_argument("--tiles", type=int, default=Slide.tiles)
    print(tables(Slide(**vars(parser.parse_args()))))
