"""What the model file of a photo codec says of itself: manifest.json, checked (SPEC.md, section 5)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from calotype.errors import OptionError

LEVELS = 256
HALO_PX = 64
"""What analyses and syntheses look at on each side must fit: each depthwise 3x3 at 1/8 takes 8 pixels of it."""
REACHES_PX = range(0, HALO_PX + 1, 16)
ANALYSIS = "g_a.onnx"
ARRAYS = ("tables.u32", "radii.u16", "z_offset.i16", "z_table.u8", "level_bias.i16")
CONTEXT = ("z_weight.i8", "z_near.u8")
"""What models have that look at z's neighbours."""
LIMITS = {"channels": 16, "y_channels": 1024, "z_channels": 512, "prior_channels": 1024}
_GRAPH = re.compile(r"[a-z0-9_]+\.onnx")


@dataclass(frozen=True)
class Head:
    """A way to turn latents into a picture, and what a writer makes them with for it.

    Attributes:
        name: What `--head` calls it.
        graph: The synthesis.
        analysis: The analysis whose latents suit it.
        reach_px: How far around a pixel the synthesis looks.
    """

    name: str
    graph: str
    analysis: str
    reach_px: int = HALO_PX

    @classmethod
    def parse(cls, entry: dict[str, Any]) -> Head:
        """A head as a manifest names it."""
        reach_px = _whole(entry, "reach_px") if "reach_px" in entry else HALO_PX
        if reach_px not in REACHES_PX:
            raise ValueError(f"reach_px is {reach_px}, none of {', '.join(map(str, REACHES_PX))}")
        return cls(str(entry["name"]), str(entry["graph"]), str(entry.get("analysis", ANALYSIS)), reach_px)


@dataclass(frozen=True)
class Manifest:
    """What a bundle says of itself.

    Attributes:
        curve: Levels, and the PSNR of each on photographs.
        lambdas: The weight of the distortion at the lowest and the highest level.
        card: All of it.
    """

    name: str
    version: str
    status: str
    channels: int
    y_channels: int
    z_channels: int
    prior_channels: int
    steps: int
    heads: tuple[Head, ...]
    preview: str
    decoding: tuple[str, ...]
    curve: tuple[tuple[int, float], ...]
    lambdas: tuple[float, float]
    card: dict[str, Any]

    @classmethod
    def parse(cls, card: dict[str, Any]) -> Manifest:
        """A manifest as it is written.

        Raises:
            ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError: If it is none.
        """
        trained = card.get("architecture", {})
        return cls(
            name=str(card["name"]),
            version=str(card["version"]),
            status=str(card["status"]),
            channels=_whole(card, "channels"),
            y_channels=_whole(card, "y_channels"),
            z_channels=_whole(card, "z_channels"),
            prior_channels=_whole(card, "prior_channels"),
            steps=_whole(card, "steps"),
            heads=tuple(map(Head.parse, card["heads"])),
            preview=str(card["preview"]),
            decoding=tuple(map(str, card["decoding"])),
            curve=tuple((_whole(p, "level"), float(p["psnr_db"])) for p in card.get("curve", [])),
            lambdas=(float(trained.get("lambda_min", 0.0005)), float(trained.get("lambda_max", 0.5))),
            card=card,
        )

    def fault(self) -> str | None:
        """What breaks a rule of the format, if anything does."""
        for field, limit in LIMITS.items():
            if not 1 <= getattr(self, field) <= limit:
                return f"{field} is {getattr(self, field)}, not within 1..{limit}"
        if self.steps not in (2, 4) or self.y_channels % self.steps or not 1 <= len(self.heads) <= LEVELS:
            return "steps, y_channels, status or heads hold what this version does not know"
        exact, free = {"h_s.onnx", *self.step_graphs}, {self.preview, *(head.graph for head in self.heads)}
        analyses = {ANALYSIS, *(head.analysis for head in self.heads)}
        if (
            free & {*exact, *analyses, "h_a.onnx"}
            or analyses & exact
            or not all(map(_GRAPH.fullmatch, free | analyses))
        ):
            return f"{sorted(free | analyses)} are not names for heads, analyses and preview"
        context = set(CONTEXT) if set(CONTEXT) & set(self.decoding) else set[str]()
        needed = {*ARRAYS, *context, *exact, *free}
        return None if set(self.decoding) == needed else f"decoding must list just {sorted(needed)}"

    @property
    def step_graphs(self) -> list[str]:
        """Names of the graphs of the prior's steps."""
        return [f"step_{t}.onnx" for t in range(self.steps)]

    def head_named(self, name: str) -> int:
        """The index of a head.

        Raises:
            OptionError: If the model has none of that name.
        """
        names = [head.name for head in self.heads]
        if name not in names:
            raise OptionError(f"head {name!r}: the model {self.name} has {', '.join(names)}")
        return names.index(name)

    def lambda_of(self, level: int) -> float:
        """The weight of the distortion that a level was trained with: log-spaced."""
        low, high = self.lambdas
        return low * (high / low) ** (level / (LEVELS - 1))


def _whole(card: dict[str, Any], key: str) -> int:
    if type(card[key]) is not int:
        raise TypeError(f"{key} is {card[key]!r}, not a whole number")
    return card[key]
