"""What one evaluation is asked for, and what it says about one sample."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What can change a number beside model, data, metric and pruning; part of an evaluation's key."""

    #: Longest generated answer, in tokens.
    max_new_tokens: int = 16
    #: Samples that run together; padding and kernels depend on it.
    batch_size: int = 16
    #: CPU threads of a worker (`torch.set_num_threads`, which the caller sets).
    threads: int = 1
    device: str = "cpu"
    dtype: str = "float32"
    #: transformers' attention implementation, such as sdpa.
    attention: str = "sdpa"


@dataclass(frozen=True, kw_only=True)
class SampleRecord:
    """One sample under one pruning."""

    id: str
    #: The generated answer, the likeliest choice, or the likeliest tokens along the reference answer.
    prediction: str
    #: The metric's score, in [0, 1].
    score: float
    #: KL(unpruned || pruned) in nats: of the first answer token, or the mean over the answer for `fidelity`.
    kl: float
    #: Visual tokens that entered the decoder (N of the keep rates).
    visual_tokens: int
    #: All other tokens of the prompt, without padding.
    text_tokens: int
