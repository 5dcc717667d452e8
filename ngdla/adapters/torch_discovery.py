"""Finding the layers of a module of torch, and saying why one of them cannot be recorded."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from ngdla._backend.messages import shown

from .torch_layers import KINDS, Layer

__all__ = ["Skip", "found_layers", "left_out", "require_trained", "stacks_of"]

Skip = Iterable[str | type[nn.Module]]


def left_out(module: nn.Module, skip: Skip) -> set[nn.Module]:
    """Return the modules that are named, or are of these classes, with all that is in them."""
    if isinstance(skip, (str, type)) or not isinstance(skip, Iterable):
        msg = f"`skip` is {shown(skip)}; it must be a list of paths and classes of modules."
        raise TypeError(msg)
    named = dict(module.named_modules())
    found: set[nn.Module] = set()
    for entry in skip:
        if isinstance(entry, type) and issubclass(entry, nn.Module):
            some = [one for one in named.values() if isinstance(one, entry)]
        elif isinstance(entry, str):
            if entry not in named:
                msg = f"`skip` has {shown(entry)}, which is no path in model.named_modules()."
                raise ValueError(msg)
            some = [named[entry]]
        else:
            msg = f"`skip` has {shown(entry)}; it must be a path or a class of modules."
            raise TypeError(msg)
        found.update(inner for one in some for inner in one.modules())
    return found


def found_layers(module: nn.Module, skip: set[nn.Module], batch_axis: int) -> list[Layer]:
    """Return the layers of a module in the order of their definition."""
    layers = []
    for name, one in module.named_modules():
        _require_not_compiled(name, one)
        if one not in skip and (layer := _layer_of(name, one, batch_axis)) is not None:
            layers.append(layer)
    if not layers:
        msg = f"`module` is a {type(module).__name__} without layers to record."
        raise ValueError(msg)
    _require_own_parameters(module, layers)
    return layers


def stacks_of(layers: list[Layer], stack: bool) -> dict[str, list[Layer]]:
    """Return layers by name; with `stack` those of one kind and shape together."""
    if not stack:
        return {layer.name: [layer] for layer in layers}
    kinds: dict[tuple[object, ...], list[Layer]] = {}
    for layer in layers:
        # an embedding has no rows that could be joined in a product
        alone = layer.name if layer.indexed else ""
        kind = (type(layer.module), layer.shape, layer.bias, alone)
        kinds.setdefault(kind, []).append(layer)
    return {"|".join(layer.name for layer in equal): equal for equal in kinds.values()}


def require_trained(layer: Layer) -> None:
    """Raise unless a layer is in training mode and all its parameters get gradients."""
    reason = ""
    if not layer.module.training:
        reason = "is in eval mode; call model.train()"
    elif not all(p.requires_grad for p in layer.parameters()):
        reason = "is frozen: a parameter of it has requires_grad=False; set it"
    if reason:
        raise _refused(layer.name, layer.module, reason)


def _layer_of(name: str, module: nn.Module, batch_axis: int) -> Layer | None:
    """Return a module as a layer; None if it is of no kind that has rows, or has no weight."""
    if isinstance(module, nn.MultiheadAttention):
        reason = (
            "is a torch.nn.MultiheadAttention, which multiplies by in_proj_weight and out_proj "
            "without calling a module; write the attention with four torch.nn.Linear and "
            "torch.nn.functional.scaled_dot_product_attention"
        )
        raise _refused(name, module, reason, "torch.nn.MultiheadAttention")
    for base, kind in KINDS.items():
        if isinstance(module, base):
            if getattr(module, "weight", None) is None:
                return None
            _require_plain(name, module, base)
            return kind(name, module, batch_axis)
    return None


def _require_plain(name: str, module: nn.Module, base: type[nn.Module]) -> None:
    """Raise if a module is not the plain layer that its rows would be of."""
    reason = ""
    if type(module).forward is not base.forward or "forward" in vars(module):
        reason = f"has a forward of its own, not that of torch.nn.{base.__name__}"
    elif "weight" not in module._parameters:
        reason = "computes its weight, as by torch.nn.utils.parametrize"
    elif isinstance(module.weight, nn.parameter.UninitializedParameter):
        reason = "has no weight yet; call the model once"
    elif isinstance(module, nn.Embedding) and (
        module.sparse or module.scale_grad_by_freq or module.max_norm is not None
    ):
        reason = "is an embedding with sparse, scale_grad_by_freq or max_norm"
    if reason:
        raise _refused(name, module, reason)


def _require_not_compiled(name: str, module: nn.Module) -> None:
    """Raise if a module is compiled, since hooks would not be called, or be compiled."""
    compiled = isinstance(module, torch._dynamo.OptimizedModule)
    if compiled or module._compiled_call_impl is not None:
        msg = (
            f"`{name or type(module).__name__}` is compiled by torch.compile: record the module "
            f"before it is compiled, and call that one."
        )
        raise ValueError(msg)


def _require_own_parameters(module: nn.Module, layers: list[Layer]) -> None:
    """Raise if a parameter of a layer belongs to another module too."""
    owners: dict[int, list[str]] = {}
    for name, one in module.named_modules():
        for p in one._parameters.values():
            owners.setdefault(id(p), []).append(name)
    for layer in layers:
        for p in layer.parameters():
            if len(names := owners[id(p)]) > 1:
                both = " and ".join(f"`{name or type(module).__name__}`" for name in names)
                msg = (
                    f"{both} share a parameter, whose gradient is a sum over both: leave them out "
                    f"by skip={names!r}, or give each its own."
                )
                raise ValueError(msg)


def _refused(name: str, module: nn.Module, reason: str, skipped: str = "") -> Exception:
    """Return the error of a layer that cannot be recorded, with the way to do without it."""
    if not name:  # nothing would be left
        return ValueError(f"`{type(module).__name__}` {reason}.")
    return ValueError(f"`{name}` {reason}, or leave it out by skip=[{skipped or repr(name)}].")
