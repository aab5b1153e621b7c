"""Where the bundled models, photographs and artwork lie."""

from pathlib import Path

_HERE = Path(__file__).resolve().parent

ASSETS = _HERE / "bundled" if (_HERE / "bundled").is_dir() else _HERE.parent / "assets"
"""`assets/` of the repository, or in an installed package the folder `bundled` within it."""
