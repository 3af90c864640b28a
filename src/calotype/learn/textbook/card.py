"""The card that lies beside a textbook model's bundle."""

from __future__ import annotations

from pathlib import Path

from calotype.learn.card import bullets, facts
from calotype.markdown import table
from calotype.textbook.model import TextbookBundle
from calotype.whole import write_whole

_MADE = ("epochs_trained", "minutes", "hardware", "validation_loss", "folds")


def text(bundle: TextbookBundle) -> str:
    """The card as Markdown."""
    card = bundle.card
    height, width, channels = bundle.image
    about = {
        "status": bundle.status,
        "id": bundle.id.hex(),
        "images": f"{width}x{height}, {channels} channel{'s' * (channels > 1)}",
        "latents": bundle.latents,
        "parameters": card["parameters"],
        "bytes": bundle.size_bytes,
        "licence": card.get("licence", "not stated"),
    }
    curve = [(p["level"], f"{p['image_bytes']:.2f}", f"{p['psnr_db']:.2f}") for p in card["curve"]]
    parts = [
        f"# {bundle.name} {bundle.version}",
        facts(about),
        "## Data",
        bullets([f"{d['name']} ({d['licence']})" for d in card.get("data", [])]),
        "## Recipe",
        facts({**{key: card[key] for key in _MADE if key in card}, **card["recipe"]}),
        "## Architecture",
        facts(card["architecture"]),
        "## Rate and distortion",
        "All validation images in one chunk: bytes of an image, and PSNR over all their pixels.",
        table(("level", "bytes", "PSNR dB"), curve),
    ]
    return "\n\n".join(parts) + "\n"


def write(bundle: TextbookBundle) -> Path:
    """Write the card NAME.md beside a bundle; returns its path."""
    path = bundle.path.with_suffix(".md")
    write_whole(path, text(bundle).encode())
    return path
