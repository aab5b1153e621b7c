"""Rebuilds `assets/emoji/<style>.png`, one sheet of 8 x 8 drawings per artwork set, from the npm packages.

    npm install @iconify-json/{noto,twemoji,fluent-emoji-flat,fluent-emoji,emojione,noto-v1,fxemoji}
    python -m model.emoji sheets --iconify node_modules/@iconify-json

Needs `resvg-py`, and nothing else in this package does: the sheets are part of the repository.
"""

import io
import json
from pathlib import Path

from PIL import Image

from .scenes import ASSETS, CELL, NOUNS, SHEET_COLUMNS, STYLES, UNSEEN_STYLES

# Firefox OS emoji have names of their own; nouns that are missing there stay blank.
_NAMES = {
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
    }
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


def _known(icons: dict, name: str) -> bool:
    return name in icons["icons"] or name in icons.get("aliases", {})


def build_sheet(icons: dict, names: list[str]) -> Image.Image:
    """One RGBA sheet of `CELL`-pixel cells, filled row by row in the order of `names`; unknown names stay blank."""
    import resvg_py

    rows = -(-len(names) // SHEET_COLUMNS)
    sheet = Image.new("RGBA", (SHEET_COLUMNS * CELL, rows * CELL))
    for index, name in enumerate(names):
        if not _known(icons, name):
            continue
        drawn = bytes(resvg_py.svg_to_bytes(svg_string=_svg(icons, name), width=CELL, height=CELL))
        cell = Image.open(io.BytesIO(drawn)).convert("RGBA")
        row, column = divmod(index, SHEET_COLUMNS)
        sheet.paste(cell, (column * CELL, row * CELL))
    return sheet


def build_sheets(iconify: Path, out: Path = ASSETS) -> list[Path]:
    """Write every sheet; `iconify` is the folder that holds one folder per artwork set.

    The sets share their icon names, but only some list code points, so the names come from `noto`.
    """
    names = json.loads((iconify / "noto" / "chars.json").read_text())
    codes = json.loads((ASSETS / "nouns.json").read_text())
    written = []
    for style in (*STYLES, *UNSEEN_STYLES):
        icons = json.loads((iconify / style / "icons.json").read_text())
        own = _NAMES.get(style, {})
        sheet = build_sheet(icons, [own.get(noun, names[codes[noun]]) for noun in NOUNS])
        path = out / f"{style}.png"
        sheet.save(path, optimize=True)
        written.append(path)
    return written
