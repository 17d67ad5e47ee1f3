"""The tensor regression layer: a fully connected layer whose weight is a low-rank tensor."""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor, nn

from tensorrl.errors import InputError
from tensorrl.networks.contraction import Plan, contract
from tensorrl.networks.factorizations import Factors, decompose, factor_shapes, initial_factors, plan_layer, reconstruct
from tensorrl.networks.planning import CPU, CUDA
from tensorrl.networks.ranks import Rank, resolve_rank
from tensorrl.networks.shapes import LayerShape, Shape, as_shape, coefficients_of

_PLANNED_BATCHES = (1, 8, 32, 128, 1024)
_EXPORTED_BATCH = 32


class TensorRegression(nn.Module):
    """y = ⟨X, W⟩ + b over all input modes, with W in Tucker, CP or tensor-train form (Kossaifi et al. 2020, section 3).

    The input's modes are kept: for the activation of a convolution, pass it as it is, not flattened. The weight is
    never built unless that is the cheapest way: the order of contraction is planned once, for a few batch sizes, by a
    cost model (`tensorrl.networks.planning`).

    Shape:
        input (..., *in_shape) → output (..., *out_shape), for any leading dimensions, in float32, float64 or bfloat16.

    Attributes:
        in_shape: sizes of the input modes.
        out_shape: sizes of the output modes.
        factorization: `tucker`, `cp` or `tt`.
        rank: tuple; one rank per mode (`tucker`), the number of terms (`cp`), one rank per bond (`tt`).
        core: Tucker core of shape `rank`; None for `cp` and `tt`.
        factors: one parameter per mode, input modes first. `tucker`: (d_k, R_k); `cp`: (d_k, R), without separate
            weights per term; `tt`: (r_{k-1}, d_k, r_k) with r_0 = r_K = 1.
        bias: of shape `out_shape`, or None.

    Example:
        >>> layer = TensorRegression((64, 3, 3), (256,), rank=(20, 3, 3, 64))
        >>> layer(torch.zeros(32, 64, 3, 3)).shape
        torch.Size([32, 256])
        >>> layer.coefficients
        29458
    """

    core: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        *,
        factorization: str = "tucker",
        rank: Rank,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Makes the layer and draws its initial values.

        Args:
            in_shape: sizes of the input modes, each at least 1, whole numbers of any type (NumPy's too).
            out_shape: sizes of the output modes, likewise.
            factorization: `tucker`, `cp` or `tt`.
            rank: a whole number, a sequence of them, a fraction in (0, 1] of the dense layer's coefficients, or
                `"full"` (see `tensorrl.networks.ranks.resolve_rank`).
            bias: whether to add a learned bias.
            device: where the parameters live.
            dtype: their type; PyTorch's default if None.
            generator: CPU generator for the initial values; the global one if None.

        Raises:
            InputError: for a bad shape, factorization or rank.
        """
        super().__init__()
        self.in_shape, self.out_shape = as_shape("in_shape", in_shape), as_shape("out_shape", out_shape)
        self.factorization = factorization
        self.rank = resolve_rank(rank, self.in_shape, self.out_shape, factorization, bias=bias)
        shapes = factor_shapes((*self.in_shape, *self.out_shape), factorization, self.rank)

        def parameter(shape: Shape) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

        self.register_parameter("core", parameter(self.rank) if factorization == "tucker" else None)
        self._factor_names = tuple(f"factor_{k}" for k in range(len(shapes)))
        for name, shape in zip(self._factor_names, shapes, strict=True):
            self.register_parameter(name, parameter(shape))
        self.register_parameter("bias", parameter(self.out_shape) if bias else None)
        self._plans: dict[tuple[int, bool], Plan] = {}
        self._held: Tensor | None = None
        self.reset_parameters(generator)

    @classmethod
    def from_weight(
        cls,
        weight: Tensor,
        in_shape: Shape,
        out_shape: Shape,
        *,
        factorization: str = "tucker",
        rank: Rank,
        bias: Tensor | None = None,
    ) -> Self:
        """Makes the layer whose weight approximates a given one, by truncated decomposition with TensorLy.

        Args:
            weight: of shape (*in_shape, *out_shape); the layer takes over its device and type.
            in_shape: sizes of the input modes.
            out_shape: sizes of the output modes.
            factorization: `tucker`, `cp` or `tt`.
            rank: as for the constructor; `"full"` reproduces the weight.
            bias: of shape `out_shape` (or flattened), or None for a layer without.

        Raises:
            InputError: for a weight or bias of another shape, or a bad shape, factorization or rank.
        """
        in_shape, out_shape = as_shape("in_shape", in_shape), as_shape("out_shape", out_shape)
        if tuple(weight.shape) != (*in_shape, *out_shape):
            raise InputError(f"weight: shape {tuple(weight.shape)} is not in_shape + out_shape, {in_shape + out_shape}")
        if bias is not None and bias.numel() != math.prod(out_shape):
            raise InputError(f"bias: shape {tuple(bias.shape)} does not match out_shape {out_shape}")
        layer = cls(
            in_shape,
            out_shape,
            factorization=factorization,
            rank=rank,
            bias=bias is not None,
            device=weight.device,
            dtype=weight.dtype,
            # The drawn values are replaced: they must not advance the caller's random numbers.
            generator=torch.Generator(),
        )
        layer._assign(decompose(weight, factorization, layer.rank))
        if layer.bias is not None and bias is not None:
            with torch.no_grad():
                layer.bias.copy_(bias.reshape(out_shape))
        return layer

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        in_shape: Shape | None = None,
        out_shape: Shape | None = None,
        *,
        factorization: str = "tucker",
        rank: Rank,
    ) -> Self:
        """Makes the layer that approximates a dense one (see `from_weight`).

        Args:
            linear: the dense layer; its inputs and outputs are the modes flattened in order, the last fastest.
            in_shape: sizes of the input modes; one mode if None.
            out_shape: sizes of the output modes; one mode if None.
            factorization: `tucker`, `cp` or `tt`.
            rank: as for the constructor.

        Raises:
            InputError: for shapes that do not multiply to the layer's features, or a bad factorization or rank.
        """
        in_shape, out_shape = in_shape or (linear.in_features,), out_shape or (linear.out_features,)
        for label, shape, features in (
            ("in_shape", in_shape, linear.in_features),
            ("out_shape", out_shape, linear.out_features),
        ):
            if math.prod(shape) != features:
                raise InputError(f"{label}: {tuple(shape)} does not multiply to the linear layer's {features} features")
        weight = linear.weight.t().reshape(*in_shape, *out_shape)
        return cls.from_weight(weight, in_shape, out_shape, factorization=factorization, rank=rank, bias=linear.bias)

    @property
    def factors(self) -> tuple[nn.Parameter, ...]:
        """One parameter per mode, input modes first."""
        return tuple(getattr(self, name) for name in self._factor_names)

    @property
    def weight(self) -> Tensor:
        """The reconstructed weight, of shape (*in_shape, *out_shape), differentiable."""
        return reconstruct(Factors(self.core, self.factors), self.factorization)

    @property
    def coefficients(self) -> int:
        """Learned scalars, bias included."""
        return coefficients_of(self.in_shape, self.out_shape, self.factorization, self.rank, self.bias is not None)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws new values: the weight's mean square becomes 1/(3·fan_in), as of PyTorch's dense layer, at any rank.

        Args:
            generator: CPU generator; the global one if None. The values do not depend on the layer's device.
        """
        dims, fan_in = (*self.in_shape, *self.out_shape), math.prod(self.in_shape)
        self._assign(initial_factors(dims, self.factorization, self.rank, 1 / (3 * fan_in), generator=generator))
        if self.bias is not None:
            values = torch.rand(self.out_shape, dtype=torch.float64, generator=generator)
            with torch.no_grad():
                self.bias.copy_((2 * values - 1) / math.sqrt(fan_in))

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer.

        Args:
            x: (..., *in_shape).

        Returns:
            (..., *out_shape).

        Raises:
            InputError: if the trailing sizes are not `in_shape`.
        """
        modes = len(self.in_shape)
        leading = x.shape[: x.dim() - modes]
        if x.dim() < modes or x.shape[len(leading) :] != self.in_shape:
            raise InputError(f"input: shape {tuple(x.shape)} does not end in {self.in_shape}, the layer's in_shape")
        if len(leading) != 1:
            x = x.reshape(-1, *self.in_shape)
        bias: Tensor | None = self.bias
        if bias is not None and bias.dim() != 1:
            bias = bias.reshape(-1)
        if self._held is not None and not torch.is_grad_enabled():
            rows = x.reshape(len(x), -1)
            held = rows @ self._held if bias is None else torch.addmm(bias, rows, self._held)
            return held.reshape(*leading, *self.out_shape)
        operands = (x, *self.factors) if self.core is None else (x, self.core, *self.factors)
        out = contract(self._plan(x.shape[0], x.is_cuda), operands, bias)
        return out if len(leading) == 1 and len(self.out_shape) == 1 else out.reshape(*leading, *self.out_shape)

    @torch.no_grad()
    def hold_weight(self) -> None:
        """Builds the weight now; passes without a gradient use it until the next call.

        For a layer that changes seldom where one large product is cheaper than several small ones, such as a target
        network's on a GPU. The memory stays in place, for CUDA graphs.
        """
        weight = self.weight.reshape(math.prod(self.in_shape), -1)
        self._held = weight.clone() if self._held is None else self._held.copy_(weight)

    def extra_repr(self) -> str:
        """Shapes, rank and size, for `repr`."""
        dense = LayerShape("", self.in_shape, self.out_shape, self.bias is not None).dense_coefficients
        return (
            f"{self.in_shape} -> {self.out_shape}, {self.factorization}, rank={self.rank}, "
            f"bias={self.bias is not None}, coefficients={self.coefficients} ({dense / self.coefficients:.3g}x fewer)"
        )

    def _plan(self, batch: int, cuda: bool) -> Plan:
        exporting = torch.compiler.is_exporting()
        # An exported model must work for any batch, so it must not use this batch's size.
        expected = _EXPORTED_BATCH if exporting else _PLANNED_BATCHES[-1]
        if not exporting:
            for size in reversed(_PLANNED_BATCHES):
                if batch <= size:
                    expected = size
        plan = self._plans.get((expected, cuda))
        if plan is None:
            plan = _planned(self.in_shape, self.out_shape, self.factorization, self.rank, expected, cuda)
            if not exporting:
                self._plans[expected, cuda] = plan
        return plan

    def _assign(self, tensors: Factors) -> None:
        with torch.no_grad():
            if self.core is not None and tensors.core is not None:
                self.core.copy_(tensors.core)
            for parameter, values in zip(self.factors, tensors.factors, strict=True):
                parameter.copy_(values)


# Planning is plain arithmetic on shapes: a compiler takes its result as it is instead of tracing the search.
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _planned(in_shape: Shape, out_shape: Shape, factorization: str, rank: Shape, batch: int, cuda: bool) -> Plan:
    return plan_layer(in_shape, out_shape, factorization, rank, batch=batch, costs=CUDA if cuda else CPU)
