"""WSInfer's own command line, `python wsinfer_cli.py run …`, in WSInfer's own environment.

Only the list of models is replaced that it would fetch from the network when it starts.
"""

import sys

sys.path.pop(0)  # this folder, in which a file has the package's name
import wsinfer_zoo.client

wsinfer_zoo.client.load_registry = lambda *_: wsinfer_zoo.client.ModelRegistry(models={})
from wsinfer.cli.cli import cli  # noqa: E402

cli()
