"""RMSprop for arrays you already own: the API of Keras, in place, at memory speed."""

from rmsprop_fast import gradients, schedules
from rmsprop_fast._version import __version__
from rmsprop_fast.checkpoint import load
from rmsprop_fast.config import get_include, show_config
from rmsprop_fast.indexed_slices import IndexedSlices
from rmsprop_fast.optimizer import Optimizer
from rmsprop_fast.rmsprop import RMSprop

__all__ = [
    "IndexedSlices",
    "Optimizer",
    "RMSprop",
    "__version__",
    "get_include",
    "gradients",
    "load",
    "schedules",
    "show_config",
]
