"""torch: the rows of every layer of a module, from an ordinary forward and backward pass."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import torch
from torch import nn

from ngdla._backend.checks import require_choice, require_count, require_flag
from ngdla._backend.messages import shown
from ngdla.per_sample.layer_rows import LOSSES, SHARINGS, Loss, Sharing

from .torch_discovery import Skip, found_layers, left_out, require_trained, stacks_of
from .torch_layers import Layer
from .torch_received import (
    LayerRows,
    plain_gradients,
    require_finite,
    require_received,
    require_same_samples,
    require_step,
    set_gradient,
    unknown_name,
)
from .torch_taps import in_backward, tapped

__all__ = ["Recording", "record"]


def record(
    module: nn.Module, *, skip: Skip = (), stack: bool = False, batch_axis: int = 0
) -> Recording:
    """Return a context in which forward and backward passes leave the rows of all layers.

    Parameters
    ----------
    module : torch.nn.Module
        In training mode, not compiled. Layers are torch.nn.Linear, Conv1d, Conv2d, Conv3d,
        LayerNorm, RMSNorm and Embedding at any depth; other parameters are `Recording.others`.
    skip : iterable of str or type
        Paths, as in ``module.named_modules()``, and classes of modules that are left out, with all
        that is in them.
    stack : bool, default False
        Join the rows of equal layers, with an axis more in front: one call for all of them. Names
        are then joined by "|".
    batch_axis : int, default 0
        The axis of samples in the inputs of linear layers, norms and embeddings; 1 for sequences
        (T, M, d).

    Returns
    -------
    Recording
        A context manager, which may be entered for each step.

    Raises
    ------
    TypeError
        If `module` is no module, an entry of `skip` neither a path nor a class, or `batch_axis` no
        int.
    ValueError
        Naming the path of a layer that shares its weight, is frozen, in eval mode, compiled, has a
        forward or a parametrization of its own, or is a torch.nn.MultiheadAttention, which hides
        its projections. Within the context: of one that is called twice, or reached by a backward
        pass with ``create_graph=True``.

    Notes
    -----
    Cost: inputs and output gradients of all layers are kept until the next step, without graph;
    inputs are those that autograd keeps anyway. With torch.utils.checkpoint (either kind) they are
    computed again in the backward pass, which must run inside of the context.

    Examples
    --------
    >>> import torch
    >>> import ngdla
    >>> from ngdla.adapters.torch_modules import record
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    >>> x = torch.randn(16, 4)
    >>> with record(model) as layers:
    ...     model(x).square().mean().backward()
    >>> for name, (a, g) in layers.rows(loss="mean").items():
    ...     A, G = a.T @ a / 16, g.T @ g / 16
    ...     layers.write(name, ngdla.kronecker_solve(A, G, layers.gradient(name), 1e-2))
    >>> model[0].weight.grad.shape
    torch.Size([8, 4])
    """
    if not isinstance(module, nn.Module):
        msg = f"`module` is a {type(module).__name__}; it must be a torch.nn.Module."
        raise TypeError(msg)
    require_flag(stack, "stack")
    require_count(batch_axis, "batch_axis")
    return Recording(module, left_out(module, skip), stack, batch_axis)


class Recording:
    """What passes through a module in a context; made by `record`."""

    def __init__(self, module: nn.Module, skip: set[nn.Module], stack: bool, axis: int) -> None:
        self._layers = found_layers(module, skip, axis)
        self._stacks = stacks_of(self._layers, stack)
        ours = {id(p) for layer in self._layers for p in layer.parameters()}
        self._rest = {name: p for name, p in module.named_parameters() if id(p) not in ours}
        self._hooks: list[Any] = []
        self._anchor = torch.zeros((), requires_grad=True)

    def __enter__(self) -> Recording:
        if self._hooks:
            msg = "this recording is entered already; leave it first, or make another by record()."
            raise RuntimeError(msg)
        for layer in self._layers:
            require_trained(layer)
            layer.clear()
        self._hooks = [
            # before hooks of the user, which may return what the layer did not
            layer.module.register_forward_hook(
                _hook(layer, self._anchor), prepend=True, with_kwargs=True
            )
            for layer in self._layers
        ]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the layers, or of stacks of them."""
        return iter(self._stacks)

    def __len__(self) -> int:
        return len(self._stacks)

    @property
    def others(self) -> dict[str, nn.Parameter]:
        """Parameters that no recorded layer has, unless frozen; their gradient is the plain one.

        They are those of batch norms, of what is skipped, and of modules themselves.
        """
        return {name: p for name, p in self._rest.items() if p.requires_grad}

    @property
    def embeddings(self) -> list[str]:
        """Names of the layers whose inputs are indices."""
        return [layer.name for layer in self._layers if layer.indexed]

    def backward(self, loss: torch.Tensor) -> None:
        """Go backward from a loss, without the gradients of the weights of recorded layers.

        Parameters
        ----------
        loss : torch.Tensor, shape ()
            The gradients of `others` are added up in ``.grad``, as by ``loss.backward()``.

        Notes
        -----
        This saves a third of a backward pass for steps that are not made of the mean gradient, such
        as FNGD. A penalty on the weight of a recorded layer is lost: leave it to the weight decay
        of an optimizer. Not for DistributedDataParallel, which waits for all gradients, nor for
        checkpoints with ``use_reentrant=True``.
        """
        torch.autograd.backward(loss, inputs=[self._anchor, *self.others.values()])

    def rows(
        self,
        *,
        sharing: Sharing = "expand",
        loss: Loss = "mean",
        loss_scale: float = 1.0,
        check: bool = True,
    ) -> LayerRows:
        """Return the rows of all layers, by name, see `ngdla.layer_rows`.

        Parameters
        ----------
        sharing : {"expand", "reduce", "none"}, default "expand"
            How positions become rows; "none" for functions that take ``positions=True``: (..., M,
            T, d), with T = 1 where there are no positions.
        loss : {"sum", "mean", "token-mean"}, default "mean"
            What the loss is of the losses of samples, or tokens. With several micro-batches, the
            sum of their losses: each a mean divided by their number, if all are of equal size.
        loss_scale : float, default 1.0
            What the loss was multiplied by, as by ``torch.amp.GradScaler.get_scale()``.
        check : bool, default True
            Refuse NaN and Inf: reads one flag on the host.

        Returns
        -------
        mapping of str to (a, g)
            Formed where they are asked for, anew each time, so that a loop over `items` holds those
            of one layer; not to be changed in place. Inputs with a column of ones if there is a
            bias, and output gradients of single samples, float32 or wider, detached. Of one group
            of a convolution, or of one feature of a norm, as of a layer of a stack, in front. Of an
            embedding indices (rows,) in place of inputs.

        Raises
        ------
        ValueError
            Naming the path of a layer that got no gradient, was called under ``no_grad`` alone,
            holds NaN or Inf, has another number of samples than others, or inputs that were changed
            in place since the backward pass: that is also seen when rows are formed. If
            `loss_scale` is not positive and finite.
        """
        require_choice(sharing, "sharing", SHARINGS)
        require_choice(loss, "loss", LOSSES)
        if not isinstance(loss_scale, numbers.Real | torch.Tensor):
            msg = f"`loss_scale` is {shown(loss_scale)}; it must be a number."
            raise TypeError(msg)
        if not 0 < loss_scale < math.inf:
            msg = f"`loss_scale` is {shown(loss_scale)}; it must be positive and finite."
            raise ValueError(msg)
        for layer in self._layers:
            require_received(layer)
        if check:
            require_finite(self._layers)
        if loss != "token-mean":
            require_same_samples(self._layers)
        return LayerRows(self._stacks, sharing, loss, loss_scale)

    def gradient(self, name: str) -> torch.Tensor:
        """Return the gradient of a layer's weight, (..., d_out, d_in), the bias as last column.

        Parameters
        ----------
        name : str
            Of a layer, or of a stack of them.

        Returns
        -------
        torch.Tensor
            A copy of ``weight.grad`` and ``bias.grad``. Of an embedding transposed, (d_out,
            indices); of a norm (d, 1, 2).

        Raises
        ------
        KeyError
            If no layer has this name.
        ValueError
            If there is no gradient, as after `Recording.backward`.
        """
        gradients = [layer.joined(*plain_gradients(layer)) for layer in self._of(name)]
        return gradients[0] if len(gradients) == 1 else torch.stack(gradients)

    def columns(self, name: str, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the columns of a layer's weight, and then that of its bias, if there is one.

        Parameters
        ----------
        name : str
            Of a layer, or of a stack of them.
        x : torch.Tensor, shape (..., columns)
            Inputs, as from `rows`, or a step.

        Returns
        -------
        tuple of torch.Tensor
            Views. All of `x` is one where inputs are those of no product: of an embedding, where
            nothing is checked, and of a norm with sharing="none".

        Raises
        ------
        KeyError
            If no layer has this name.
        ValueError
            If `x` has another number of columns.

        Notes
        -----
        A step of each by itself is written without a copy by ``write(..., copy=False)``, where its
        layout is that of the parameter.
        """
        layer = self._of(name)[0]
        if not isinstance(x, torch.Tensor) or x.ndim == 0:
            msg = f"`x` is {shown(x)}; it must be a torch.Tensor with an axis of columns."
            raise TypeError(msg)
        return layer.columns(x)

    def write(self, name: str, *step: torch.Tensor, copy: bool = True) -> None:
        """Write a step into ``weight.grad`` and ``bias.grad``, for an optimizer of torch.

        Parameters
        ----------
        name : str
            Of a layer, or of a stack of them.
        *step : torch.Tensor
            Of the shape of `gradient`, or of what `ngdla.weighted_gradient` returns: (1, 2 d) of a
            norm with sharing="none". Or its `columns`, one after the other.
        copy : bool, default True
            False hands `step` over: it becomes ``.grad`` itself where there is none and it lies in
            memory as the parameter does, and must not be changed any more.

        Raises
        ------
        TypeError
            If a part of the step is no tensor, or complex for a real weight.
        KeyError
            If no layer has this name.
        ValueError
            If the step has another shape, or is on another device. Nothing is written then.
        """
        require_flag(copy, "copy")
        layers = self._of(name)
        require_step(name or layers[0].path, layers, step)
        for i, layer in enumerate(layers):
            parts = layer.split(*(x[i] for x in step) if len(layers) > 1 else step)
            for p, x in zip(layer.parameters(), parts):
                set_gradient(p, x.detach(), copy)

    def _of(self, name: str) -> list[Layer]:
        try:
            return self._stacks[name]
        except (KeyError, TypeError):
            raise unknown_name(name, self._stacks) from None


# ------------------------------------------------------------------------- what is recorded


def _hook(layer: Layer, anchor: torch.Tensor) -> Callable[..., Any]:
    """Return the forward hook that puts a tap behind a layer."""

    def hook(
        module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], output: torch.Tensor
    ) -> Any:
        if module is not layer.module:  # a copy that was made within the context
            return None
        if not torch.is_grad_enabled():
            layer.called_without_gradient = True
            return None
        if not in_backward():  # where a checkpoint is computed again
            if layer.waiting:
                msg = (
                    f"`{layer.path}` is called twice before a backward pass: its gradient is a sum "
                    f"over both calls, and so are no rows. Call it once, evaluate under "
                    f"torch.no_grad(), or leave it out by skip=[{layer.name!r}]."
                )
                raise ValueError(msg)
            layer.waiting = True
        (inputs,) = (*arguments, *named.values())
        return tapped(output, inputs, anchor, layer.receiver())

    return hook
