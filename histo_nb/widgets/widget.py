"""What our widgets share: a bundle of JavaScript and a file of CSS each; a picture without them."""

from pathlib import Path
from typing import Any

import anywidget

from histo_nb.errors import StorageError

HERE = Path(__file__).parent


def bundle(name: str) -> str:
    """Return a JavaScript module that was bundled when the package was built.

    Raises
    ------
    StorageError
        It is not there.
    """
    path = HERE / "static" / f"{name}.js"
    if not path.is_file():
        raise StorageError(
            f"{path.name} is not built; install the package again (`make setup` in a checkout)"
        )
    return path.read_text("utf-8")


def style(name: str) -> str:
    """Return the house's design and `name`.css."""
    return "\n".join((HERE / file).read_text("utf-8") for file in ("design.css", f"{name}.css"))


class Widget(anywidget.AnyWidget):  # type: ignore[misc]
    """A widget that leaves something behind where no browser is (papermill, nbconvert)."""

    def leave(self) -> dict[str, Any]:
        """Return what to show in its place, by MIME type; {} = nothing."""
        return {}

    def _repr_mimebundle_(self, **options: Any) -> Any:
        bundle = super()._repr_mimebundle_(**options)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle or {}, {})
        return {**data, **self.leave()}, metadata
