"""Second moments of the inputs and output gradients of a layer."""

from __future__ import annotations

import math

from array_api_compat import array_namespace

from training_study.networks import Array, Tape

DECAY = 0.95
"""Weight of the past in averages, and 1 minus the step of inverse-free updates."""


def flattened(tape: Tape) -> tuple[Array, Array]:
    """Return inputs and gradients with positions as further samples.

    Gradients are multiplied by sqrt(T), so that their mean square over all rows is the mean over
    samples of the sum over positions.
    """
    xp = array_namespace(tape.inputs)
    a, g = (xp.reshape(x, (-1, x.shape[-1])) for x in tape)
    return a, g * math.sqrt(a.shape[0] / tape.inputs.shape[0])


def moments(tape: Tape) -> tuple[Array, Array]:
    """Return X with X^T X the second moment of inputs, and of output gradients."""
    a, g = flattened(tape)
    return a / math.sqrt(a.shape[0]), g / math.sqrt(g.shape[0])
