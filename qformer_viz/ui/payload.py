"""What the browser's canvas is fed for one visitor's image."""

import json
from typing import Any

from ..meta import view_meta
from ..view.payload import canvas_payload, embed
from .conversation import Session
from .services import Services


def payload(services: Services, session: Session) -> dict:
    """The canvas payload of the current image, with the conversation and where the maps come from."""
    encoded = session.encoded
    meta = view_meta(services.of(session).pipe, encoded, session.turns())
    meta["example"] = services.example_titles.get(encoded.sha256)
    film = list(zip(encoded.frames, encoded.moments, strict=False))  # a still picture has no moments
    return canvas_payload(encoded.record.result, encoded.image, meta=meta, film=film)


def as_text(services: Services, session: Session) -> str:
    """The payload as JSON without a literal tag in it, or "" while there is no image."""
    if session.encoded is None:
        return ""
    return as_json(payload(services, session))


def pictures(encoded: Any) -> dict:
    """An image's one picture, or a film's frames with their moments, for the views below the canvas."""
    return {"frames": [embed(frame) for frame in encoded.frames], "moments": list(encoded.moments)}


def as_json(shown: dict) -> str:
    """A payload as JSON without a literal tag in it."""
    return json.dumps(shown, ensure_ascii=False).replace("<", "\\u003c")
