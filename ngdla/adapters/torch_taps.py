"""Taps: what a module was given and the gradient of what it returned, on the way of autograd.

A tap is an identity behind the module. Autograd saves the input for it as for any operation, so
that activation checkpointing works, and frees and makes it anew as all others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["in_backward", "tapped"]

Receiver = Callable[[torch.Tensor, torch.Tensor], None]


def tapped(
    output: torch.Tensor, inputs: torch.Tensor, anchor: torch.Tensor, receive: Receiver
) -> torch.Tensor:
    """Return the output; a backward pass through it calls ``receive(inputs, output_gradients)``.

    The anchor is a leaf that gets no gradient: a backward pass for it alone runs through all taps,
    and forms no gradient of a weight.
    """
    tap: Any = _Tap.apply
    return tap(output, inputs, anchor, receive)


def in_backward() -> bool:
    """Tell whether this is a call from a backward pass, as when a checkpoint is computed again."""
    return torch._C._current_graph_task_id() != -1


class _Tap(torch.autograd.Function):
    """The identity of an output. It counts as modified, so that a relu in place may follow."""

    @staticmethod
    def forward(
        ctx: Any,
        output: torch.Tensor,
        inputs: torch.Tensor,
        anchor: torch.Tensor,
        receive: Receiver,
    ) -> torch.Tensor:
        ctx.save_for_backward(inputs)
        ctx.mark_dirty(output)
        ctx.receive = receive
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (output_gradients,) = gradients
        (inputs,) = ctx.saved_tensors
        ctx.receive(inputs.detach(), output_gradients.detach())
        return output_gradients, None, None, None
