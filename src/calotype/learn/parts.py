"""What each step of the prior codes, taken out of y and put together again.

A step codes, at each of the four places of every 2x2 of y, another span of the channels (`steps.spans_of`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def places(v: Tensor) -> Tensor:
    """The four places of every 2x2 of v (b, c, h, w), row by row: (4, b, h/2, w/2, c)."""
    v = v.permute(0, 2, 3, 1).unflatten(2, (-1, 2)).unflatten(1, (-1, 2))
    return v.permute(2, 4, 0, 1, 3, 5).flatten(0, 1)


def of_step(y: Tensor, spans: Sequence[slice]) -> Tensor:
    """The n channels of each place of y that a step codes, (4, b, h/2, w/2, n)."""
    return torch.stack([v[..., span] for v, span in zip(places(y), spans, strict=True)])


def assembled(parts: Sequence[Tensor], spans: Sequence[Sequence[slice]]) -> Tensor:
    """The whole y (b, m, h, w) from the parts of its first steps, 0 where later ones are to come.

    Args:
        parts: Of the first steps, as `of_step` gives them.
        spans: Of all steps.
    """
    to_come = torch.zeros_like(parts[0][0])
    wholes: list[Tensor] = []
    for place in range(4):
        at = {now[place].start: part[place] for now, part in zip(spans, parts, strict=False)}
        wholes.append(torch.cat([at.get(start, to_come) for start in sorted(now[place].start for now in spans)], -1))
    v = torch.stack(wholes).unflatten(0, (2, 2)).permute(2, 3, 0, 4, 1, 5)
    return v.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)
