"""S4 as modules: initialization, state-space parameters, the layer and the stack of blocks."""

from mads4.nn.blocks import S4Stack
from mads4.nn.s4 import S4Layer

__all__ = ["S4Layer", "S4Stack"]
