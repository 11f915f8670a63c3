"""The examples for many machines, as far as one machine can tell: they are well-formed and agree.

SLURM is played by scripts that do on this machine what its commands do.
"""

import importlib.util
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import analysed
import dask
import kubernetes_validate
import pytest
import yaml
from distributed.cli import dask_scheduler, dask_worker

from histo_nb.home import Home
from histo_nb.running.cohort.engine import SCHEDULER, SETTINGS

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
MANIFESTS = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text("utf-8")))
SBATCH = DEPLOY / "slurm" / "cohort.sbatch"
DASK = {"worker": dask_worker.main, "scheduler": dask_scheduler.main}
PLAYED = {
    # It keeps a copy: the script is deleted as soon as it has answered.
    "sbatch": 'cp "$1" "$PLAYED/job.$$"\n'
    'setsid bash "$PLAYED/job.$$" </dev/null >>"$PLAYED/log" 2>&1 &\n'
    'echo "Submitted batch job $!"',
    "scancel": 'for job; do kill -- -"$job"; done',
    "srun": 'while [[ $1 == -* ]]; do shift; done\nexec "$@"',
    "scontrol": 'echo "scontrol $*" >>"$PLAYED/log"',
}


def manifest(kind: str, name: str) -> dict[str, Any]:
    (found,) = (m for m in MANIFESTS if (m["kind"], m["metadata"]["name"]) == (kind, name))
    return found


def pods() -> dict[str, dict[str, Any]]:
    """The pods of the manifests by their labels, as what a Deployment or a Job makes."""
    made = [m["spec"]["template"] for m in MANIFESTS if m["kind"] in ("Deployment", "Job")]
    return {pod["metadata"]["labels"]["part"]: pod for pod in made}


def containers() -> list[dict[str, Any]]:
    return [container for pod in pods().values() for container in pod["spec"]["containers"]]


@pytest.mark.parametrize(
    "document", MANIFESTS, ids=lambda m: f"{m['kind']}-{m['metadata']['name']}"
)
def test_a_manifest_is_what_kubernetes_knows(document):
    kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def test_a_manifest_that_is_wrong_is_seen():
    wrong = yaml.safe_load(yaml.safe_dump(manifest("Deployment", "histo-worker")))
    wrong["spec"]["replica"] = 3
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)


def test_all_containers_have_one_image_and_one_environment():
    assert set(pods()) == {"scheduler", "worker", "cohort"}
    assert len({container["image"] for container in containers()}) == 1
    settings = manifest("ConfigMap", "histo-env")["data"]
    assert all(c["envFrom"] == [{"configMapRef": {"name": "histo-env"}}] for c in containers())
    secret = {"secretKeyRef": {"name": "histo-database", "key": "url"}}
    database = {"name": "HISTO_DATABASE_URL", "valueFrom": secret}
    for part in ("worker", "cohort"):
        (container,) = pods()[part]["spec"]["containers"]
        assert container["env"] == [database]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts["home"] == settings["HISTO_HOME"]
        volumes = {volume["name"]: volume for volume in pods()[part]["spec"]["volumes"]}
        claim = volumes["home"]["persistentVolumeClaim"]["claimName"]
        assert manifest("PersistentVolumeClaim", claim)["spec"]["accessModes"] == ["ReadWriteMany"]


def test_the_scheduler_is_found_where_it_listens():
    (container,) = pods()["scheduler"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    service = manifest("Service", "histo-scheduler")
    (port,) = service["spec"]["ports"]
    address = f"tcp://{service['metadata']['name']}:{port['port']}"
    assert manifest("ConfigMap", "histo-env")["data"][SCHEDULER] == address
    assert address in pods()["worker"]["spec"]["containers"][0]["args"]
    assert str(ports[port["targetPort"]]) == option(container["args"], "--port")
    assert service["spec"]["selector"].items() <= pods()["scheduler"]["metadata"]["labels"].items()


def test_a_probe_asks_where_health_is_told():
    for part in ("scheduler", "worker"):
        (container,) = pods()[part]["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        told = option(container["args"], "--dashboard-address")
        probes = [v for name, v in container.items() if name.endswith("Probe")]
        assert probes
        for probe in probes:
            assert f":{ports[probe['httpGet']['port']]}" == told


def test_no_container_may_more_than_it_must():
    for part, pod in pods().items():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"], part
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["automountServiceAccountToken"] is False
        (container,) = spec["containers"]
        inside = container["securityContext"]
        assert inside["allowPrivilegeEscalation"] is False
        assert inside["readOnlyRootFilesystem"]
        assert inside["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}


def test_only_pods_of_the_cohort_reach_dasks_ports():
    policy = manifest("NetworkPolicy", "histo-closed")["spec"]
    (rule,) = policy["ingress"]
    (source,) = rule["from"]
    for pod in pods().values():
        labels = pod["metadata"]["labels"].items()
        assert policy["podSelector"]["matchLabels"].items() <= labels
        assert source["podSelector"]["matchLabels"].items() <= labels
    assert not [m for m in MANIFESTS if m["kind"] == "Service" and "type" in m["spec"]]


def test_a_cohort_that_was_not_finished_goes_on_and_one_with_failures_ends():
    job = manifest("Job", "histo-cohort")["spec"]
    ends = [rule for rule in job["podFailurePolicy"]["rules"] if rule["action"] == "FailJob"]
    assert [rule["onExitCodes"]["values"] for rule in ends] == [[1, 2]]
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # as such a policy demands
    assert job["backoffLimit"] > 10


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def dask_commands() -> list[list[str]]:
    """Every `dask …` of the examples, as words."""
    script = SBATCH.read_text("utf-8").replace("\\\n", " ")
    lines = [line for line in script.splitlines() if "dask " in line and line[0] != "#"]
    found = [shlex.split(line[line.index("dask ") :].rstrip("&")) for line in lines]
    return found + [c["args"] for c in containers() if c["args"][0] == "dask"]


def test_dask_has_every_option_that_is_used():
    assert len(dask_commands()) == 4
    for _, part, *words in dask_commands():
        known = {name for p in DASK[part].params for name in (*p.opts, *p.secondary_opts)}
        assert {word for word in words if word.startswith("--")} <= known
        if part == "worker":
            assert option(words, "--nthreads") == option(words, "--nworkers") == "1"
            assert "--nanny" in words


def test_the_image_is_made_of_what_is_there():
    lines = (DEPLOY / "Dockerfile").read_text("utf-8").splitlines()
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY")]
    assert all((ROOT / name).exists() for names in copied for name in names)
    assert "USER 1000" in lines
    home = manifest("ConfigMap", "histo-env")["data"]["HISTO_HOME"]
    assert f"ENV HISTO_HOME={home}" in lines


@pytest.fixture(scope="module")
def slurm() -> Any:
    """The script of workers as jobs, as a module."""
    spec = importlib.util.spec_from_file_location("slurm_cohort", DEPLOY / "slurm" / "cohort.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_dask_is_set_everywhere_as_the_engine_sets_it(slurm):
    """Above all that no slide is blamed for the death of a worker that others caused."""
    told = manifest("ConfigMap", "histo-env")["data"]
    script = dict(re.findall(r"export (\w+)=(\w+)", SBATCH.read_text("utf-8")))
    wanted = slurm.as_environment(SETTINGS)
    for there in (told, script):
        known = ("DASK_", "TQDM_", "OMP_")
        assert {name: v for name, v in there.items() if name.startswith(known)} == wanted
    with dask.config.set(dask.config.collect_env(wanted)):
        here = {name: v for name, v in SETTINGS.items() if "environ" not in name}
        assert {name: dask.config.get(name) for name in here} == here
        assert dask.config.get("distributed.scheduler.allowed-failures") == 1_000_000
    assert wanted["TQDM_DISABLE"] == "1"


def test_a_job_of_slurm_has_a_worker_a_core_and_ends_before_its_walltime(slurm):
    words = "--cores 4 --memory-gb 2 --hours 6 --queue night --account lab --interface lo"
    asked = slurm.read_options([*words.split(), "--", "/slides", "--report", "none"])
    assert asked.cohort == ["/slides", "--report", "none"]
    with slurm.SLURMCluster(**slurm.cluster_options(asked)) as cluster:
        script = cluster.job_script()
    directives = dict(re.findall(r"#SBATCH (-\S+?)[ =](\S+)", script))
    assert directives["-p"] == "night"
    assert directives["-A"] == "lab"
    assert directives["-t"] == "06:00:00"
    assert directives["--cpus-per-task"] == "4"
    assert directives["--mem"] == "8G"
    (command,) = (line.split() for line in script.splitlines() if "dask_worker" in line)
    assert option(command, "--nworkers") == "4"
    assert option(command, "--nthreads") == "1"
    assert option(command, "--lifetime") == "355m"
    assert "--nanny" in command
    assert [word for word in command if word.startswith("tcp://127.0.0.1:")]
    exported = dict(re.findall(r"export (\w+)=(\w+)", script))
    assert exported == slurm.as_environment(SETTINGS)


def test_tls_is_taken_where_certificates_are_named(slurm):
    asked = slurm.read_options([])
    with slurm.dask.config.set({"distributed.comm.tls.ca-file": "/etc/histo/ca.pem"}):
        assert slurm.cluster_options(asked)["protocol"] == "tls://"
    assert slurm.cluster_options(asked)["protocol"] == "tcp://"


@pytest.fixture
def played(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a log; SLURM's commands are played, and a home has three slides."""
    monkeypatch.setenv("PLAYED", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", str(os.getpid()))
    own = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    monkeypatch.setenv("PATH", own)
    for name, does in PLAYED.items():
        play(tmp_path, name, does)
    (tmp_path / "log").touch()
    analysed.copy_model(home)
    for number, path in enumerate(analysed.slides()):
        copied = shutil.copy(path, home.slides / f"S{number}.svs")
        analysed.add_slide(home, Path(copied), f"S{number}", mask=False)
    return tmp_path


def play(folder: Path, name: str, does: str) -> None:
    (folder / name).write_text(f"#!/bin/bash\n{does}\n")
    (folder / name).chmod(0o755)


def test_workers_as_jobs_do_a_cohort(played, home):
    script = [sys.executable, DEPLOY / "slurm" / "cohort.py", "--jobs", "1", "--cores", "1"]
    asked = ["--interface", "lo", "--", "--home", home.root]
    done = subprocess.run([*script, *asked], capture_output=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert len(home.catalog.results()) == 3
    assert "Start worker" in (played / "log").read_text()


def test_a_job_with_its_own_workers_does_a_cohort(played, home):
    done = subprocess.run(["bash", SBATCH], capture_output=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert len(home.catalog.results()) == 3
    assert "scontrol" not in (played / "log").read_text()


def test_a_job_that_reaches_its_walltime_comes_again(played, home):
    play(played, "srun", "exec sleep 200")  # no worker, so that it waits
    with (played / "err").open("wb") as err:
        job = subprocess.Popen(["bash", SBATCH], stderr=err, stdout=err, start_new_session=True)
        try:
            deadline = time.monotonic() + 100
            while b"cohort:" not in (played / "err").read_bytes() and time.monotonic() < deadline:
                time.sleep(0.2)
            job.send_signal(signal.SIGTERM)
            assert job.wait(60) == 75, (played / "err").read_text()[-2000:]
        finally:
            if job.poll() is None:
                os.killpg(job.pid, signal.SIGKILL)
    assert f"scontrol requeue {os.getpid()}" in (played / "log").read_text()


@pytest.mark.parametrize(("restarts", "again"), [(None, True), ("10", True), ("11", False)])
def test_a_job_that_cannot_go_on_comes_again_after_a_pause_and_not_for_ever(
    played, monkeypatch, restarts, again
):
    play(played, "histo-nb", "exit 75")  # as with a full disk
    play(played, "sleep", 'echo "sleep $*" >>"$PLAYED/log"\nexec /bin/sleep 0.1')
    if restarts:
        monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    done = subprocess.run(["bash", SBATCH], capture_output=True, timeout=100, check=False)
    assert done.returncode == 75
    log = (played / "log").read_text()
    assert (f"sleep 60\nscontrol requeue {os.getpid()}\n" in log) == again
    assert ("scontrol" in log) == again
    assert (b"started again 11 times" in done.stderr) != again


def test_a_cohort_is_begun_once_its_scheduler_answers(played):
    connects = "exec 3<>/dev/tcp/$(sed 's|.*//||; s|:|/|' <<<$HISTO_SCHEDULER)"
    play(played, "histo-nb", connects)
    done = subprocess.run(["bash", SBATCH], capture_output=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]


def test_a_scheduler_that_does_not_start_is_not_waited_for(played):
    play(played, "dask", "exit 3")
    play(played, "histo-nb", "exit 75")
    play(played, "sleep", "exec /bin/sleep 0.1")
    done = subprocess.run(["bash", SBATCH], capture_output=True, timeout=100, check=False)
    assert done.returncode == 75
    assert "scontrol requeue" in (played / "log").read_text()
