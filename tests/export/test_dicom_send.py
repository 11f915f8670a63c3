"""Results sent to archives that others wrote: dcmtk's storescp; Orthanc, asked for them again."""

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from dicom_tools import add_dicom_slide, grid, needs_orthanc, needs_storescp, put_result
from pydicom import Dataset, dcmread
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as Find
from pynetdicom.sop_class import Verification

from histo_nb.errors import HistoError, SpecError
from histo_nb.export.dicom.read import read_dicom_results
from histo_nb.export.dicom.send import Peer, Tls, send_dicom
from histo_nb.export.dicom.write import write_dicom_results
from histo_nb.scanning.dicom.walk import DicomFile
from histo_nb.scanning.structure.bytefile import ByteFile

TITLE = "ARCHIVE"


@pytest.fixture
def objects(home, tmp_path) -> list[Path]:
    slide_id = add_dicom_slide(home)
    put_result(home, slide_id, grid(columns=9, rows=7, size=64, step=32, x=11, y=13))
    return write_dicom_results(home, slide_id, tmp_path / "objects")


def free_port() -> int:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        return int(holder.getsockname()[1])


def wait_for(condition, *, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def listens(port: int) -> bool:
    with socket.socket() as caller:
        caller.settimeout(0.5)
        return caller.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def running(command: list[str], port: int, folder: Path) -> Iterator[None]:
    """Run a server in a process group of its own, until it listens and then until we are done."""
    with (folder / "log.txt").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log,
                                  start_new_session=True)  # fmt: skip
        try:
            wait_for(lambda: listens(port) or server.poll() is not None)
            assert server.poll() is None, (folder / "log.txt").read_text()
            yield
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)
            server.wait(20)


def data_set(path: Path) -> bytes:
    """What two files of one object have in common: all but the first group."""
    with ByteFile(path) as file:
        start = DicomFile(file).start
    return path.read_bytes()[start:]


# ------------------------------------------------------------------------------------ storescp
@needs_storescp
def test_storescp_has_every_byte(objects, tmp_path):
    port, inbox = free_port(), tmp_path / "inbox"
    inbox.mkdir()
    command = ["storescp", "--accept-all", "-aet", TITLE, "-od", str(inbox), str(port)]
    with running(command, port, tmp_path):
        peer = Peer(host="127.0.0.1", port=port, title=TITLE, timeout_s=20)
        sent, failures = send_dicom(objects, peer=peer)
    assert sent == objects and failures.empty
    arrived = {str(dcmread(path).SOPInstanceUID): path for path in inbox.iterdir()}
    assert len(arrived) == 4
    for path in objects:
        assert data_set(arrived[str(dcmread(path).SOPInstanceUID)]) == data_set(path)


@needs_storescp
def test_storescp_that_refuses_us_is_named(objects, tmp_path):
    port = free_port()
    with running(["storescp", "--refuse", str(port)], port, tmp_path):
        peer = Peer(host="127.0.0.1", port=port, title=TITLE, timeout_s=5)
        with pytest.raises(HistoError, match=f"127.0.0.1:{port}.*title"):
            send_dicom(objects, peer=peer)


@needs_storescp
def test_storescp_that_goes_away_leaves_failures(objects, tmp_path):
    port, inbox = free_port(), tmp_path / "inbox"
    inbox.mkdir()
    command = ["storescp", "--abort-after", "-od", str(inbox), "-aet", TITLE, str(port)]
    with running(command, port, tmp_path):
        peer = Peer(host="127.0.0.1", port=port, title=TITLE, timeout_s=5)
        sent, failures = send_dicom(objects, peer=peer)
    assert len(sent) + len(failures) == 4 and len(failures) >= 3
    assert failures.error.str.contains("send it again").all()
    assert set(failures.file) <= {f"objects/{path.name}" for path in objects}


# --------------------------------------------------------------------------- peers of our own
@contextmanager
def archive(
    answer=lambda event: 0x0000, *, echo=lambda event: 0x0000, classes=None, tls=None
) -> Iterator[int]:
    """An archive that answers as it is told, in this process."""
    entity = AE(ae_title=TITLE)
    entity.add_supported_context(Verification)
    for context in AllStoragePresentationContexts if classes is None else classes:
        entity.add_supported_context(context.abstract_syntax)
    handlers = [(evt.EVT_C_STORE, answer), (evt.EVT_C_ECHO, echo)]
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, ssl_context=tls, evt_handlers=handlers
    )
    try:
        yield server.socket.getsockname()[1]
    finally:
        server.shutdown()


def send(objects, port: int, **options):
    peer = Peer(host="127.0.0.1", port=port, title=TITLE, timeout_s=5, **options)
    return send_dicom(objects, peer=peer)


@pytest.mark.parametrize(
    ("status", "words"),
    [(0xA700, "resources"), (0xA900, "another class"), (0xC123, "not understand"),
     (0x0122, "see its log")],
)  # fmt: skip
def test_answer_of_the_archive_is_told_of_each_object(objects, status, words):
    with archive(lambda event: status if event.dataset.Modality == "SEG" else 0x0000) as port:
        sent, failures = send(objects, port)
    assert sent == objects[2:]
    assert list(failures.file) == ["objects/heatmap.dcm", "objects/regions.dcm"]
    assert failures.error.str.contains(words).all()
    assert failures.error.str.contains(f"0x{status:04X}").all()


def test_warning_of_the_archive_is_no_failure(objects):
    with archive(lambda event: 0xB000) as port:
        sent, failures = send(objects, port)
    assert sent == objects and failures.empty


def test_archive_that_does_not_know_the_class_says_so(objects):
    with archive(classes=[]) as port:
        sent, failures = send(objects, port)
    assert sent == [] and len(failures) == 4
    assert failures.error.str.contains("allow its class").all()


def test_archive_that_breaks_off_and_nobody_there(objects):
    with archive(lambda event: event.assoc.abort() or 0x0000) as port:
        sent, failures = send(objects, port)
    assert sent == [] and failures.error.str.contains("send it again").all()
    assert len(failures) == 4
    with pytest.raises(HistoError, match="cannot be reached"):
        send(objects, free_port())


def test_nothing_is_sent_to_an_archive_that_fails_its_echo(objects):
    arrived = []
    deaf = archive(lambda event: arrived.append(1) or 0x0000, echo=lambda event: 0x0122)
    with deaf as port, pytest.raises(HistoError, match="does not answer an echo"):
        send(objects, port)
    assert arrived == []


def test_archive_that_never_answers_is_not_waited_for(objects):
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        peer = Peer(host="127.0.0.1", port=mute.getsockname()[1], title=TITLE, timeout_s=0.5)
        with pytest.raises(HistoError, match="cannot be reached"):
            send_dicom(objects, peer=peer)


@pytest.mark.parametrize(
    "wrong",
    [{"title": ""}, {"title": "A" * 17}, {"title": "ä"}, {"title": "A\\B"}, {"port": 0},
     {"port": 65536}, {"own_title": " "}, {"timeout_s": 0}],
)  # fmt: skip
def test_settings_are_checked(wrong):
    with pytest.raises(SpecError):
        Peer(**{"host": "127.0.0.1", "port": 104, "title": "A"} | wrong)


def test_what_is_no_dicom_is_not_sent(tmp_path):
    (tmp_path / "a.dcm").write_text("nothing")
    with archive() as port, pytest.raises(HistoError, match=r"a\.dcm .* no DICOM"):
        send([tmp_path / "a.dcm"], port)


# ------------------------------------------------------------------------------------- encrypted
@pytest.fixture
def certificate(tmp_path) -> tuple[Path, Path]:
    if not shutil.which("openssl"):
        pytest.skip("openssl is missing: install it")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert,
         "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


def test_encrypted_archive_gets_it_only_if_it_is_itself(objects, certificate, tmp_path):
    cert, key = certificate
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key)
    with archive(tls=server) as port:
        sent, failures = send(objects, port, tls=Tls(ca=cert))
        assert sent == objects and failures.empty
        other = tmp_path / "other.pem"
        other.write_bytes(cert.read_bytes()[:-40])
        with pytest.raises(HistoError, match="PEM"):
            send(objects, port, tls=Tls(ca=other))
        system = Path(ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt")
        if system.is_file():
            with pytest.raises(HistoError, match="cannot be reached"):
                send(objects, port, tls=Tls(ca=system))
        with pytest.raises(HistoError, match="cannot be reached"):
            send(objects, port)


# --------------------------------------------------------------------------------------- Orthanc
@pytest.fixture
def orthanc(tmp_path) -> Iterator[tuple[int, int]]:
    """Orthanc's DICOM and HTTP ports; it hears 127.0.0.1 only, and keeps all below `tmp_path`."""
    folder = tmp_path / "orthanc"
    folder.mkdir()
    dicom, http = free_port(), free_port()
    settings = {
        "Name": "test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [],
        "DicomAet": TITLE,
        "DicomPort": dicom,
        "DicomCheckCalledAet": True,
        "HttpPort": http,
        "RemoteAccessAllowed": False,
        "DicomModalities": {"us": ["HISTO_NB", "127.0.0.1", free_port()]},
        "DicomAlwaysAllowEcho": False,
        "DicomAlwaysAllowStore": False,
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with running(["Orthanc", str(folder / "orthanc.json")], http, folder):
        wait_for(lambda: listens(dicom))
        yield dicom, http


def ask(http: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{http}{path}", timeout=20) as answer:
        return bytes(answer.read())


def find(port: int, level: str, **keys: str) -> list[Dataset]:
    entity, asked = AE(ae_title="HISTO_NB"), Dataset()
    entity.add_requested_context(Find)
    asked.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(asked, keyword, value)
    association = entity.associate("127.0.0.1", port, ae_title=TITLE)
    assert association.is_established
    found = [item for status, item in association.send_c_find(asked, Find) if item]
    association.release()
    return found


@needs_orthanc
def test_orthanc_finds_what_was_sent_and_gives_it_back(objects, orthanc, tmp_path):
    dicom, http = orthanc
    sent, failures = send(objects, dicom)
    assert sent == objects and failures.empty
    made = {path.name: dcmread(path) for path in objects}
    study = str(made["report.dcm"].StudyInstanceUID)
    (patient,) = find(dicom, "STUDY", StudyInstanceUID=study, PatientID="", PatientName="")
    assert (patient.PatientID, str(patient.PatientName)) == ("P-S-1", "")
    series = find(dicom, "SERIES", StudyInstanceUID=study, SeriesInstanceUID="", Modality="")
    assert {(str(s.SeriesInstanceUID), s.Modality) for s in series} == {
        (str(m.SeriesInstanceUID), m.Modality) for m in made.values()
    }
    back = tmp_path / "back"
    back.mkdir()
    for name, dataset in made.items():
        where = {"StudyInstanceUID": study, "SeriesInstanceUID": str(dataset.SeriesInstanceUID)}
        (found,) = find(dicom, "IMAGE", **where, SOPInstanceUID="", SOPClassUID="")
        assert found.SOPInstanceUID == dataset.SOPInstanceUID
        (number,) = [i for i in json.loads(ask(http, "/instances"))
                     if json.loads(ask(http, f"/instances/{i}"))["MainDicomTags"]["SOPInstanceUID"]
                     == dataset.SOPInstanceUID]  # fmt: skip
        (back / name).write_bytes(ask(http, f"/instances/{number}/file"))
        assert data_set(back / name) == data_set(objects[0].parent / name)
    assert read_dicom_results(back).report == read_dicom_results(objects[0].parent).report


@needs_orthanc
def test_orthanc_refuses_whom_it_does_not_know(objects, orthanc):
    with pytest.raises(HistoError, match="STRANGER"):
        send(objects, orthanc[0], own_title="STRANGER")
