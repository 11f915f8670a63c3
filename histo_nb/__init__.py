"""From a glass slide to an answer a pathologist can check. Research use only.

Six rooms, one a notebook: `scanning`, `masking`, `tiling`, `balancing`, `training`, `inference`.
Importing this package loads neither torch nor fastai nor matplotlib.
"""

__version__ = "0.1.0"
