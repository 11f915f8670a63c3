"""Cohorts on real small slides, with real workers: what is done, what is said, what is kept."""

import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import analysed
import dask
import pandas as pd
import pytest
from distributed import Client, LocalCluster

from histo_nb.errors import BundleError, CatalogError, SpecError
from histo_nb.home import Home
from histo_nb.inference.result import hash_result, read_provenance, read_result
from histo_nb.masking.masks import keep_mask, mask_path, read_mask, read_spec
from histo_nb.model.seal import write_gate
from histo_nb.running.cohort import jobs, runner
from histo_nb.running.cohort.engine import SCHEDULER, EngineLostError
from histo_nb.running.cohort.runner import COLUMNS, Cohort, CohortSpec
from histo_nb.running.cohort.stages import Bench, SlideStages
from histo_nb.schema import RESULTS, WORK

TWO = CohortSpec(n_workers=2)
MURDEROUS = Path(__file__).parents[1] / "murderous.py"  # what some slides do to their workers


@pytest.fixture
def ward(home: Home) -> Home:
    """A home with a model and three slides of its own, without masks."""
    analysed.copy_model(home)
    for number, path in enumerate(analysed.slides()):
        own = shutil.copy(path, home.slides / f"S{number}.svs")
        analysed.add_slide(home, Path(own), f"S{number}", mask=False)
    return home


@pytest.fixture(scope="module")
def workers() -> Any:
    """Two workers that all tests of this file use: starting them takes seconds."""
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
        ) as cluster,
        Client(cluster, set_as_default=False),
    ):
        yield cluster.scheduler_address


@pytest.fixture
def cohort(ward: Home, workers: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv(SCHEDULER, workers)
    with Cohort(ward) as cohort:
        yield cohort


def states(home: Home) -> dict[tuple[str, str], str]:
    with home.catalog.reading() as connection:
        return {(r.slide_id, r.stage): r.state for r in connection.execute(WORK.select())}


def contents(home: Home) -> dict[str, str]:
    return {path.parent.parent.name: hash_result(path.parent)
            for path in home.results.rglob("result.json")}  # fmt: skip


def n_analysed(home: Home) -> int:
    return len(home.catalog.events(what="slide analysed"))


def test_every_slide_is_a_row_with_what_became_of_it(ward: Home, cohort: Cohort) -> None:
    table = cohort.run(["S2", "S0", "S1", "S0"])
    assert table.slide_id.tolist() == ["S2", "S0", "S1"], "in the order named, each once"
    assert list(table.columns) == COLUMNS
    assert set(table.state) == {"done"}
    assert (table[[name for name in COLUMNS if name.startswith("seconds_")]] > 0).all().all()
    assert table.n_tiles.min() > 0
    for row in table.to_dict("records"):
        assert Path(row["report_path"]).read_text().count(row["slide_id"]) > 0
        assert Path(row["overview_path"]).stat().st_size > 1000
        filed = ward.catalog.result(row["slide_id"], cohort.card.model_id)
        assert filed["content_sha256"] == hash_result(Path(row["result_path"]))
    assert set(states(ward).values()) == {"done"}
    assert len(states(ward)) == 12


def test_done_work_is_looked_at_and_not_done_again(ward: Home, cohort: Cohort) -> None:
    first = cohort.run(["S0", "S1"])
    before = contents(ward)
    again = cohort.run(["S0", "S1"])
    pd.testing.assert_frame_equal(first, again)
    assert n_analysed(ward) == 2
    assert contents(ward) == before


@pytest.mark.parametrize("loss", ["mask", "tiles", "result", "predictions", "report", "row"])
def test_what_is_lost_or_changed_is_made_again(ward: Home, cohort: Cohort, loss: str) -> None:
    cohort.run(["S0"])
    before, model = contents(ward), cohort.card.model_id
    result = ward.results / "S0" / model
    if loss == "mask":
        (ward.masks / "S0.png").unlink()
    elif loss == "tiles":
        (ward.tiles / "slides" / "S0.parquet").write_bytes(b"")
    elif loss == "result":
        shutil.rmtree(result)
    elif loss == "predictions":
        path = result / "predictions.parquet"
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    elif loss == "report":
        (ward.results / "S0" / f"{model}.report" / "report.html").unlink()
    else:
        with ward.catalog.writing("") as connection:
            connection.execute(RESULTS.delete())
    assert cohort.run(["S0"]).state.tolist() == ["done"]
    assert contents(ward) == before
    assert ward.catalog.result("S0", model)["content_sha256"] == before["S0"]
    assert (ward.masks / "S0.png").is_file()


def test_a_slide_that_cannot_be_used_is_a_row_with_its_reason(ward: Home, cohort: Cohort) -> None:
    (ward.slides / "S1.svs").write_bytes(b"no slide")
    table = cohort.run(["S0", "S1", "S2"]).set_index("slide_id")
    assert table.state.to_dict() == {"S0": "done", "S1": "failed", "S2": "done"}
    assert table.stage["S1"] == "mask"
    assert "S1.svs" in table.reason["S1"]
    assert table.attempts["S1"] == 1, "a file that is no slide is not tried again"
    assert cohort.run(["S1"]).state.tolist() == ["failed"]


def test_what_failed_is_tried_again_when_asked(ward: Home, cohort: Cohort) -> None:
    whole = (ward.slides / "S1.svs").read_bytes()
    (ward.slides / "S1.svs").write_bytes(b"no slide")
    cohort.run(["S1"])
    (ward.slides / "S1.svs").write_bytes(whole)
    assert cohort.run(["S1"]).state.tolist() == ["failed"]
    with Cohort(ward, again=True) as again:
        assert again.run(["S1"]).state.tolist() == ["done"]


def test_other_parameters_are_other_work(ward: Home, cohort: Cohort) -> None:
    cohort.run(["S0"])
    with Cohort(ward, spec=CohortSpec(min_tissue=0.9)) as other:
        second = other.run(["S0"])
    assert n_analysed(ward) == 2
    assert read_provenance(Path(second.result_path[0]))["tiling"]["min_tissue"] == 0.9


def test_a_corrected_mask_leads_to_another_answer(ward: Home, cohort: Cohort) -> None:
    first = cohort.run(["S0"])
    path = mask_path(ward, "S0")
    mask = read_mask(path)
    mask.array[:, mask.array.shape[1] // 2 :] = False
    keep_mask(ward, "S0", mask, spec=read_spec(path), who="ada", seen_at=None)
    second = cohort.run(["S0"])
    assert second.n_tiles[0] < first.n_tiles[0]
    assert read_mask(path).edited_by == "ada", "what a person drew is kept"
    assert cohort.run(["S0"]).n_tiles[0] == second.n_tiles[0]


def test_a_mask_that_cannot_be_read_is_its_slides_affair(ward: Home, cohort: Cohort) -> None:
    (ward.masks / "S0.png").write_bytes(b"half")
    table = cohort.run(["S0", "S1"]).set_index("slide_id")
    assert table.state.to_dict() == {"S0": "failed", "S1": "done"}
    assert "no tissue mask" in table.reason["S0"]
    (ward.masks / "S0.png").unlink()
    assert cohort.run(["S0"]).state.tolist() == ["done"]


def test_the_provenance_names_the_mask_that_the_tiles_were_cut_from(
    ward: Home, cohort: Cohort
) -> None:
    stages = SlideStages(Bench(ward, cohort.folder, spec=cohort.spec), "S0")
    cut_from = stages.make("mask")
    stages.make("tile")
    mask, path = read_mask(stages.mask_path), stages.mask_path
    mask.array[:, mask.array.shape[1] // 2 :] = False
    keep_mask(ward, "S0", mask, spec=read_spec(path), who="ada", seen_at=None)  # in between
    stages.make("analyse")
    assert read_provenance(stages.result_folder)["mask"]["sha256"] == cut_from
    n_tiles = read_result(stages.result_folder).n_tiles
    assert cohort.run(["S0"]).n_tiles[0] < n_tiles, "the corrected mask leads to another answer"


def test_a_report_is_of_the_cohorts_model_and_its_result_is_shown(
    ward: Home, cohort: Cohort
) -> None:
    first = cohort.run(["S0"])
    filed = ward.catalog.result("S0", cohort.card.model_id)
    del filed["analysed_at"]
    ward.catalog.put_result(filed | {"model_id": "M-other", "result_path": "/other"})
    shutil.rmtree(Path(first.report_path[0]).parent)
    assert cohort.run(["S0"]).state.tolist() == ["done"]
    assert ward.catalog.results(["S0"]).model_id.tolist() == [cohort.card.model_id]
    assert cohort.card.model_id in Path(first.report_path[0]).read_text()


def test_what_the_gate_said_is_part_of_the_answer(ward: Home, cohort: Cohort) -> None:
    cohort.run(["S0"])
    write_gate(cohort.folder, {"passed": True, "reasons": [], "lowered": {"accuracy": 0.1}})
    with Cohort(ward) as again:
        again.run(["S0"])
    assert n_analysed(ward) == 2
    assert not read_result(ward.results / "S0" / cohort.card.model_id).gate_passed


def test_who_stops_politely_blames_no_slide(ward: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SCHEDULER, raising=False)
    preload = {"distributed.worker.preload": [str(MURDEROUS)]}
    path = Path(shutil.copy(analysed.slides()[0], ward.slides / "HANGER.svs"))
    analysed.add_slide(ward, path, "HANGER", mask=False)
    stop = threading.Event()
    with dask.config.set(preload), Cohort(ward, spec=CohortSpec(n_workers=1)) as cohort:
        watcher = threading.Timer(0, wait_for_lease, [ward, stop])
        watcher.start()
        assert cohort.run(["HANGER"], stop=stop).state.tolist() == ["waiting"]
        watcher.join()
    with ward.catalog.reading() as connection:
        (row,) = connection.execute(WORK.select()).all()
    assert (row.state, row.attempts) == ("waiting", 0)


def wait_for_lease(home: Home, stop: threading.Event) -> None:
    while "leased" not in states(home).values():
        time.sleep(0.1)
    stop.set()


def test_a_result_made_by_hand_is_taken_over(ward: Home, cohort: Cohort) -> None:
    """As if a worker had been killed between its last byte and its commit."""
    cohort.run(["S0"])
    with ward.catalog.writing("") as connection:
        connection.execute(WORK.delete().where(WORK.c.stage == "analyse"))
    assert cohort.run(["S0"]).state.tolist() == ["done"]
    assert n_analysed(ward) == 1


def test_a_stopped_run_says_what_waits_and_goes_on(ward: Home, cohort: Cohort) -> None:
    stop = threading.Event()
    stop.set()
    assert cohort.run(["S0", "S1"], stop=stop).state.tolist() == ["waiting"] * 2
    assert cohort.run(["S0", "S1"]).state.tolist() == ["done"] * 2


def test_without_a_model_or_slide_nothing_begins(home: Home, ward: Home, cohort: Cohort) -> None:
    with pytest.raises(CatalogError, match="no slide S9"):
        cohort.run(["S0", "S9"])
    (ward.models / "production.json").unlink()
    with pytest.raises(BundleError, match="no model is in production"):
        Cohort(ward)


def test_no_scheduler_is_said(ward: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SCHEDULER, "tcp://127.0.0.1:1")
    monkeypatch.setattr("histo_nb.running.cohort.engine.CONNECT_S", 0.5)
    with pytest.raises(EngineLostError, match="does not answer"):
        Cohort(ward)


def test_workers_with_another_code_or_home_are_refused(
    ward: Home, cohort: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "MISFIT_S", 0.5)
    place = cohort._place
    cohort._place = replace(place, source_sha256="other")
    with pytest.raises(SpecError, match="another version of histo_nb"):
        cohort.run(["S0"])
    cohort._place = replace(place, root="/nowhere")
    with pytest.raises(SpecError, match="does not see /nowhere"):
        cohort.run(["S0"])
    assert not Path("/nowhere").exists()


def test_workers_that_join_while_it_runs_get_their_share(
    ward: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SCHEDULER, raising=False)
    with LocalCluster(
        n_workers=0, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
    ) as cluster:
        monkeypatch.setenv(SCHEDULER, cluster.scheduler_address)
        with Cohort(ward) as cohort:
            assert cohort.n_workers == 0
            later = threading.Timer(1.5, cluster.scale, [2])
            later.start()
            assert set(cohort.run(["S0", "S1", "S2"]).state) == {"done"}
            later.join()


def test_workers_that_dask_does_not_start_again_are_replaced(
    ward: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SCHEDULER, raising=False)
    monkeypatch.setattr(runner, "ALONE_S", 0.5)
    with Cohort(ward, spec=TWO) as cohort:
        cohort._engine._client.cluster.scale(0)
        while cohort.n_workers:
            time.sleep(0.1)
        assert set(cohort.run(["S0", "S1", "S2"]).state) == {"done"}


@pytest.mark.databases
def test_workers_of_this_machine(ward: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SCHEDULER, raising=False)
    with Cohort(ward, spec=TWO) as cohort:
        assert cohort.n_workers == 2
        assert set(cohort.run(["S0", "S1", "S2"]).state) == {"done"}


@pytest.mark.parametrize("wrong", [{"tries": 0}, {"lease_s": 0}, {"n_workers": -1},
                                   {"report": "pdf"}, {"runtime": "tensorflow"}])  # fmt: skip
def test_what_no_cohort_can_be_is_refused(wrong: dict) -> None:
    with pytest.raises(SpecError):
        CohortSpec(**wrong)
