"""The docstrings of the estimators: each text that several of them share, once.

A class writes what only it has. `completed` adds the parameters of its `__init__`, in
their order and with their defaults, and the attributes and notes that it shares.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from inspect import Parameter
from typing import TypeVar

__all__ = [
    "CLASSIFIER",
    "COST_OF_A_STEP",
    "OBJECTIVE",
    "PERCEPTRON",
    "REGRESSOR",
    "completed",
]

Class = TypeVar("Class", bound=type)
Entries = dict[str, str]

PARAMETERS = """
learning_rate : float, schedule or callable
    Size of a step: a parameter with a steady gradient moves by so much, in
    {unit} per unit of the feature. A schedule of `rmsprop_fast.schedules` gets
    the number of mini-batches so far. A callable has no argument and is called for each
    mini-batch.
rho : float
    Weight of the past in the running mean of squared gradients, in [0, 1).
momentum : float
    Weight of the past steps in a step, in [0, 1).
epsilon : float
    Added to the mean square inside the root; > 0, unit of the gradient squared.
    Gradients below the root of epsilon make smaller steps.
centered : bool
    Divide by the standard deviation of the gradient instead.
n_factors : int
    Length of the vector that each feature has for its pairs.
init_scale : float
    Standard deviation of the factors' first values; > 0, for factors of zero would
    stay zero.
alpha : float
    Weight of the L2 penalty of the coefficients, >= 0.
l1_ratio : float
    Share of L1 in the penalty, in [0, 1]. 0 is L2 alone, 1 is L1 alone, which makes
    coefficients exactly zero; with `average` only few of them.
delta : float
    Threshold of huber and epsilon_insensitive, unit of y. (`epsilon` is RMSprop's.)
fit_intercept : bool
    Whether there is an intercept. It is never penalised.
batch_size : int
    Samples per step.
max_iter : int
    Most epochs of `fit`.
tol : float or None
    `fit` stops when the training loss, or with early stopping minus the score, has
    not fallen by `tol` below its best for `n_iter_no_change` epochs. None: never.
n_iter_no_change : int
    See `tol`.
early_stopping : bool
    Set `validation_fraction` of the samples aside, stop by the {score} on them, and
    return the parameters of the best epoch.
validation_fraction : float
    In (0, 1); used with early stopping.
shuffle : bool
    Shuffle the samples before each epoch.
average : bool or int
    Return the mean of the parameters over all steps; an int: over the steps after so
    many samples.
class_weight : dict, "balanced" or None
    Factors of the samples' weights by class.
warm_start : bool
    `fit` goes on with the parameters and slots of the last call.
random_state : int, RandomState or None
    Decides the order of the samples, the validation split and the first values. A
    RandomState stays advanced when a call fails.
verbose : int
    Above 0, show a progress bar (tqdm) with the loss.
num_threads : int or None
    Threads for large mini-batches. None: OMP_NUM_THREADS, or what the machine allows.
    The result is the same for any number.
"""

ATTRIBUTES = """
n_iter_ : int
    Epochs since the parameters had their first values.
loss_curve_ : list of float
    Mean loss over the samples of each epoch, before each step, without penalty; in the
    unit of the loss.
validation_scores_ : list of float
    The {score} after each epoch. Only with early stopping.
best_validation_score_ : float
    The best of `validation_scores_`. Only with early stopping.
n_features_in_ : int
    Number of features.
feature_names_in_ : ndarray, shape (n_features,)
    Names of the features, if X had any.
"""

CLASSIFIER = {
    "unit": "log odds",
    "score": "accuracy",
    "attributes": """
classes_ : ndarray, shape (n_classes,)
    The classes, sorted.
coef_ : ndarray, shape (1, n_features) or (n_classes, n_features)
    Coefficients; one row if there are two classes. The dtype is that of X.
intercept_ : ndarray, shape (1,) or (n_classes,)
    Intercepts.
""",
}

REGRESSOR = {
    "unit": "standard deviations of y",
    "score": "R2",
    "attributes": """
coef_ : ndarray, shape (n_features,)
    Coefficients, unit of y per unit of the feature. The dtype is that of X.
intercept_ : ndarray, shape (1,)
    Intercept, unit of y.
""",
    "notes": """
The targets are trained on less their mean and divided by their standard deviation.
Both are those of the first call. So `learning_rate` does not depend on the unit of y.
""",
}

OBJECTIVE = """
The objective is the weighted mean of the losses plus
``alpha * (l1_ratio * |w| + (1 - l1_ratio) / 2 * w**2)`` summed over `coef_`. The
gradients of the losses go through RMSprop, see `rmsprop_fast.RMSprop`. The penalty is a
proximal step in the same metric (Duchi, Hazan and Singer 2011, Adaptive subgradient
methods, section 2.2), so that loss and penalty weigh as the objective says.
"""

COST_OF_A_STEP = """
A step costs time for the non-zeros of its mini-batch only. The parameters and slots of
a feature that is zero in the whole mini-batch stay as they are; when the feature next
occurs, the step first applies the penalty and the average of the steps in between.
Zeros count as absent in dense X too: dense and CSR give the same result. Penalty and
average add a pass over all coefficients at the end of each call, not of each epoch. A
call that goes on with a model copies its parameters and slots first.
"""

PERCEPTRON = {
    "parameters": """
hidden_layer_sizes : sequence of int
    Units of each hidden layer.
activation : {{"identity", "logistic", "tanh", "relu"}}
    Of the hidden layers.
alpha : float
    Weight of the L2 penalty, >= 0; its gradient goes through RMSprop too.
batch_size : int or "auto"
    Samples per step; "auto" is 200, or all where there are fewer.
learning_rate_init : float
    Size of a step, > 0: a weight with a steady gradient moves by so much.
rho : float
    Weight of the past in the running mean of squared gradients, in [0, 1].
momentum : float
    Weight of the past steps in a step, in [0, 1].
epsilon : float
    Added to the mean square inside the root; >= 0, unit of the gradient squared.
tol : float
    `fit` stops when loss or validation score has not improved by `tol` for
    `n_iter_no_change` epochs.
verbose : bool
    Print the loss of each epoch.
random_state : int, RandomState or None
    Decides first weights, order of samples and validation split.
warm_start : bool
    `fit` goes on from the weights of the last call.
early_stopping : bool
    Stop by the score on `validation_fraction` of the samples.
validation_fraction : float
    In [0, 1); used with early stopping.
num_threads : int or None
    Threads of the updates; None is what `rmsprop_fast.Optimizer` chooses. More than
    one seldom pays: the products before and after use the threads of the BLAS, and
    two teams that wait by spinning take the cores from each other.
""",
    "notes": """
RMSprop's arithmetic is not Adam's: try other learning rates. `partial_fit` goes on
with the slots; `warm_start` begins with new ones, as scikit-learn does for Adam.
""",
}


def completed(
    *notes: str,
    parameters: str = "",
    attributes: str | None = None,
    **words: str,
) -> Callable[[Class], Class]:
    """Return a decorator that adds to a class's docstring what others say too.

    `parameters` and `attributes` are texts of the class's family, `notes` and
    ``words["notes"]`` paragraphs to add, and the other words stand in the texts.
    """
    last = words.pop("notes", "")
    words = {"unit": "", "score": "", **words}
    family = _entries(PARAMETERS.format(**words)) | _entries(parameters.format())

    def complete(cls: Class) -> Class:
        if cls.__doc__ is None:  # python -OO
            return cls
        sections = _sections(cls.__doc__)
        known = family | _entries(sections.get("Parameters", ""))
        signature = inspect.signature(cls)
        sections["Parameters"] = "\n".join(
            _with_default(known[name], parameter)
            for name, parameter in signature.parameters.items()
        )
        if attributes is not None:
            sections["Attributes"] = "\n".join(
                (
                    _entries(attributes)
                    | _entries(sections.get("Attributes", ""))
                    | _entries(ATTRIBUTES.format(**words))
                ).values()
            )
        own = sections.get("Notes", "")
        paragraphs = [own, *notes, last]
        sections["Notes"] = "\n\n".join(p.strip("\n") for p in paragraphs if p)
        cls.__doc__ = sections.pop("") + "".join(
            f"\n\n{title}\n{'-' * len(title)}\n{sections[title]}"
            for title in ORDER
            if title in sections
        )
        return cls

    return complete


ORDER = ["Parameters", "Attributes", "See Also", "Notes", "Examples"]


def _sections(docstring: str) -> Entries:
    """Return the text before the first title as "", and that of each title."""
    parts = re.split(r"\n\n([A-Z][A-Za-z ]+)\n-+\n", inspect.cleandoc(docstring))
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def _entries(text: str) -> Entries:
    """Return the entries of a section by the names they begin with."""
    entries = re.split(r"\n(?=\S)", text.strip("\n")) if text else []
    return {entry.split(" ", 1)[0]: entry for entry in entries}


def _with_default(entry: str, parameter: Parameter) -> str:
    first, rest = entry.split("\n", 1)
    default = parameter.default
    shown = f'"{default}"' if isinstance(default, str) else f"{default!r}"
    return f"{first}, default {shown.replace('e-0', 'e-')}\n{rest}"
