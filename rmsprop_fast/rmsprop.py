"""RMSprop: its hyperparameters, the slots it needs, its configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rmsprop_fast import checkpoint, rules
from rmsprop_fast.cpu._records import FLAGS, SLOTS
from rmsprop_fast.hyperparameters import Hyperparameter, Option
from rmsprop_fast.optimizer import Optimizer

__all__ = ["RMSprop"]

DEFAULT_EPSILON = 1e-7


@checkpoint.register
class RMSprop(Optimizer):
    r"""RMSprop, plain, centered, with momentum, or both, on NumPy or CuPy arrays.

    Parameters
    ----------
    learning_rate : float, schedule or callable, default 0.001
        Unit of `var` per step; finite and >= 0. A callable takes no argument and is
        called once per step, as all callables below. The kernels of each step read a
        0-d CuPy array of float32 or float64 on its device, and do not check it.
    rho : float or callable, default 0.9
        Weight of the past in the running means, in [0, 1].
    momentum : float or callable, default 0.0
        Weight of the past in the momentum, in [0, 1].
    epsilon : float, callable or None, default 1e-7
        Finite and >= 0; None is the default. Unit of the gradient squared when inside
        the root, of the gradient when outside.
    centered : bool, default False
        Divide by the standard deviation of the gradient instead of its root mean
        square. This needs one more slot.
    name : str, default "RMSprop"
        A name for `get_config` and for errors of `set_weights`.
    eps_in_sqrt : bool, default True
        Where epsilon is added: inside the root as the page of Keras says, or outside as
        in torch.
    num_threads : int, optional
        See `Optimizer`.
    **kwargs : float
        `clipnorm`, `clipvalue`, `global_clipnorm`, `lr`, `decay`, `weight_decay`,
        `catch_up` and `check_finite`, see `Optimizer`.

    Raises
    ------
    TypeError
        An unknown keyword, or a value of the wrong kind.
    ValueError
        A value outside its range, or both norms.

    Notes
    -----
    For each element, with :math:`g` the gradient after clipping:

    .. math::

        \mathrm{rms} &\leftarrow \rho \, \mathrm{rms} + (1 - \rho) \, g^2 \\
        \mathrm{mg} &\leftarrow \rho \, \mathrm{mg} + (1 - \rho) \, g
            \quad \text{if centered} \\
        d &= \max(\mathrm{rms} - \mathrm{mg}^2, 0) \quad \text{if centered, else }
            \mathrm{rms} \\
        \mathrm{inc} &= \mathrm{lr} \, g / \sqrt{d + \epsilon} \quad
            \text{or, not eps\_in\_sqrt, } \mathrm{lr} \, g / (\sqrt d + \epsilon) \\
        \mathrm{mom} &\leftarrow \mathrm{momentum} \, \mathrm{mom} + \mathrm{inc}
            \quad \text{with momentum} \\
        \mathrm{var} &\leftarrow \mathrm{var} - \mathrm{mom} \quad
            \text{or, without momentum, } \mathrm{var} - \mathrm{inc}

    Sources: Tieleman and Hinton, COURSERA lecture 6e, 2012; centered: Graves,
    arXiv:1308.0850, equations 38 to 41. The code of Keras r2.0 adds epsilon outside the
    root when momentum is 0 and inside otherwise; its page says inside.

    With `weight_decay`, var is multiplied by :math:`1 - \mathrm{lr} \cdot
    \mathrm{weight\_decay}` before the increment is subtracted, as in Keras 3
    (Loshchilov and Hutter, arXiv:1711.05101).

    Rows that are not in the `indices` of a row-sparse gradient keep their values and
    their slots. With ``catch_up=True`` they change later, see `catch_up`.

    Examples
    --------
    >>> import numpy as np
    >>> from rmsprop_fast import RMSprop
    >>> var = np.array([10.0])
    >>> opt = RMSprop(learning_rate=0.1)
    >>> def loss():
    ...     return var[0] ** 2 / 2, [var.copy()]
    >>> for _ in range(100):
    ...     step = opt.minimize(loss, [var])
    >>> step, bool(opt.last_loss < 2.0)
    (100, True)
    """

    rho = Hyperparameter(
        rules.fraction,
        "Weight of the past in the running means, in [0, 1].",
        decays_missed_rows=True,
    )
    momentum = Hyperparameter(
        rules.fraction,
        "Weight of the past in the momentum, in [0, 1].",
        decays_missed_rows=True,
    )
    epsilon = Hyperparameter(
        rules.at_least_zero,
        "The number that keeps the denominator from zero.",
        default=DEFAULT_EPSILON,
    )
    centered = Option(
        rules.flag,
        "Whether the squared mean is subtracted from the mean square.",
        is_optional=False,
        decays_missed_rows=True,
    )
    eps_in_sqrt = Option(
        rules.flag, "Whether epsilon stands inside the root.", is_optional=False
    )

    def __init__(
        self,
        learning_rate: float | Callable[..., float] = 0.001,
        rho: float | Callable[[], float] = 0.9,
        momentum: float | Callable[[], float] = 0.0,
        epsilon: float | Callable[[], float] | None = DEFAULT_EPSILON,
        centered: bool = False,
        name: str | None = "RMSprop",
        *,
        eps_in_sqrt: bool = True,
        num_threads: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, num_threads=num_threads, **kwargs)
        self.learning_rate = kwargs.get("lr", learning_rate)
        self.rho = rho
        self.momentum = momentum
        self.epsilon = epsilon
        self.centered = centered
        self.eps_in_sqrt = eps_in_sqrt

    def _variant(self, numbers: Mapping[str, Any]) -> int:
        # While momentum is 0, a step does not change the momentum slot.
        return sum(bit for name, bit in FLAGS.items() if numbers[name])

    def _scalars(self, numbers: Mapping[str, Any]) -> dict[str, Any]:
        return {name: numbers[name] for name in ("rho", "momentum", "epsilon")}

    def _slots_for(self, variant: int) -> list[str]:
        return [name for name, flag in SLOTS.items() if variant & flag == flag]
