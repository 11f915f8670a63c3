"""From a glass slide to an answer a pathologist can check. Research use only.

Six rooms, one a notebook: `scanning`, `masking`, `tiling`, `balancing`, `training`, `inference`.
Importing this package loads neither torch nor fastai nor matplotlib.
"""

import os

# Threads of PyTorch that wait spin by default: where another process wants the cores, training
# was seen to take 20 times as long. Sleeping threads cost nothing measurable on an idle machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
