"""Rebuilds `assets/emoji/<style>.png`, one sheet of 8 x 8 drawings per artwork set, from the npm packages.

    npm install @iconify-json/{noto,twemoji,fluent-emoji-flat,fluent-emoji,emojione,noto-v1,fxemoji,openmoji}
    npm install @iconify-json/{emojione-v1,streamline-emojis,emojione-monotone,fluent-emoji-high-contrast}
    npm install @iconify-json/{mdi,game-icons,ph}
    python -m model sheets --iconify node_modules/@iconify-json

Needs `resvg-py`, and nothing else in this package does: the sheets are part of the repository.
"""

import colorsys
import io
import json
from pathlib import Path

from PIL import Image

from qformer_viz.domains.emoji.scenes import (
    CELL,
    NOUNS,
    SHEET_COLUMNS,
    SHEETS,
    STYLES,
    TEACHING_STYLES,
    UNSEEN_STYLES,
)

# Sets of icons rather than emoji: their drawings are named by noun, if the list below has no other name.
_ICONS = ("mdi", "game-icons", "ph")
# Names that differ from the set's rule; None where what goes by that name is something else. Nouns that are
# missing in a set stay blank.
_NAMES: dict[str, dict[str, str | None]] = {
    "mdi": {
        "dog": "dog-side",
        "bee": None,
        "apple": "food-apple",
        "pineapple": "fruit-pineapple",
        "watermelon": "fruit-watermelon",
        "lemon": "fruit-citrus",
        "cake": "cake-variant",
        "cup": "coffee",
        "sailboat": "sail-boat",
        "house": "home",
        "guitar": "guitar-acoustic",
        "clock": "alarm",
        "television": "television-classic",
        "shoe": "shoe-sneaker",
    },
    "game-icons": {
        "dog": "sitting-dog",
        "horse": "horse-head",
        "fish": "tropical-fish",
        "crab": None,
        "butterfly": None,
        "tree": "oak",
        "apple": "shiny-apple",
        "pizza": "full-pizza",
        "cake": "cake-slice",
        "egg": "big-egg",
        "cup": "coffee-mug",
        "car": "city-car",
        "bicycle": "dutch-bike",
        "rocket": None,
        "clock": "alarm-clock",
        "bell": "ringing-bell",
        "book": "book-cover",
        "camera": "photo-camera",
        "television": "tv",
        "gift": "present",
        "shoe": "converse-shoe",
        "star": "round-star",
        "heart": "hearts",
    },
    "ph": {
        "bee": None,
        "cup": "coffee-duotone",
        "shoe": "sneaker-duotone",
        "clock": "alarm-duotone",
        "airplane": "airplane-tilt-duotone",
    },
    "fxemoji": {
        "whale": "spurtingwhale",
        "tree": "deciduoustree",
        "apple": "redapple",
        "pizza": "sliceofpizza",
        "cup": "hotbeverage",
        "truck": "deliverytruck",
        "house": "housebuilding",
        "umbrella": "umbrellawithraindrops",
        "clock": "alarmclock",
        "book": "closedbook",
        "gift": "present",
        "heart": "redheart",
        "snowman": "snowmanwithoutsnow",
    },
}


def _icon(icons: dict, name: str) -> dict:
    while name not in icons["icons"]:
        name = icons["aliases"][name]["parent"]
    return icons["icons"][name]


def _svg(icons: dict, name: str) -> str:
    icon = _icon(icons, name)
    width = icon.get("width", icons.get("width", 16))
    height = icon.get("height", icons.get("height", 16))
    left, top = icon.get("left", 0), icon.get("top", 0)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
    )


def _known(icons: dict, name: str | None) -> bool:
    return name in icons["icons"] or name in icons.get("aliases", {})


def _painted(svg: str, index: int) -> str:
    """A drawing without colours of its own gets one, a different one for each noun."""
    red, green, blue = colorsys.hsv_to_rgb(index * 0.381966 % 1, 0.7, 0.85)
    colour = f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"
    return svg.replace("currentColor", colour)


def build_sheet(icons: dict, names: list[str | None]) -> Image.Image:
    """One RGBA sheet of `CELL`-pixel cells, filled row by row in the order of `names`; unknown names stay blank."""
    import resvg_py

    rows = -(-len(names) // SHEET_COLUMNS)
    sheet = Image.new("RGBA", (SHEET_COLUMNS * CELL, rows * CELL))
    for index, name in enumerate(names):
        if name is None or not _known(icons, name):
            continue
        drawn = bytes(
            resvg_py.svg_to_bytes(svg_string=_painted(_svg(icons, name), index), width=CELL, height=CELL)
        )
        cell = Image.open(io.BytesIO(drawn)).convert("RGBA")
        row, column = divmod(index, SHEET_COLUMNS)
        sheet.paste(cell, (column * CELL, row * CELL))
    return sheet


def build_sheets(iconify: Path, out: Path = SHEETS) -> list[Path]:
    """Write every sheet; `iconify` is the folder that holds one folder per artwork set.

    The sets share their icon names, but only some list code points, so the names come from `noto`.
    """
    names = json.loads((iconify / "noto" / "chars.json").read_text())
    codes = json.loads((SHEETS / "nouns.json").read_text())
    written = []
    for style in (*STYLES, *TEACHING_STYLES, *UNSEEN_STYLES):
        icons = json.loads((iconify / style / "icons.json").read_text())
        sheet = build_sheet(icons, [_name(style, noun, names[codes[noun]]) for noun in NOUNS])
        path = out / f"{style}.png"
        sheet.save(path, optimize=True)
        written.append(path)
    return written


def _name(style: str, noun: str, emoji: str) -> str | None:
    own = _NAMES.get(style, {})
    if noun in own:
        return own[noun]
    if style == "ph":
        return f"{noun}-duotone"
    return noun if style in _ICONS else emoji
