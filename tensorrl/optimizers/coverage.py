"""Which parameters a curvature block optimises, and which the fallback."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tensorrl.errors import InputError, unknown
from tensorrl.optimizers.blocks import Block, LayerCurvature, NoBlockError, layer_curvature
from tensorrl.optimizers.flat import FlatBlocks
from tensorrl.optimizers.grafting import AdamLength

Fallback = str | Callable[[list[nn.Parameter]], Optimizer]

FALLBACKS: dict[str, Callable[[list[nn.Parameter]], Optimizer]] = {
    "adam": partial(torch.optim.Adam, lr=1e-3),
    "sgd": partial(torch.optim.SGD, lr=1e-3),
}


def find_layers(module: nn.Module) -> tuple[dict[nn.Module, LayerCurvature], dict[nn.Parameter, str]]:
    """Finds the curvature of every layer of a module that has one and any trained parameter.

    Returns:
        Curvature by layer; and the reasons why parameters of similar layers have none.
    """
    found: dict[nn.Module, LayerCurvature] = {}
    reasons: dict[nn.Parameter, str] = {}
    # Attention works on the weights of its projection without calling it.
    uncalled = {
        part for layer in module.modules() if isinstance(layer, nn.MultiheadAttention) for part in layer.children()
    }
    for name, layer in module.named_modules():
        try:
            if layer in uncalled:
                raise NoBlockError("attention uses it without calling it")
            curvature = layer_curvature(name or "module", layer)
        except NoBlockError as reason:
            reasons |= dict.fromkeys(layer.parameters(), str(reason))
            continue
        if curvature is not None and curvature.blocks:
            found[layer] = curvature
    return found, reasons


def parameter_groups(module: nn.Module, groups: Iterable[dict[str, Any]] | None) -> list[dict[str, Any]]:
    """Returns parameter groups, each with a list of trained parameters of the module."""
    if groups is None:
        groups = [{"params": list(module.parameters())}]
    own = set(module.parameters())
    checked = []
    for number, group in enumerate(groups):
        listed = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
        if any(p not in own for p in listed):
            raise InputError(f"groups[{number}]: holds a parameter that the module does not have")
        checked.append({**group, "params": [p for p in listed if p.requires_grad]})
    if not any(group["params"] for group in checked):
        raise InputError("module: has no parameter that requires a gradient")
    return checked


def lay_out(
    module: nn.Module,
    layers: Iterable[LayerCurvature],
    groups: list[dict[str, Any]],
    *,
    graft: AdamLength | None = None,
    eigenbasis: bool = False,
    dense: bool | None = None,
) -> tuple[list[FlatBlocks], list[nn.Parameter]]:
    """Lays out the blocks of the groups' parameters and lists the parameters that no block covers.

    See `FlatBlocks` for `graft`, `eigenbasis` and `dense`.

    Raises:
        InputError: two blocks share a parameter, or one block's parameters are in different groups.
    """
    names = {parameter: name for name, parameter in module.named_parameters()}
    group_of = {p: number for number, group in enumerate(groups) for p in group["params"]}
    covered: dict[nn.Parameter, Block] = {}
    by_place: dict[tuple[int, torch.dtype, torch.device], list[Block]] = {}
    for block in (block for layer in layers for block in layer.blocks):
        places = {group_of.get(p) for p in block.parameters}
        if len(places) > 1:
            raise InputError(f"groups: weight and bias of {block.name} are in different groups, they share a block")
        number = places.pop()
        if number is None:
            continue
        for parameter in block.parameters:
            if parameter in covered:
                raise InputError(
                    f"{names[parameter]}: shared by {covered[parameter].name} and {block.name}, which has no block"
                )
            covered[parameter] = block
        dtype = torch.promote_types(block.weight.dtype, torch.float32)
        by_place.setdefault((number, dtype, block.weight.device), []).append(block)
    flats = [
        FlatBlocks(number, blocks, dtype, device, graft=graft, eigenbasis=eigenbasis, dense=dense)
        for (number, dtype, device), blocks in _sorted_places(by_place)
    ]
    return flats, [p for p in group_of if p not in covered]


def _sorted_places(
    by_place: dict[tuple[int, torch.dtype, torch.device], list[Block]],
) -> list[tuple[tuple[int, torch.dtype, torch.device], list[Block]]]:
    """Orders blocks by their group, so that the layout depends on nothing else."""
    return sorted(by_place.items(), key=lambda item: item[0][0])


def make_fallback(
    module: nn.Module,
    uncovered: list[nn.Parameter],
    fallback: Fallback | None,
    reasons: Mapping[nn.Parameter, str],
) -> Optimizer | None:
    """Returns the optimizer of the parameters without a block, None if there are none.

    Raises:
        InputError: there are some, and no fallback.
    """
    if isinstance(fallback, str) and fallback not in FALLBACKS:
        raise unknown("fallback", fallback, FALLBACKS)
    if not uncovered:
        return None
    if fallback is None:
        names = [name for name, p in module.named_parameters() if any(p is u for u in uncovered)]
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        known = ", ".join(sorted({reasons[p] for p in uncovered if p in reasons}))
        raise InputError(
            f"{shown}: no curvature block covers this{f' ({known})' if known else ''}; "
            "name a fallback (adam, sgd or a function), or freeze it"
        )
    return (FALLBACKS[fallback] if isinstance(fallback, str) else fallback)(uncovered)
