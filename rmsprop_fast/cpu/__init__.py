"""The step on NumPy arrays; importing it chooses the loops for this machine."""

from rmsprop_fast.cpu import dispatch as dispatch
