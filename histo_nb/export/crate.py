"""What a run was made from and what it made, as an RO-Crate that other programs read.

RO-Crate 1.1 with the profile Process Run Crate 0.5 (https://w3id.org/ro/wfrun/process/0.5). The
crate is the run's own folder; slides, models and results stay where they are and are named by their
pseudonyms and hashes, never by their files. (The notebook and `run.json` beside it say the
parameters as they were given.)
"""

import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from histo_nb.export.templates import USE
from histo_nb.export.unnamed import unnamed
from histo_nb.files import hash_content, hash_file, write_json

CRATE = "ro-crate-metadata.json"
CONTEXT = ["https://w3id.org/ro/crate/1.1/context",
           {"sha256": "https://w3id.org/ro/terms/workflow-run#sha256"}]  # fmt: skip
SPECIFICATION = "https://w3id.org/ro/crate/1.1"
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
KINDS = {".ipynb": "application/x-ipynb+json", ".html": "text/html", ".json": "application/json",
         ".parquet": "application/vnd.apache.parquet"}  # fmt: skip

Entity = dict[str, Any]


def write_crate(folder: Path, facts: Mapping[str, Any]) -> Path:
    """Write the metadata of a run into its folder; return the path.

    Parameters
    ----------
    folder
        With all other files of the run.
    facts
        Of the run: `run_id, notebook, status, started_at, ended_at, declared, inputs, outputs,
        code, packages`, and maybe `fault`, `seeds`.
    """
    files = [_file(path) for path in sorted(folder.iterdir()) if path.name != CRATE]
    used, made = [*_inputs(facts)], [*_outputs(facts)]
    software = [*_software(facts)]
    action = _action(facts, used=used, made=[*files, *made])
    graph = [_descriptor(), _root(facts, files, action), action, *software, *files, *used, *made,
             {"@id": PROFILE, "@type": "CreativeWork", "name": "Process Run Crate",
              "version": "0.5"},
             {"@id": "#use", "@type": "CreativeWork", "name": USE}]  # fmt: skip
    return write_json(folder / CRATE, {"@context": CONTEXT, "@graph": graph})


def _descriptor() -> Entity:
    return {
        "@id": CRATE,
        "@type": "CreativeWork",
        "conformsTo": {"@id": SPECIFICATION},
        "about": {"@id": "./"},
    }


def _root(facts: Mapping[str, Any], files: list[Entity], action: Entity) -> Entity:
    return {
        "@id": "./",
        "@type": "Dataset",
        "name": f"Run {facts['run_id']}",
        "description": f"A run of {facts['notebook']} by histo_nb. {USE}.",
        "datePublished": facts["ended_at"],
        "license": {"@id": "#use"},
        "conformsTo": {"@id": PROFILE},
        "hasPart": _refer(files),
        "mentions": {"@id": action["@id"]},
    }


def _action(facts: Mapping[str, Any], *, used: list[Entity], made: list[Entity]) -> Entity:
    done = facts["status"] == "done"
    return {
        "@id": f"#run/{facts['run_id']}",
        "@type": "CreateAction",
        "name": f"{facts['notebook']}, {facts['started_at']}",
        "description": f"{facts['notebook']} was run on {len(facts['inputs']['slides'])} slides.",
        "instrument": {"@id": f"#notebook/{facts['notebook']}"},
        "startTime": facts["started_at"],
        "endTime": facts["ended_at"],
        "actionStatus": f"http://schema.org/{'Completed' if done else 'Failed'}ActionStatus",
        **({} if done else {"error": unnamed(str(facts.get("fault")))}),
        "object": _refer(used),
        "result": _refer(made),
    }


def _software(facts: Mapping[str, Any]) -> Iterator[Entity]:
    code = facts["code"]
    commit = f", commit {code['commit']}" if code.get("commit") else ""
    packages = {
        name: f"pkg:{'generic' if name == 'python' else 'pypi'}/{name}@{version}"
        for name, version in facts["packages"].items()
        if name != "platform"
    }
    yield {
        "@id": f"#notebook/{facts['notebook']}",
        "@type": "SoftwareApplication",
        "name": facts["notebook"],
        "description": f"of histo_nb, whose deciding sources have the SHA-256 "
        f"{code['source_sha256']}{commit}",
        "softwareVersion": str(code["version"]),
        **({"sha256": facts["notebook_sha256"]} if "notebook_sha256" in facts else {}),
        "operatingSystem": facts["packages"].get("platform", platform.platform()),
        "softwareRequirements": [{"@id": address} for address in packages.values()],
    }
    for name, address in packages.items():
        yield {
            "@id": address,
            "@type": "SoftwareApplication",
            "name": name,
            "softwareVersion": facts["packages"][name],
        }


def _inputs(facts: Mapping[str, Any]) -> Iterator[Entity]:
    """Yield what a run was given: parameters, slides, files, and the model that answered."""
    given = facts.get("parameters", {})
    for name, said in facts["declared"].items():
        what = {"description": "a seed"} if name in facts.get("seeds", {}) else {}
        yield {"@id": f"#parameter/{name}", "@type": "PropertyValue", "name": name,
               "value": _tell(said["value"], is_given=name in given), **what}  # fmt: skip
    for slide_id, sha256 in facts["inputs"]["slides"].items():
        yield _work(f"slide/{slide_id}", f"slide {slide_id}", sha256)
    for name, files in facts["inputs"].get("files", {}).items():
        for number, sha256 in enumerate(files.values(), 1):  # their names are a person's choice
            yield _work(f"file/{name}/{number}", f"file {number} of parameter {name}", sha256)
    if model := facts["inputs"].get("model"):
        yield _work(f"model/{model['model_id']}", f"model {model['model_id']}, its weights",
                    model["weights_sha256"])  # fmt: skip


def _tell(value: Any, *, is_given: bool) -> Any:
    """Return the value of a parameter, but of texts that a person gave only the hash: they name
    folders and files, and these may be called as a patient is.
    """
    if isinstance(value, int | float):
        return value
    return f"given, SHA-256 {hash_content(value)}" if is_given and value else str(value)


def _outputs(facts: Mapping[str, Any]) -> Iterator[Entity]:
    for name, sha256 in facts["outputs"].items():
        yield _work(f"output/{name}", name, sha256)


def _work(name: str, says: str, sha256: str) -> Entity:
    return {"@id": f"#{name}", "@type": "CreativeWork", "name": says, "sha256": sha256}


def _file(path: Path) -> Entity:
    return {
        "@id": path.name,
        "@type": "File",
        "name": path.name,
        "contentSize": str(path.stat().st_size),
        "sha256": hash_file(path),
        **({"encodingFormat": KINDS[path.suffix]} if path.suffix in KINDS else {}),
    }


def _refer(entities: list[Entity]) -> list[dict[str, str]]:
    return [{"@id": entity["@id"]} for entity in entities]
