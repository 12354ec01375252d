"""TopV: rank visual tokens by optimal transport, without any attention.

The papers give the cost; the marginals, the relaxation, the constants and the importance are our choice.
Letters: B samples, M visual tokens to choose from, D width.
"""

from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from pruners.rankers.base import Ranker, RankingInputs, Signal


class TopvRanker(Ranker):
    """C = alpha Cf + beta Cs + gamma Ce, from the tokens entering a layer to the same at its MLP's input."""

    signal: ClassVar[Signal] = "features"

    type: Literal["topv"] = "topv"
    #: weight of the squared L2 distance of features, divided by its maximum in the image
    alpha: float = Field(default=1 / 3, ge=0)
    #: weight of 1 - exp(-(dx^2 + dy^2) / (2 sigma^2)) on the token grid
    beta: float = Field(default=1 / 3, ge=0)
    #: weight of the source's distance to the grid's centre, divided by its maximum in the image
    gamma: float = Field(default=1 / 3, ge=0)
    #: width of the spatial kernel, in tokens
    sigma: float = Field(default=4.0, gt=0)
    #: strength of the entropy
    epsilon: float = Field(default=0.1, gt=0)
    #: how strongly the source marginal is held (KL): 0 is a softmax per column, infinity balanced transport
    rho: float = Field(default=0.1, ge=0)
    #: Sinkhorn steps
    iterations: int = Field(default=3, ge=1)

    @model_validator(mode="after")
    def _weighs_something(self) -> Self:
        if self.alpha == self.beta == self.gamma == 0:
            raise ValueError("alpha, beta and gamma must not all be 0")
        return self

    def score(self, inputs: RankingInputs) -> Tensor:
        """Importance (B, M): the row sums of the transport plan, every image transported on its own.

        The target marginal is met exactly, the source marginal only as strongly as `rho` says. Were both met
        exactly (balanced transport), every row sum would be the marginal itself and rank nothing.
        """
        if inputs.image is None:
            raise ValueError("the TopV ranker needs RankingInputs.sources, targets, grid, centre and image")
        together = inputs.valid[:, :, None] & inputs.valid[:, None, :]
        together &= inputs.image[:, :, None] == inputs.image[:, None, :]
        return importance(self.cost(inputs, together), together, self.epsilon, self.rho, self.iterations)

    def cost(self, inputs: RankingInputs, together: Tensor) -> Tensor:
        """C (B, M, M) in float32, source by target; only pairs of one image (`together`) mean anything."""
        if inputs.sources is None or inputs.targets is None or inputs.grid is None or inputs.centre is None:
            raise ValueError("the TopV ranker needs RankingInputs.sources, targets, grid and centre")
        features = _largest_is_one(_squared_distances(inputs.sources, inputs.targets, inputs.valid), together)
        steps = torch.cdist(inputs.grid, inputs.grid, compute_mode="donot_use_mm_for_euclid_dist")
        space = 1 - torch.exp(-(steps**2) / (2 * self.sigma**2))
        to_centre = (inputs.grid - inputs.centre).norm(dim=-1)[:, :, None].expand_as(space)
        return self.alpha * features + self.beta * space + self.gamma * _largest_is_one(to_centre, together)


def _squared_distances(sources: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """(B, M, M) squared L2 distances of two (B, M, D) sets, in float32 whatever the model computes in."""
    sources, targets = (x.float().masked_fill(~valid[:, :, None], 0.0) for x in (sources, targets))
    # distances do not change when both sets move together, and small numbers cancel less
    middle = targets.sum(1, keepdim=True) / valid.sum(1)[:, None, None].clamp(min=1)
    sources, targets = sources - middle, targets - middle
    squares = sources.square().sum(-1)[:, :, None] + targets.square().sum(-1)[:, None, :]
    return torch.baddbmm(squares, sources, targets.transpose(1, 2), alpha=-2).clamp(min=0)


def _largest_is_one(values: Tensor, together: Tensor) -> Tensor:
    """`values` (B, M, M) divided by their maximum in each image; an image whose values are all 0 stays 0."""
    rows = values.masked_fill(~together, 0.0).amax(2)
    largest = (rows[:, :, None] * together).amax(1)
    # the maximum over an image is the same for each of its columns, so one row of maxima serves every source
    return values / largest[:, None, :].clamp(min=torch.finfo(values.dtype).tiny)


def importance(cost: Tensor, together: Tensor, epsilon: float, rho: float, iterations: int) -> Tensor:
    """Row sums (B, M) of the plan of unbalanced Sinkhorn on `cost` (B, M, M), in log space.

    Minimises <C, P> + epsilon KL(P) + rho KL(P 1 | mu) with P^T 1 = mu, mu uniform over the sample's tokens:
    u = (mu / K v)^(rho / (rho + epsilon)) and v = mu / K^T u, starting at v = 1 and ending with v.
    At rho = 0 the row sums are those of mu_j softmax_i(-C_ij / epsilon).
    """
    valid = together.any(2)
    kernel = (-cost / epsilon).masked_fill(~together, float("-inf"))
    # a padding row or column would be -inf throughout, and its logarithm of a sum not a number
    log_mu = -valid.sum(1, keepdim=True).clamp(min=1).log().float().expand(valid.shape)
    relaxation = rho / (rho + epsilon)
    columns = torch.zeros_like(log_mu)
    for _ in range(iterations):
        rows = relaxation * (log_mu - _log_sum(kernel + columns[:, None, :], 2, valid))
        columns = log_mu - _log_sum(kernel + rows[:, :, None], 1, valid)
    return (kernel + rows[:, :, None] + columns[:, None, :]).exp().sum(2)


def _log_sum(terms: Tensor, dim: int, valid: Tensor) -> Tensor:
    return terms.logsumexp(dim).masked_fill(~valid, 0.0)
