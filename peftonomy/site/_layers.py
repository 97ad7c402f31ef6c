"""Draw the trained parameters of each layer, where a method does not train the same in every layer."""

from __future__ import annotations

from ..costs.plan import in_order
from ..errors import UsageError
from ..knowledge.base import Method
from . import _plot
from ._site import Site, View
from ._text import count

__all__ = ["by_layer"]

MOST_LABELS = 9
"""The number of labels below the bars."""


def by_layer(site: Site, method: Method) -> View | None:
    """Return the picture and a sentence for the first example model that fits; None if none does or has layers."""
    for model in site.examples:
        backbone = site.kb.models[model]
        try:
            plan = site.plan(method, model)
            rows, trained = plan.each(plan.values({})), plan.cost({}).trained
        except UsageError:
            continue
        found: dict[tuple[str, int], int] = {}
        outside = 0
        for row, spot in in_order([row for row in rows if row.piece.tensor.trained is True]):
            for _, layer in row.locations(spot):
                if layer is None or spot.source is None:
                    outside += row.count * row.copies
                else:
                    key = (spot.source.stack, layer)
                    found[key] = found.get(key, 0) + row.count * row.copies
        layers = [(stack, n) for stack, count_ in backbone.layers.items() for n in range(count_)]
        if not found or sum(found.values()) + outside != trained:
            return None  # nothing in a layer, or entries that are chosen over all layers together
        values = [found.get(layer, 0) for layer in layers]
        name = backbone.name
        rest = f", and {count(outside)} outside the layers" if outside else ""
        if len(set(values)) == 1:
            noun = "parameter" if values[0] == 1 else "parameters"
            return {"picture": "", "text": f"On {name} it trains {count(values[0])} {noun} in every layer{rest}."}
        step = max(1, -(-len(layers) // MOST_LABELS))
        several = len(backbone.layers) > 1
        bars = [
            ("" if i % step else str(n), float(value), f"{stack if several else ''} layer {n}: {count(value)}".strip())
            for i, ((stack, n), value) in enumerate(zip(layers, values, strict=True))
        ]
        told = f"Trained parameters by layer on {name}: " + ", ".join(title for _, _, title in bars)
        title = f"layer ({', then '.join(backbone.layers)})" if several else "layer"
        return {
            "picture": _plot.bars(bars, title, "trained parameters", told, height=170),
            "text": f"Trained parameters of each layer of {name}{rest}.",
        }  # fmt: skip
    return None
