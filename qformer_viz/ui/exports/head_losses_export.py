"""Losses without heads, queries and pieces of text as JSON."""

from __future__ import annotations

from pathlib import Path

from qformer_viz.analysis.head_ablation import ablate_heads, ablate_query_messages
from qformer_viz.atomic_files import write_json
from qformer_viz.errors import UserError
from qformer_viz.ui.app_context import AppContext
from qformer_viz.ui.conversation import Session
from qformer_viz.ui.explanation_cache import get_current
from qformer_viz.ui.export import Export, about


def write(app: AppContext, session: Session, folder: Path) -> Path:
    """Write it to a folder. Returns its path."""
    kept = get_current(session)
    if kept is None or not kept.context.known("heads", "talk"):
        raise UserError(
            "No heads have been tested yet. Open the Heads tab and test them for the last answer."
        )
    found = {"heads": vars(ablate_heads(kept.context)), "talk": vars(ablate_query_messages(kept.context))}
    whole = {"manifest": about(app, session), "words": list(kept.context.scorer.words), "unit": "nats"}
    whole["read"] = list(app.of(session).pipe.qformer_text_tokens(session.encoded.question))
    whole |= {name: {key: value.tolist() for key, value in each.items()} for name, each in found.items()}
    return write_json(folder / "heads.json", whole)


EXPORT = Export(
    "heads",
    "Heads (JSON)",
    "How much less likely every word becomes without each head, layer, query and piece of the text",
    write,
    order=5,
)
