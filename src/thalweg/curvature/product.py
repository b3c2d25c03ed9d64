"""Products of the Hessian, or of the Gauss-Newton matrix, with vectors: one graph, used again.

The gradient is taken once with its own graph. A product is then one pass back through that graph:
the gradient of <g, v>, which is Hv.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, overload

import torch
from torch import Tensor, nn

from thalweg import layout
from thalweg.curvature.graphs import back, check_function, computed, slopes, taken
from thalweg.errors import ThalwegError, brief


class Product:
    """A symmetric matrix that is known by its products with vectors.

    Called with one tensor per parameter, or with all their entries in one vector, (D,), it returns
    the product in the same form.

    Args:
        parameters: What the matrix is over.
        group: Ranks over which products are averaged, each having a loss of its own.

    Attributes:
        parameters: The same, as a tuple.
        loss: The loss at the parameters.
        gradient: Its gradient, one tensor per parameter, without a graph.
        count: How many products were taken.
    """

    def __init__(self, parameters: Sequence[Tensor], group: Any = None) -> None:
        self.parameters = _checked(parameters)
        self.loss = float("nan")
        self.gradient: list[Tensor] = []
        self.count = 0
        self._group = group
        self._sizes = [p.numel() for p in self.parameters]
        self._places = [(p.data_ptr(), p._version) for p in self.parameters]

    @property
    def size(self) -> int:
        """How many entries the parameters have together, D."""
        return sum(self._sizes)

    @overload
    def __call__(self, vector: Tensor) -> Tensor: ...
    @overload
    def __call__(self, vector: Sequence[Tensor]) -> list[Tensor]: ...
    def __call__(self, vector: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor]:
        """Return the product with a vector.

        Raises:
            ThalwegError: If the vector does not fit the parameters, or if they have changed since
                the loss was taken. What is written through ``.data`` is not seen.
        """
        self._check()
        if isinstance(vector, Tensor):
            parts = self.like(vector)
        elif isinstance(vector, Sequence) and all(isinstance(v, Tensor) for v in vector):
            parts = list(vector)
        else:
            raise ThalwegError(
                f"the vector must be a tensor of {self.size} entries, or a list of one tensor per "
                f"parameter, got {brief(vector)}"
            )
        if [v.shape for v in parts] != [p.shape for p in self.parameters]:
            raise ThalwegError(
                f"the vector must have the shapes of the {len(self.parameters)} parameters, got "
                f"{[tuple(v.shape) for v in parts]}"
            )
        kind, like = {(v.dtype, v.device) for v in parts}, self.parameters[0]
        if kind != {(like.dtype, like.device)}:
            raise ThalwegError(
                f"the vector must be {like.dtype} on {like.device}, as the parameters are, got "
                f"{', '.join(sorted(f'{dtype} on {device}' for dtype, device in kind))}: turn it "
                "with vector.to(...)"
            )
        self.count += 1
        found = self._joined(self._multiply(parts))
        return flat(found) if isinstance(vector, Tensor) else found

    def like(self, vector: Tensor) -> list[Tensor]:
        """Return the entries of one vector, (D,), in the shapes of the parameters."""
        if vector.shape != (self.size,):
            raise ThalwegError(
                f"the vector must have the {self.size} entries of the parameters, in one "
                f"dimension, got the shape {tuple(vector.shape)}"
            )
        parts = torch.split(vector, self._sizes)
        return [v.view(p.shape) for v, p in zip(parts, self.parameters, strict=True)]

    def _multiply(self, vector: list[Tensor]) -> list[Tensor]:
        raise NotImplementedError

    def _joined(self, parts: list[Tensor]) -> list[Tensor]:
        """What the ranks have together: the mean, where each has one loss."""
        ranks = 1 if self._group is None else torch.distributed.get_world_size(self._group)
        return parts if ranks == 1 else [part / ranks for part in summed(parts, self._group)]

    def _taken(self, loss: Tensor, gradient: Sequence[Tensor]) -> None:
        """Keep the loss and the gradient, of all ranks together."""
        found = self._joined([loss.detach().double(), *(g.detach() for g in gradient)])
        self.loss, self.gradient = float(found[0]), found[1:]

    def _check(self) -> None:
        if self._places != [(p.data_ptr(), p._version) for p in self.parameters]:
            raise ThalwegError(
                "the parameters must be those at which the loss was taken, but they were written "
                "to since, by a step or by SAM's move: build the product anew where it is used"
            )


class OneGraph(Product):
    """The product with the Hessian of one loss; see :func:`hessian_vector_product`."""

    def __init__(
        self, loss: Callable[[], Tensor] | Tensor, parameters: Sequence[Tensor], group: Any = None
    ) -> None:
        super().__init__(parameters, group)
        value = taken(loss)
        self._graph = slopes(value, self.parameters)
        self._taken(value, self._graph)

    def _multiply(self, vector: list[Tensor]) -> list[Tensor]:
        return back(self._graph, self.parameters, vector)


class GaussNewton(Product):
    """The product with JᵀBJ; see :func:`gauss_newton_vector_product`."""

    def __init__(
        self,
        outputs: Callable[[], Tensor],
        loss: Callable[[Tensor], Tensor],
        parameters: Sequence[Tensor],
        group: Any = None,
    ) -> None:
        super().__init__(parameters, group)
        check_function("loss", loss, "outputs")
        self._outputs = found = computed("outputs", outputs)
        leaf = found.detach().requires_grad_()
        value = taken(lambda: loss(leaf))
        (self._slope,) = slopes(value, [leaf])
        self._leaf = leaf
        # Jᵀu is linear in u: its derivative along v, taken at any u, is Jv.
        self._any = torch.zeros_like(leaf).requires_grad_()
        pulled = torch.autograd.grad(
            found, self.parameters, self._any, create_graph=True, materialize_grads=True
        )
        self._pulled = pulled
        gradient = back([found], self.parameters, [self._slope.detach()])
        self._taken(value, gradient)

    def _multiply(self, vector: list[Tensor]) -> list[Tensor]:
        (pushed,) = back(self._pulled, [self._any], vector)
        (bent,) = back([self._slope], [self._leaf], [pushed])
        return back([self._outputs], self.parameters, [bent])


def hessian_vector_product(
    loss: Callable[[], Tensor] | Tensor, parameters: Sequence[Tensor], *, group: Any = None
) -> Product:
    """Return the product with the Hessian of a loss, at the parameters as they are now.

    The graph is built once, here, and lives as long as the product. ``.grad`` is not touched. What
    the forward leaves behind (running statistics, random numbers drawn) is the caller's: see
    :func:`frozen`, and :func:`over` for a whole data set.

    Args:
        loss: A function of nothing that returns the loss, zero-dimensional; or the loss itself,
            with its graph. Attention needs the function: its fast kernels have no second
            derivative, and others are chosen while it runs.
        parameters: With respect to which, each once; float32 or float64, and whole (not DTensors).
        group: Ranks over which losses are averaged, such as ``torch.distributed.group.WORLD``; all
            of them must call.

    Returns:
        A :class:`Product`.

    Raises:
        ThalwegError: If the loss is no number, does not depend on any parameter, or has no second
            derivative; or if parameters do not fit. When called, as :class:`Product`.

    Example:
        >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> product = hessian_vector_product(lambda: (w**4).sum() / 12, [w])
        >>> product([torch.tensor([1.0, 1.0])])
        [tensor([1., 4.])]
    """
    return OneGraph(loss, parameters, group)


def gauss_newton_vector_product(
    outputs: Callable[[], Tensor],
    loss: Callable[[Tensor], Tensor],
    parameters: Sequence[Tensor],
    *,
    group: Any = None,
) -> Product:
    """Return the product with the Gauss-Newton matrix JᵀBJ.

    J is the derivative of the outputs by the parameters, B the Hessian of the loss by the outputs.

    Args:
        outputs: A function of nothing that returns the outputs of the model.
        loss: A function of the outputs that returns the loss, zero-dimensional.
        parameters: With respect to which.
        group: As for :func:`hessian_vector_product`.

    Returns:
        A :class:`Product`.

    Raises:
        ThalwegError: As :func:`hessian_vector_product`.

    Example:
        >>> w = torch.tensor([2.0], requires_grad=True)
        >>> product = gauss_newton_vector_product(lambda: w**2, lambda y: (y**2).sum() / 2, [w])
        >>> product([torch.tensor([1.0])])  # the Hessian of w⁴/2 is 6w² = 24
        [tensor([16.])]
    """
    return GaussNewton(outputs, loss, parameters, group)


def flat(parts: Sequence[Tensor]) -> Tensor:
    """Return the entries of all the tensors in one vector.

    Args:
        parts: Tensors of one dtype and device.

    Example:
        >>> flat([torch.zeros(1, 2), torch.ones(1)])
        tensor([0., 0., 1.])
    """
    return torch.cat([part.reshape(-1) for part in parts])


def summed(parts: list[Tensor], group: Any) -> list[Tensor]:
    """Return tensors summed over the ranks of a group; as they are where there is none.

    Args:
        parts: Of the same shapes on every rank.
        group: The ranks, or ``None``.
    """
    if group is None:
        return parts
    found = [part.detach().clone() for part in parts]
    for total in found:
        torch.distributed.all_reduce(total, group=group)
    return found


def _checked(parameters: Sequence[Tensor]) -> tuple[Tensor, ...]:
    whole = isinstance(parameters, nn.Module | Tensor) or not isinstance(parameters, Iterable)
    listed = [] if whole else list(parameters)
    if whole or not all(isinstance(p, Tensor) for p in listed):
        kind = type(parameters).__name__
        raise ThalwegError(
            f"parameters must be a list of tensors, got {kind}: pass list(model.parameters())"
        )
    found = tuple(p for p in listed if p.requires_grad)
    if not found:
        raise ThalwegError(
            "parameters must hold a tensor that requires a gradient, got none: pass "
            "list(model.parameters())"
        )
    if any(map(layout.is_sharded, found)):
        raise ThalwegError(
            "parameters must be whole, got sharded ones (DTensor), through which nothing can be "
            "derived twice: gather the model on one rank (get_model_state_dict with "
            "full_state_dict=True), load it into an unsharded copy, and measure that"
        )
    if len(set(found)) < len(found):
        raise ThalwegError(
            "parameters must be different tensors, got one of them twice: pass "
            "list(model.parameters()), which has shared ones once"
        )
    devices = sorted({str(p.device) for p in found})
    if len(devices) > 1:
        raise ThalwegError(
            f"parameters must be on one device, got {', '.join(devices)}: measure a copy of the "
            "model on one device"
        )
    dtypes = {p.dtype for p in found}
    if len(dtypes) > 1 or dtypes.isdisjoint({torch.float32, torch.float64}):
        raise ThalwegError(
            "parameters must all be float32 or all be float64, as curvature is lost in 16 bits, "
            f"got {', '.join(sorted(map(str, dtypes)))}: measure a copy of the model, with "
            "dtype=torch.float32 where that is an argument, else with model.float()"
        )
    return found
