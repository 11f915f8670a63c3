"""A cohort on workers that come and go as SLURM has room: see "Many machines", deploy/README.md.

    python deploy/slurm/cohort.py --jobs 10 --cores 8 -- /data/slides --report none

Run it where jobs are submitted, for as long as the cohort lasts. It starts Dask's scheduler in its
own process, asks SLURM for jobs with workers, and is `histo-nb cohort`, given what is behind `--`.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import Any

import dask
from dask_jobqueue import SLURMCluster

from histo_nb.running.cli import main as histo_nb
from histo_nb.running.cohort.engine import SCHEDULER, SETTINGS

SPARE_MIN = 5  # so long before its walltime a job ends by itself
OF_WORKERS = "distributed.nanny.pre-spawn-environ."  # what Dask sets in the environment of workers


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2, help="SLURM jobs, as many as it starts.")
    parser.add_argument("--cores", type=int, default=8, help="Of a job; one worker each.")
    parser.add_argument("--memory-gb", type=int, default=3, help="Of a worker.")
    parser.add_argument("--hours", type=int, default=8, help="Walltime of a job.")
    parser.add_argument("--queue", help="SLURM's partition.")
    parser.add_argument("--account", help="SLURM's account.")
    parser.add_argument("--interface", help="Network interface that all machines have: ib0 …")
    parser.add_argument("cohort", nargs="*", help="What `histo-nb cohort` is given.")
    return parser.parse_args(arguments)


def as_environment(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return settings of Dask as the environment in which a scheduler or worker is started."""
    return {
        name.removeprefix(OF_WORKERS)
        if name.startswith(OF_WORKERS)
        else f"DASK_{name.replace('.', '__').replace('-', '_').upper()}": str(value)
        for name, value in settings.items()
    }


def cluster_options(asked: argparse.Namespace) -> dict[str, Any]:
    """Return what `SLURMCluster` is made with."""
    encrypted = dask.config.get("distributed.comm.tls.ca-file", None)
    return {
        "queue": asked.queue,
        "account": asked.account,
        "cores": asked.cores,
        "processes": asked.cores,  # one thread a worker
        "memory": f"{asked.cores * asked.memory_gb} GB",
        "walltime": f"{asked.hours:02}:00:00",
        "interface": asked.interface,
        "protocol": "tls://" if encrypted else "tcp://",
        "scheduler_options": {"dashboard_address": "127.0.0.1:0"},
        "job_name": "histo-nb",
        "worker_extra_args": ["--lifetime", f"{60 * asked.hours - SPARE_MIN}m", "--no-dashboard"],
        # HISTO_HOME, HISTO_DATABASE_URL and DASK_… come with the environment, as sbatch does it.
        "job_script_prologue": [f"export {n}={v}" for n, v in as_environment(SETTINGS).items()],
    }


def main() -> None:
    """Do a cohort; ends as `histo-nb cohort` does."""
    asked = read_options()
    dask.config.set(SETTINGS)
    with SLURMCluster(**cluster_options(asked)) as jobs:
        jobs.adapt(minimum_jobs=asked.jobs, maximum_jobs=asked.jobs)  # those that end, come again
        os.environ[SCHEDULER] = jobs.scheduler_address
        histo_nb(["cohort", *asked.cohort], prog_name="histo-nb")


if __name__ == "__main__":
    main()
