"""Runs of notebooks: what reaches the kernel, what is left behind, and how each death is told."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import papermill
import psutil
import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result
from counts import count

from histo_nb.errors import (
    BundleError,
    CatalogError,
    DiskFullError,
    NotebookError,
    RunError,
    SpecError,
    StorageError,
)
from histo_nb.files import hash_file
from histo_nb.home import Home, open_home
from histo_nb.running import notebook_kernel
from histo_nb.running.cli import main
from histo_nb.running.notebook import (
    check_parameters,
    find_notebook,
    has_errors,
    plan_run,
    run_notebook,
)
from histo_nb.running.notebook_exit import Exit, count_oom_kills, death_fault
from histo_nb.schema import RUNS

PATIENCE_S = 60  # until a test gives up waiting; nothing is measured


def write(folder: Path, *cells: str, parameters: str = "", name: str = "work") -> Path:
    """A notebook of code cells, the first one tagged `parameters` if there are any."""
    content = nbformat.v4.new_notebook()
    if parameters:
        first = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
        content.cells.append(first)
    content.cells.append(nbformat.v4.new_markdown_cell("# A title"))
    content.cells += [nbformat.v4.new_code_cell(cell) for cell in cells]
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / f"{name}.ipynb"
    nbformat.write(content, path)
    return path


def facts_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


def left(home: Home) -> list[str]:
    """What lies in `runs` and in the staging folder."""
    inside = [*home.runs.iterdir(), *home.staging.iterdir()]
    return [path.name for path in inside if path.name != ".sweeping"]


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def wait_for(found: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (value := found()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return value


@contextmanager
def runner(home: Home, notebook: Path, *options: str) -> Iterator[subprocess.Popen]:
    """A process `histo-nb run`; it and its kernel are gone afterwards."""
    command = [sys.executable, "-m", "histo_nb.running.cli", "run", str(notebook)]
    process = subprocess.Popen(
        [*command, "--home", str(home.root), "--json", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore", "TQDM_DISABLE": ""},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def kernel_pid(home: Home) -> int:
    """The process of the kernel that ran TELL."""
    said = home.root / "pid"
    return int(wait_for(lambda: said.is_file() and said.read_text()))


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


TELL = (
    "import os, time\nfrom pathlib import Path\nhome = Path(os.environ['HISTO_HOME'])\n"
    "(home / 'pid.new').write_text(str(os.getpid())); (home / 'pid.new').rename(home / 'pid')"
)
FOREVER = "while True: pass"
WAIT = "while not (home / 'go').exists(): time.sleep(0.05)"


# -- parameters -----------------------------------------------------------------------------------

DECLARED = """\
from typing import List, Optional
text: str = "a # b = c"  # a text
whole: int = 1
share: float = 0.5
really: bool = False
limit: Optional[float] = None
other: float | None = 0.25
names: list[str] = ["x"]
sizes: List[float] = []
nested: list[list[int]] = []
computed: int = 2 * 3
untyped = 5
somewhere: Path = "x"
train_seed: int = 42
"""


@pytest.fixture
def declared(tmp_path: Path) -> Path:
    return write(tmp_path, parameters=DECLARED)


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("text", "007", "007"),
        ("text", "2026_01", "2026_01"),
        ("text", "true", "true"),
        ("text", "None", "None"),
        ("text", "", ""),
        ("text", '"; import os; os.abort() #', '"; import os; os.abort() #'),
        ("whole", "-7", -7),
        ("whole", 7.0, 7),
        ("whole", "12345678901234567890123", 12345678901234567890123),
        ("share", "1e-3", 0.001),
        ("share", 2**53, 2.0**53),
        ("really", 1, True),
        ("limit", "None", None),
        ("other", "0.5", 0.5),
        ("other", "", None),
        ("names", '["007", "true", "2026_01"]', ["007", "true", "2026_01"]),
        ("sizes", "[1, 2.5]", [1.0, 2.5]),
        ("nested", "[[1], []]", [[1], []]),
        ("computed", "8", 8),
    ],
)
def test_a_value_of_the_declared_type_is_taken(declared, name, given, value):
    found = check_parameters(declared, {name: given})[name]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("whole", "2026_01"),
        ("whole", "٣"),
        ("whole", "0x10"),
        ("whole", "1" * 5000),
        ("share", "1_0"),
        ("share", "nan"),
        ("share", "inf"),
        ("share", "1e400"),
        ("share", float("nan")),
        ("share", 2**53 + 1),
        ("share", "9007199254740993"),
        ("share", False),
        ("share", [1.0]),
        ("really", "2"),
        ("text", b"a"),
        ("text", "\udcff"),
        ("text", None),
        ("limit", "nan"),
        ("names", "[1]"),
        ("names", '"x"'),
        ("names", ("x",)),
        ("sizes", "[NaN]"),
        ("sizes", "[" * 100_000),
        ("untyped", 5),
        ("somewhere", "/tmp"),
        ("List", "x"),
        ("__builtins__", "x"),
        ("whole = 1; import os; os.abort(); x", 1),
        ("whole\nimport os", 1),
    ],
)
def test_anything_else_is_refused_before_anything_starts(home, declared, name, given, monkeypatch):
    monkeypatch.setattr(papermill, "execute_notebook", pytest.fail)
    with pytest.raises(NotebookError, match=re.escape(name.partition("\n")[0])) as refused:
        run_notebook(declared, home, parameters={"train_seed": 1, name: given})
    assert refused.value.exit_code == Exit.FAILED
    assert left(home) == []


@pytest.mark.parametrize("cell", ["%matplotlib inline\nx: int = 1", "x: int = (", ""])
def test_parameters_of_a_cell_that_declares_none_are_refused(home, tmp_path, cell):
    notebook = write(tmp_path, "1", parameters=cell)
    with pytest.raises(NotebookError, match=r"no plain Python|has no parameter 'x'"):
        plan_run(notebook, home, parameters={"x": 1})
    assert plan_run(notebook, home).values == {}


def test_all_values_and_their_types_are_on_record(home, declared):
    facts = plan_run(declared, home, parameters={"whole": "3"}).facts
    assert facts["parameters"] == {"whole": 3}
    assert facts["declared"]["whole"] == {"type": "int", "value": 3}
    assert facts["declared"]["text"] == {"type": "str", "value": "a # b = c"}
    assert facts["declared"]["other"] == {"type": "float | None", "value": 0.25}
    assert facts["declared"]["computed"] == {"type": "int", "value": "2 * 3"}
    assert facts["seeds"] == {"train_seed": 42}


def test_our_notebooks_declare_what_papermill_sees(home):
    for name in ("01_scanning", "03_tiling", "05_training"):
        ours = plan_run(find_notebook(name), home).declared
        theirs = papermill.inspect_notebook(str(find_notebook(name)))
        assert list(ours) == list(theirs)


# -- what a run leaves ----------------------------------------------------------------------------


def test_a_run_is_a_copy_a_page_and_its_facts(home, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("a,b")
    secret = "print('sh' + 'own'); made_here = 1"
    leak = (
        "from IPython.display import HTML, Javascript, display\n"
        "display(HTML('<b>bold</b>'), Javascript('alert(1)'))"
    )
    notebook = write(tmp_path, secret, leak, parameters="path: str = ''\nseed: int = 3\nn: int = 1")
    run = run_notebook(notebook, home, parameters={"path": "table.csv"})
    assert left(home) == [run.run_id]
    files = ["ro-crate-metadata.json", "run.json", "work.html", "work.ipynb"]
    assert sorted(p.name for p in run.folder.iterdir()) == files
    facts = facts_of(run.folder)
    assert facts["run_id"] == run.run_id
    assert (facts["status"], facts["fault"]) == ("done", None)
    assert facts["notebook_sha256"] == hash_file(notebook)
    assert facts["inputs"]["files"] == {"path": {"table.csv": hash_file(table)}}
    assert facts["inputs"]["model"] is None
    assert facts["seeds"] == {"seed": 3}
    assert facts["started_at"] <= facts["ended_at"]
    assert {"version", "commit", "dirty"} <= set(facts["code"])
    assert {"python", "platform", "numpy", "histo-nb"} <= set(facts["packages"])
    page = run.page.read_text()
    assert "Research use only" in page
    assert all(text in page for text in ("shown", "A title", "<b>bold</b>", "table.csv"))
    assert not any(text in page for text in ("made_here", "<script", "alert(1)", "<link"))
    assert "default-src &#39;none&#39;" in page
    with home.catalog.reading() as connection:
        (row,) = connection.execute(sa.select(RUNS)).mappings()
    assert (row["run_id"], row["status"]) == (run.run_id, "done")


def test_a_page_asks_for_nothing(home, tmp_path, browser):
    with socket.create_server(("127.0.0.1", 0)) as outside:
        outside.setblocking(False)
        address = f"http://127.0.0.1:{outside.getsockname()[1]}"
        loud = (
            "from IPython.display import HTML\n"
            f'HTML(\'<img src="{address}/x.png"><iframe src="{address}"></iframe>'
            f'<link rel="stylesheet" href="{address}/x.css">'
            '<script>document.title="ran"</script>\')'
        )
        run = run_notebook(write(tmp_path, loud), home)
        page = browser.new_page()
        page.goto(run.page.as_uri(), wait_until="networkidle")
        assert page.title() == run.run_id
        assert page.get_by_text("Research use only").is_visible()
        page.close()
        with pytest.raises(BlockingIOError):  # nobody came
            outside.accept()


def test_a_failed_run_is_kept_and_its_page_shows_no_code(home, tmp_path):
    notebook = write(tmp_path, "private_name = 0\n1 / private_name")
    with pytest.raises(RunError, match=r"cell 2: ZeroDivisionError.*\.failed/work") as failed:
        run_notebook(notebook, home)
    assert failed.value.exit_code == Exit.FAILED
    (name,) = left(home)
    assert name == f"{failed.value.facts['run_id']}.failed"
    facts = facts_of(home.runs / name)
    assert (facts["status"], facts["fault"]) == (
        "failed",
        "cell 2: ZeroDivisionError: division by zero",
    )
    page = (home.runs / name / "work.html").read_text()
    assert "ZeroDivisionError" in page
    assert "private_name" not in page


def test_a_page_that_cannot_be_made_loses_no_run(home, tmp_path, monkeypatch):
    def refuse() -> None:
        raise ValueError("no <pages> today")

    monkeypatch.setattr("histo_nb.running.notebook_page._exporter", refuse)
    run = run_notebook(write(tmp_path, "1"), home)
    assert "cannot be shown as a page (no &lt;pages&gt; today)" in run.page.read_text()


def test_an_executed_copy_runs_with_its_defaults_again(home, tmp_path):
    notebook = write(tmp_path, "print('n is', n)", parameters="n: int = 1")
    first = run_notebook(notebook, home, parameters={"n": 5})
    assert "n is 5" in first.page.read_text()
    again = run_notebook(first.notebook, home)
    assert "n is 1" in again.page.read_text()
    assert facts_of(again.folder)["declared"] == {"n": {"type": "int", "value": 1}}


def test_the_kernel_has_its_home_and_folder_and_this_process_keeps_its_own(
    home, tmp_path, monkeypatch
):
    monkeypatch.setenv("HISTO_HOME", "elsewhere")
    before = Path.cwd()
    code = "import os; open(os.environ['HISTO_HOME'] + '/cwd', 'w').write(os.getcwd())"
    run_notebook(write(tmp_path / "{odd} name", code, name="{0} {a}"), home)
    assert (home.root / "cwd").read_text() == str(tmp_path / "{odd} name")
    assert os.environ["HISTO_HOME"] == "elsewhere"
    assert Path.cwd() == before


def test_slides_are_on_record(home, tmp_path):
    row = {"slide_path": "/a", "n_bytes": 1, "width": 9, "height": 9, "n_levels": 1,
           "slide_mpp": 0.5, "mpp_source": "file", "source": "file"}  # fmt: skip
    notebook = write(tmp_path, "1", parameters="slide_ids: list[str] = []")
    assert plan_run(notebook, home).inputs["slides"] == {}
    for name in ("S-1", "S-2"):
        home.catalog.add_slide(row | {"slide_id": name, "sha256": name * 2})
    assert plan_run(notebook, home).inputs["slides"] == {"S-1": "S-1S-1", "S-2": "S-2S-2"}
    one = plan_run(notebook, home, parameters={"slide_ids": '["S-2"]'})
    assert one.inputs["slides"] == {"S-2": "S-2S-2"}
    with pytest.raises(CatalogError, match="S-9"):
        run_notebook(notebook, home, parameters={"slide_ids": ["S-9"]})
    assert left(home) == []


# -- kernels that are lost ------------------------------------------------------------------------

ENDS = {
    "killed": ("import os; os.kill(os.getpid(), 9)", 137, r"killed \(signal 9\), most often"),
    "crashed": ("import signal; signal.raise_signal(signal.SIGSEGV)", 139, "crashed (SIGSEGV)"),
    "ended": ("import os; os._exit(3)", 1, "ended by itself (exit code 3)"),
    "memory": (
        "import resource\n_, most = resource.getrlimit(resource.RLIMIT_AS)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (4 << 30, most))\nx = bytearray(64 << 30)",
        137,
        "out of memory, cell 3: MemoryError",
    ),
    "array": (
        "import numpy\nnumpy.ones(1 << 50)",
        137,
        "out of memory, cell 3: MemoryError: Unable to allocate",
    ),
    "full": (
        "import errno; raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))",
        75,
        "No space",
    ),
    "exit": ("raise SystemExit(4)", 1, "SystemExit: 4"),
}


@pytest.mark.parametrize("end", ENDS)
def test_each_death_is_told_apart(home, tmp_path, end):
    code, exit_code, said = ENDS[end]
    said = said if "\\" in said else re.escape(said)
    with pytest.raises(RunError, match=said) as failed:
        run_notebook(write(tmp_path, TELL, code), home)
    assert failed.value.exit_code == exit_code
    (name,) = left(home)
    facts = facts_of(home.runs / name)
    assert facts["status"] == "failed"
    assert re.search(said, facts["fault"])
    statuses = [cell.metadata.papermill.status for cell in _code(home.runs / name / "work.ipynb")]
    assert statuses == ["completed", "failed"]
    assert is_gone(kernel_pid(home))


def _code(notebook: Path) -> list[nbformat.NotebookNode]:
    cells = nbformat.read(notebook, as_version=4).cells
    return [cell for cell in cells if cell.cell_type == "code"]


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"timeout_s": 1.5}, "cell 3 took longer than 1.5 s"),
        ({"total_timeout_s": 4}, "it took longer than 4 s, the time was up in cell 3"),
        ({"timeout_s": 1, "total_timeout_s": 500}, "cell 3 took longer than 1 s"),
    ],
)
def test_time_outs_are_told_apart(home, tmp_path, limits, said):
    with pytest.raises(RunError, match=re.escape(said)) as failed:
        run_notebook(write(tmp_path, TELL, FOREVER), home, **limits)
    assert failed.value.exit_code == Exit.TIMED_OUT
    assert is_gone(kernel_pid(home))


def test_a_notebooks_own_processes_end_with_it(home, tmp_path):
    start = "import subprocess; child = subprocess.Popen(['sleep', '9999'])"
    tell = "(home / 'pid').write_text(str(child.pid))"
    run_notebook(write(tmp_path, TELL, start, tell), home)
    wait_for(lambda: is_gone(kernel_pid(home)))


def test_limits_must_be_above_zero(home, tmp_path):
    for limit in ("timeout_s", "total_timeout_s"):
        with pytest.raises(SpecError, match=f"{limit}=0"):
            run_notebook(write(tmp_path, "1"), home, **{limit: 0})
    assert left(home) == []


def test_a_killed_kernel_ran_out_of_memory_if_the_system_says_so(home, tmp_path, monkeypatch):
    counts = iter([4, 5])
    monkeypatch.setattr(notebook_kernel, "count_oom_kills", lambda: next(counts))
    code = "import os; os.kill(os.getpid(), 9)"
    with pytest.raises(RunError, match="cell 2: out of memory: the system killed") as failed:
        run_notebook(write(tmp_path, code), home)
    assert failed.value.exit_code == Exit.KILLED


def test_only_a_kill_is_lack_of_memory():
    assert "out of memory" in str(death_fault(-9, oom_killed=True))
    assert "crashed (SIGSEGV)" in str(death_fault(-11, oom_killed=True))
    assert death_fault(-6, oom_killed=False).exit_code == 134
    assert "signal 40" in str(death_fault(-40, oom_killed=False))
    assert death_fault(None, oom_killed=False).exit_code == Exit.FAILED


@pytest.mark.parametrize("place", ["group/one", ""])
@pytest.mark.parametrize(
    ("line", "file"),
    [
        ("0::/group/one", "./{}/memory.events"),
        ("4:memory:/group/one", "memory/{}/memory.oom_control"),
    ],
)
def test_the_system_is_asked_how_often_it_killed(tmp_path, line, file, place):
    own, counts = tmp_path / "own", tmp_path / file.format(place)
    own.write_text(f"9:pids:/x\n{line}\n")
    assert count_oom_kills(tmp_path, own) is None
    counts.parent.mkdir(parents=True, exist_ok=True)
    counts.write_text("low 0\noom 3\noom_kill 2\n")
    assert count_oom_kills(tmp_path, own) == 2
    counts.write_text("no such thing")
    assert count_oom_kills(tmp_path, own) is None
    assert count_oom_kills(tmp_path, tmp_path / "missing") is None


# -- runners that are lost ------------------------------------------------------------------------


@pytest.mark.parametrize("cell", [FOREVER, "time.sleep(9999)"])
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, Exit.INTERRUPTED), (signal.SIGTERM, Exit.TERMINATED)]
)
def test_a_stopped_runner_stops_its_kernel_and_leaves_nothing(home, tmp_path, number, status, cell):
    with runner(home, write(tmp_path, TELL, cell)) as process:
        pid = kernel_pid(home)
        process.send_signal(number)
        said, told = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == status, told
    assert "Traceback" not in told
    assert said == ""
    assert is_gone(pid)
    assert left(home) == []


def test_after_a_killed_runner_nothing_half_is_a_run_and_the_next_sweeps(home, tmp_path):
    for _ in range(count(quick=2, full=25)):
        (home.root / "pid").unlink(missing_ok=True)
        with runner(home, write(tmp_path, TELL, "time.sleep(9999)")) as process:
            pid = kernel_pid(home)
            process.kill()
            process.wait()
            wait_for(lambda pid=pid: is_gone(pid))
        assert list(home.runs.iterdir()) == []
    assert left(home) != []
    done = run_notebook(write(tmp_path, "1", name="next"), home)
    assert left(home) == [done.run_id]


def test_a_run_that_is_alive_is_not_swept(home, tmp_path):
    with runner(home, write(tmp_path, TELL, WAIT)) as process:
        kernel_pid(home)
        other = run_notebook(write(tmp_path, "1", name="other"), home)
        (home.root / "go").touch()
        said, told = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == Exit.DONE, told
    assert sorted(left(home)) == sorted([other.run_id, json.loads(said)["run_id"]])
    assert not has_errors(Path(json.loads(said)["notebook"]))


def test_runs_at_once_do_not_disturb_each_other(home, tmp_path):
    code = "import time; time.sleep(0.3); print('n is', n, 'home', n)"
    notebook = write(tmp_path, code, parameters="n: int = 0")
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda n: run_notebook(notebook, home, parameters={"n": n}), range(8)))
    for n, run in enumerate(runs):
        assert f"n is {n} home {n}" in run.page.read_text()
    assert sorted(left(home)) == sorted(run.run_id for run in runs)


def test_processes_at_once_do_not_disturb_each_other(home, tmp_path):
    notebook = write(tmp_path, "print('n is', n)", parameters="n: int = 0")

    def go(n: int) -> tuple[int, str, str]:
        with runner(home, notebook, "-p", "n", str(n)) as process:
            said, told = process.communicate(timeout=PATIENCE_S)
        return process.returncode, said, told

    with ThreadPoolExecutor(8) as pool:
        ended = list(pool.map(go, range(count(quick=4, full=40))))
    for n, (status, said, told) in enumerate(ended):
        assert status == 0, told
        (line,) = said.splitlines()
        assert f"n is {n}" in Path(json.loads(line)["page"]).read_text()


# -- the command ----------------------------------------------------------------------------------


def test_a_dry_run_checks_all_and_writes_nothing(home, tmp_path, monkeypatch):
    monkeypatch.setattr(papermill, "execute_notebook", pytest.fail)
    notebook = write(tmp_path, "1", parameters="n: int = 1\nslide_ids: list[str] = []")
    home.catalog.slides_since("")
    before = sorted(home.root.rglob("*"))
    result = call("run", notebook, "--dry-run", "--json", "-p", "n", "7")
    assert result.exit_code == 0, result.output
    (line,) = result.stdout.splitlines()
    said = json.loads(line)
    assert said["declared"]["n"] == {"type": "int", "value": 7}
    assert said["would_run"] == str(notebook)
    assert call("run", notebook, "--dry-run", "-p", "n", "x").exit_code == Exit.FAILED
    assert call("run", notebook, "--dry-run", "-p", "slide_ids", '["S-1"]').exit_code == Exit.FAILED
    result = call("run", "06_inference", "--dry-run", "--json")
    assert (result.exit_code, json.loads(result.stdout)["kind"]) == (1, "BundleError")
    assert sorted(home.root.rglob("*")) == before


def test_a_notebook_that_analyses_needs_a_model_unless_it_makes_one(home, tmp_path):
    analyse = "analyse_slides(home, [])"
    with pytest.raises(BundleError, match="no model is in production"):
        run_notebook(write(tmp_path, analyse), home)
    assert left(home) == []
    assert plan_run(write(tmp_path, "promote(home, made)", analyse), home).inputs["model"] is None
    assert plan_run(write(tmp_path, "1"), home).inputs["model"] is None


def test_what_child_processes_print_is_no_answer(home, tmp_path):
    loud = "import os, subprocess; subprocess.run(['echo', 'loud']); os.write(1, b'louder')"
    with runner(home, write(tmp_path, loud)) as process:
        said, told = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, told
    assert set(json.loads(said)) == {"run_id", "notebook", "page", "seconds"}
    assert "cell" in told  # papermill's bar


def test_a_parameter_given_twice_is_a_wrong_call(home, declared):
    result = call("run", declared, "-p", "whole", "1", "-p", "whole", "2")
    assert result.exit_code == Exit.MISUSED
    assert "twice" in result.stderr


def test_the_help_tells_every_exit_code(home):
    told = call("run", "--help").stdout
    for code in Exit:
        assert re.search(rf"(?<!\d){code.value} ", told), code
    assert DiskFullError("x").exit_code == Exit.DISK_FULL
    assert RunError("x").exit_code == StorageError("no permission").exit_code == Exit.FAILED


def test_exit_codes_reach_the_scheduler(home, tmp_path):
    result = call("run", write(tmp_path, "import os; os.kill(os.getpid(), 9)"), "--json")
    assert result.exit_code == Exit.KILLED
    said = json.loads(result.stdout)
    assert said["kind"] == "RunError"
    assert Path(said["notebook"]).is_file()
    slow = write(tmp_path, FOREVER)
    assert call("run", slow, "--timeout", "1").exit_code == Exit.TIMED_OUT
    assert call("run", slow, "--total-timeout", "3").exit_code == Exit.TIMED_OUT


# -- full disks -----------------------------------------------------------------------------------


@pytest.fixture
def small_home(tmp_path: Path) -> Iterator[Home]:
    """A home on a disk of 6 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        home = open_home(disk / "home", own_catalog=True)
        home.catalog.slides_since("")
        yield home
        home.catalog.engine.dispose()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


STAGES = {
    "the executed copy": ("print('x' * 7_000_000)", "1"),
    "the next cells": ("print('x' * 2_500_000)", "print('y' * 4_000_000)"),
    "the page": ("print('x' * 4_000_000)", "1"),
    "a cell": ("open(os.environ['HISTO_HOME'] + '/large', 'wb').write(bytes(9_000_000))", "1"),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_leaves_nothing_half_and_space_makes_it_go_on(small_home, tmp_path, stage):
    notebook = write(tmp_path, "import os", *STAGES[stage])
    result = call("run", notebook, "--json", "--home", small_home.root)
    assert result.exit_code == Exit.DISK_FULL, result.output
    said = json.loads(result.stdout)
    assert said["kind"] in ("DiskFullError", "RunError")
    assert "Traceback" not in result.stderr
    for name in left(small_home):  # a run that is whole: a cell met the full disk
        assert name.endswith(".failed")
        assert facts_of(small_home.runs / name)["status"] == "failed"
    (small_home.root / "large").unlink(missing_ok=True)
    run = run_notebook(write(tmp_path, "1"), small_home)
    assert run.page.is_file()


def test_a_disk_that_is_full_already_is_named(small_home, tmp_path):
    large = small_home.root / "large"
    with pytest.raises(OSError, match="No space"):
        large.write_bytes(bytes(9_000_000))
    with pytest.raises(StorageError, match="free some space") as refused:
        run_notebook(write(tmp_path, "1"), small_home)
    assert refused.value.exit_code == Exit.DISK_FULL
    assert left(small_home) == []
    large.unlink()
    assert run_notebook(write(tmp_path, "1"), small_home).page.is_file()


def test_no_threads_are_left(home, tmp_path):
    run_notebook(write(tmp_path, "1"), home)
    before = threading.active_count()
    handles = psutil.Process().num_fds()
    for _ in range(3):
        run_notebook(write(tmp_path, "1"), home)
    assert threading.active_count() == before
    assert psutil.Process().num_fds() <= handles + 3
