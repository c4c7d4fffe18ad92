"""Orthogonalises stacks of matrices: all singular values brought near 1 with matrix products alone.

Shapes: k matrices in a stack, m rows, n >= m columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from motley.optim.polar import QUINTIC, Coefficients, polar_coefficients
from motley.optim.products import prefers_gram
from motley.recipe import OptimizerConfig

LEAST_NORM = 1e-7
"""What a smaller norm counts as, so that a momentum of zeros stays zero."""
LEAST_SCALE = 1e-3
"""Of a normed matrix the scale below is at least rank^(-3/8): more than this for any rank."""


def orthogonalise(stack_kmn: Tensor, config: OptimizerConfig, dtype: torch.dtype) -> Tensor:
    """The matrices with their singular values brought near 1, in fp32; any orientation.

    Products are computed in `dtype`. Each result depends on its own matrix alone.
    """
    is_tall = stack_kmn.shape[-2] > stack_kmn.shape[-1]
    x_kmn = stack_kmn.mT if is_tall else stack_kmn
    norm_k11 = torch.linalg.matrix_norm(x_kmn, keepdim=True).clamp_(min=LEAST_NORM)
    x_kmn = (x_kmn / norm_k11).to(dtype)
    rows, columns = x_kmn.shape[-2:]
    if config.orthogonal_coefficients == "quintic":
        polynomials = (Coefficients(*QUINTIC),) * config.orthogonal_iterations
        is_scaled = False
    else:
        polynomials, is_scaled = polar_coefficients(config.orthogonal_iterations), True
    if prefers_gram(rows, columns, len(polynomials), dtype.itemsize):
        x_kmn = _through_gram(x_kmn, polynomials, is_scaled=is_scaled)
    else:
        x_kmn = _directly(x_kmn, polynomials, is_scaled=is_scaled)
    return (x_kmn.mT if is_tall else x_kmn).float()


def _scale(square_kmm: Tensor) -> Tensor:
    """A bound on the largest singular value of x from (xx')^2: (sum of their eighth powers)^(1/8).

    It costs no product and is much tighter than the Frobenius norm, so that an iteration less does.
    """
    norm_k11 = torch.linalg.matrix_norm(square_kmm.float(), keepdim=True)
    scale_k11: Tensor = norm_k11.sqrt().sqrt_().clamp_(min=LEAST_SCALE)
    return scale_k11.to(square_kmm.dtype)


def _directly(x_kmn: Tensor, polynomials: tuple[Coefficients, ...], *, is_scaled: bool) -> Tensor:
    """Three products for each polynomial."""
    for number, (a, b, c) in enumerate(polynomials):
        gram_kmm = x_kmn @ x_kmn.mT
        square_kmm = gram_kmm @ gram_kmm
        if is_scaled and number == 0:
            scale_k11 = _scale(square_kmm)
            x_kmn = x_kmn / scale_k11
            gram_kmm /= scale_k11**2
            square_kmm /= scale_k11**4
        factor_kmm = gram_kmm.mul_(b).add_(square_kmm, alpha=c)
        x_kmn = torch.baddbmm(x_kmn, factor_kmm, x_kmn, beta=a)
    return x_kmn


def _through_gram(
    x_kmn: Tensor, polynomials: tuple[Coefficients, ...], *, is_scaled: bool
) -> Tensor:
    """The same on the small square xx' alone: every factor is a polynomial in it, so all commute.

    Needs fp32: xx' squares the singular values.
    """
    gram_kmm, product_kmm = x_kmn @ x_kmn.mT, None
    for number, (a, b, c) in enumerate(polynomials):
        square_kmm = gram_kmm @ gram_kmm
        if is_scaled and number == 0:
            scale_k11 = _scale(square_kmm)
            x_kmn = x_kmn / scale_k11
            gram_kmm /= scale_k11**2
            square_kmm /= scale_k11**4
        factor_kmm = square_kmm.mul_(c).add_(gram_kmm, alpha=b)
        factor_kmm.diagonal(dim1=-2, dim2=-1).add_(a)
        product_kmm = factor_kmm if product_kmm is None else factor_kmm @ product_kmm
        if number < len(polynomials) - 1:
            gram_kmm = factor_kmm @ (factor_kmm @ gram_kmm)
    assert product_kmm is not None
    return product_kmm @ x_kmn
