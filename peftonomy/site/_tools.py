"""The pages with tools: compare, the guided choice, and the nearest methods. The engine fills in the results ."""

from __future__ import annotations

from collections.abc import Iterator

from ._site import Site
from ._text import count

__all__ = ["tool_pages"]

WIDE = {"hide": ["toc"]}
MOST = 6


def tool_pages(site: Site) -> Iterator[tuple[str, str]]:
    """Yield the pages with their paths."""
    wanted = site.settings.compare
    methods = [m for m in wanted.methods if m in site.kb.methods] or list(site.kb)[:MOST]
    model = _model(site, wanted.model)
    shown = [{"id": m, "name": site.kb[m].name} | site.cost(site.kb[m], model) for m in methods]
    yield (
        "compare.md",
        site.page(
            "compare.md", "Compare", "Methods side by side on one model.",
            {"calculator": True, "tools": ["choices", "mechanism", "compare"], **WIDE},
            methods=",".join(methods), model=model, model_name=site.kb.models[model].name, rows=shown,
        ),
    )  # fmt: skip
    yield (
        "planner.md",
        site.page(
            "planner.md", "Help me choose", "Methods that fit your model and your GPU, with settings and code.",
            {"calculator": True, "tools": ["choices", "chooser", "choose"], **WIDE},
            model=_model(site, site.settings.choose.model),
        ),
    )  # fmt: skip
    yield (
        "idea.md",
        site.page(
            "idea.md", "Is my idea new?", "The methods nearest to a mechanism that you describe, and how they differ.",
            {"door": "Compare", "calculator": True, "tools": ["choices", "mechanism", "idea"], **WIDE},
            n_methods=count(len(site.kb)),
        ),
    )  # fmt: skip


def _model(site: Site, wanted: str) -> str:
    """Return the model in the settings, or else the first example model."""
    return wanted if wanted in site.kb.models else site.examples[0]
