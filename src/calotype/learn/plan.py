"""What the configs of all kinds of models share: JSON of three sections, and that a run goes on as it was begun."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from calotype.bundle import STATUSES
from calotype.errors import OptionError
from calotype.whole import write_whole

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Section = TypeVar("Section", bound="DataclassInstance")
MOST = 1e9
PICTURES = "pictures.txt"
SECTIONS = {"architecture", "recipe", "card"}


def write(config: Any, path: Path) -> None:
    """Keep a config, a dataclass, as JSON."""
    write_whole(path, (json.dumps(asdict(config), indent=1) + "\n").encode())


def sections(path: Path, hint: str = "") -> dict[str, dict[str, Any]]:
    """The sections of a JSON file, their values not yet checked.

    Raises:
        OptionError: If there is no such file, or it holds anything else; `hint` says what to give instead.
    """
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise OptionError(f"recipe {path}: {error}{hint}") from error
    known = isinstance(values, dict) and set(values) <= SECTIONS
    if not known or not all(isinstance(section, dict) for section in values.values()):
        raise OptionError(f"{path}: a recipe is an object of the objects architecture, recipe and card, nothing else")
    return values


@dataclass(frozen=True)
class Rules:
    """What the values of a config may be, by name.

    Attributes:
        limits: Least and most of numbers; those that are not there lie within 0 and `MOST`.
        choices: Of texts and numbers that may be nothing else.
        multiples: Of what a whole number is a multiple.
    """

    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])
    choices: Mapping[str, Sequence[Any]] = field(default_factory=dict[str, Sequence[Any]])
    multiples: Mapping[str, int] = field(default_factory=dict[str, int])


def changed(section: Section, values: Mapping[str, Any], source: str, rules: Rules) -> Section:
    """A section of a config with other values, each of the kind that stands there: numbers, texts, truths, sizes.

    Args:
        section: The values as they are.
        values: The others, by name.
        source: Where they come from, for a message.
        rules: What they may be.

    Raises:
        OptionError: If a value is unknown or not allowed.
    """
    known = {f.name: getattr(section, f.name) for f in fields(section)}
    settled: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise OptionError(f"{source}: a {type(section).__name__.lower()} has no {name}; it has {', '.join(known)}")
        wanted = _wanted(known[name], value, name, rules)
        if wanted is not None:
            raise OptionError(f"{source}: {name} is {value!r}, {wanted}")
        settled[name] = _settled(known[name], value)
    return replace(section, **settled)


def _settled(known: Any, value: Any) -> Any:
    """A value as the kind that stands there: JSON has lists for tuples, and may have whole numbers without a point."""
    return type(known)(value) if isinstance(known, (tuple, float)) else value


def _wanted(known: Any, value: Any, name: str, rules: Rules) -> str | None:
    """What a value should be and is not; None if it is right."""
    if isinstance(known, bool):
        return None if isinstance(value, bool) else "neither true nor false"
    if choices := rules.choices.get(name):
        return None if type(value) is type(known) and value in choices else f"none of {', '.join(map(str, choices))}"
    if isinstance(known, tuple):
        sizes = cast("list[object]", value) if isinstance(value, list) else []
        return None if sizes and all(type(n) is int and n > 0 for n in sizes) else "not a list of sizes"
    kind, (low, high) = type(known), rules.limits.get(name, (0, MOST))
    if isinstance(value, bool) or not isinstance(value, (kind, int)):
        return f"not a {kind.__name__} within {low}..{high:g}"
    if not low <= value <= high:
        return f"not within {low}..{high:g}"
    multiple = rules.multiples.get(name, 1)
    return f"not a multiple of {multiple}" if value % multiple and kind is int else None


def check_card(card: Mapping[str, Any], source: str) -> None:
    """Refuse before training what would make a bundle or its card that cannot be read.

    Raises:
        OptionError: If a value is of another kind than readers expect; `source` says where it comes from.
    """
    for key in ("name", "version", "licence"):
        if not isinstance(card.get(key, ""), str):
            raise OptionError(f"{source}: the card's {key} is {card[key]!r}, not a text")
    if card.get("status") not in STATUSES:
        raise OptionError(f"{source}: the card's status is {card.get('status')!r}, none of {', '.join(STATUSES)}")
    data = card.get("data", [])
    if not isinstance(data, list) or not all(
        isinstance(part, dict) and all(isinstance(part.get(key), str) for key in ("name", "licence")) for part in data
    ):
        raise OptionError(f"{source}: the card's data is {data!r}, not a list of objects with name and licence")


def other_run(folder: Path, what: str) -> OptionError:
    """That a folder holds a run which this command would not go on with."""
    return OptionError(f"{folder}: holds a run {what}; give another --run, or what it began with")


def listing_of(pictures: Iterable[str]) -> bytes:
    """Which pictures a run learns from, a line for each; names may hold what is no text."""
    return "".join(f"{picture}\n" for picture in pictures).encode(errors="surrogatepass")


def check_pictures(listing: bytes, folder: Path) -> None:
    """Refuse to go on with a run on other pictures; on which an older version began one is not known.

    Raises:
        OptionError: If some are new or gone; it names one of each.
    """
    kept = folder / PICTURES
    if not kept.exists():
        return
    begun, now = (Counter(lines.splitlines()) for lines in (kept.read_bytes(), listing))
    changes = [
        f"{found.total()} {change}, such as {min(found).decode(errors='replace')}"
        for change, found in (("new", now - begun), ("gone", begun - now))
        if found
    ]
    if changes:
        raise other_run(folder, f"on other pictures ({'; '.join(changes)})")
