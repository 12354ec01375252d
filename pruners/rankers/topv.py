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
        kernel = self.cost(inputs, together).mul_(-1 / self.epsilon).masked_fill_(~together, -torch.inf)
        return importance(kernel, inputs.valid, self.rho / (self.rho + self.epsilon), self.iterations)

    def cost(self, inputs: RankingInputs, together: Tensor) -> Tensor:
        """C (B, M, M) in float32, source by target; only pairs of one image (`together`) mean anything."""
        if inputs.sources is None or inputs.targets is None or inputs.grid is None or inputs.centre is None:
            raise ValueError("the TopV ranker needs RankingInputs.sources, targets, grid and centre")
        sources, targets = _around_their_middle(inputs.sources, inputs.targets, inputs.valid)
        features = _squared_distances(sources, targets)
        farthest = _largest_in_image(features.masked_fill(~together, 0.0).amax(2), inputs)
        to_centre = (inputs.grid - inputs.centre).norm(dim=-1)
        off_centre = self.gamma * to_centre / _largest_in_image(to_centre, inputs)
        near = _squared_distances(inputs.grid, inputs.grid).mul_(-1 / (2 * self.sigma**2)).exp_()
        cost = features.mul_((self.alpha / farthest)[:, :, None]).sub_(near, alpha=self.beta)
        return cost.add_((self.beta + off_centre)[:, :, None])


def _around_their_middle(sources: Tensor, targets: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Two (B, M, D) sets in float32, moved together: distances stay, and small numbers cancel less."""
    sources, targets = (x.float().masked_fill(~valid[:, :, None], 0.0) for x in (sources, targets))
    middle = targets.sum(1, keepdim=True) / valid.sum(1)[:, None, None].clamp(min=1)
    return sources - middle, targets - middle


def _squared_distances(sources: Tensor, targets: Tensor) -> Tensor:
    """(B, M, M) squared L2 distances of two (B, M, D) sets."""
    squares = sources.square().sum(-1)[:, :, None] + targets.square().sum(-1)[:, None, :]
    return torch.baddbmm(squares, sources, targets.transpose(1, 2), alpha=-2).clamp_(min=0)


def _largest_in_image(values: Tensor, inputs: RankingInputs) -> Tensor:
    """The largest of `values` (B, M), none below 0, in each token's image: (B, M), a little above 0."""
    if inputs.image is None:
        raise ValueError("the TopV ranker needs RankingInputs.image")
    image = inputs.image.masked_fill(~inputs.valid, 0)
    images = values.new_zeros(len(values), max(inputs.visual_tokens))
    images.scatter_reduce_(1, image, values.masked_fill(~inputs.valid, 0.0), "amax")
    return images.gather(1, image).clamp_(min=torch.finfo(values.dtype).tiny)


def importance(kernel: Tensor, valid: Tensor, relaxation: float, iterations: int) -> Tensor:
    """Row sums (B, M) of the plan of unbalanced Sinkhorn on `kernel` = -C / epsilon (B, M, M), in log space.

    Minimises <C, P> + epsilon KL(P) + rho KL(P 1 | mu) with P^T 1 = mu, mu uniform over the sample's tokens:
    u = (mu / K v)^relaxation, rho / (rho + epsilon), and v = mu / K^T u, starting at v = 1 and ending with v.
    At rho = 0 the row sums are those of mu_j softmax_i(-C_ij / epsilon).
    """
    log_mu = -valid.sum(1, keepdim=True).clamp(min=1).log().float().expand(valid.shape)
    columns = torch.zeros_like(log_mu)
    for _ in range(iterations):
        rows = relaxation * (log_mu - _log_sum(kernel + columns[:, None, :], 2, valid))
        columns = log_mu - _log_sum(kernel + rows[:, :, None], 1, valid)
    return (rows + _log_sum(kernel + columns[:, None, :], 2, valid)).exp()


def _log_sum(terms: Tensor, dim: int, valid: Tensor) -> Tensor:
    # padding would be -inf throughout, and the logarithm of its sum not a number
    return terms.logsumexp(dim).masked_fill(~valid, 0.0)
