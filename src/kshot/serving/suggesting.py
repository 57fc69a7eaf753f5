"""Which unlabelled example to label next.

With few labels, what a new one tells of its neighbours counts for more than how unsure its own prediction is: examples
are taken greedily so that the pool lies nearest to something labelled (the facility-location objective of k-medoids;
Sener and Savarese 2018, sec. 4, take the farthest point instead, which outliers attract), each example of the pool
weighed by how unsure its prediction is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kshot.functional import mask_logits, squared_distance


def suggest_labels(
    support: Tensor, pool: Tensor, logits: Tensor, classes: Tensor, most: int | None = None
) -> list[int]:
    """The places of a pool's examples in the order in which to label them.

    Args:
        support: embeddings of the labelled examples, `[n, d]`.
        pool: embeddings of the others, `[m, d]`.
        logits: their predictions, `[m, way]`.
        classes: bool `[way]`.
        most: how many (None: all).
    """
    m = len(pool)
    probabilities = mask_logits(logits, classes).softmax(-1)
    unsure = 1 - probabilities.max(-1).values + 1e-3
    near = squared_distance(pool, support).sqrt().min(-1).values
    between = squared_distance(pool, pool).sqrt()
    order: list[int] = []
    left = torch.ones(m, dtype=torch.bool)
    for _ in range(min(m, most or m)):
        gain = (unsure.unsqueeze(0) * (near.unsqueeze(0) - between).clamp(min=0)).sum(-1)
        best = int(torch.where(left, gain, -1.0).argmax())
        order.append(best)
        left[best] = False
        near = torch.minimum(near, between[best])
    return order
