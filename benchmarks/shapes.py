"""The shapes of real networks' parameters, from their architecture."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

__all__ = ["MODELS", "Shape", "gpt2_small", "mlp", "resnet50", "size"]

Shape = tuple[int, ...]


def size(shapes: list[Shape]) -> int:
    """Return the number of elements."""
    return sum(map(math.prod, shapes))


def mlp() -> list[Shape]:
    """Return a network for MNIST's digits: 784, 512, 512, 10."""
    widths = (784, 512, 512, 10)
    return [
        shape for n_in, n_out in pairwise(widths) for shape in ((n_in, n_out), (n_out,))
    ]


def resnet50() -> list[Shape]:
    """Return ResNet-50's: He et al. 2015, arXiv:1512.03385, table 1.

    Each convolution has a batch normalisation's scale and bias, and no bias itself.
    """

    def convolution(n_out: int, n_in: int, kernel: int) -> Iterator[Shape]:
        yield (n_out, n_in, kernel, kernel)
        yield from ((n_out,), (n_out,))

    shapes = [*convolution(64, 3, 7)]
    n_in = 64
    for width, n_blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(n_blocks):
            shapes += convolution(width, n_in, 1)
            shapes += convolution(width, width, 3)
            shapes += convolution(4 * width, width, 1)
            if block == 0:  # the shortcut changes the number of channels
                shapes += convolution(4 * width, n_in, 1)
            n_in = 4 * width
    return [*shapes, (1000, n_in), (1000,)]


def gpt2_small() -> list[Shape]:
    """Return GPT-2 small's: Radford et al. 2019; the output layer is `wte` again."""
    width, n_layers, vocabulary, context = 768, 12, 50_257, 1024
    norm: list[Shape] = [(width,), (width,)]
    layer = [
        *norm,
        *((width, 3 * width), (3 * width,), (width, width), (width,)),  # attention
        *norm,
        *((width, 4 * width), (4 * width,), (4 * width, width), (width,)),  # MLP
    ]
    return [(vocabulary, width), (context, width), *(layer * n_layers), *norm]


MODELS = {"mlp": mlp, "resnet50": resnet50, "gpt2-small": gpt2_small}
