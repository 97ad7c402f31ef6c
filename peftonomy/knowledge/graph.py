"""The taxonomy as a graph: categories, methods and papers, joined by typed edges.

    >>> import peftonomy
    >>> peftonomy.load().graph.parents("qlora")
    ['lora']

Edges point from the younger method to the older one, from a method to its category and to its papers, and from a
category to its parent. The graph is a `networkx.MultiDiGraph` (attribute `nx`); its nodes are `method:lora`,
`category:hybrid`, `paper:hu2022lora`.
"""

from __future__ import annotations

import json
from functools import cached_property
from io import BytesIO
from typing import TYPE_CHECKING, Any, cast

import networkx

from ..errors import PeftonomyError, UnknownName, chosen

if TYPE_CHECKING:
    from ..catalogue.records import Records
    from ..schema.implementations import Relation
    from ..schema.taxonomy import RelationType

__all__ = ["FORMATS", "Graph"]

FORMATS = ("json", "graphml", "dot", "mermaid")


def graph_of(kb: Records[Any]) -> Graph:
    """Return the graph of a knowledge base. It is built once."""
    found: Graph = kb.memo.setdefault("graph", Graph(kb))
    return found


def shortest_cycles(graph: networkx.DiGraph[str]) -> list[list[str]]:
    """Return a shortest cycle through the first node of each strongly connected part, in linear time."""
    found = []
    for part in networkx.strongly_connected_components(graph):
        first = min(part)
        above = dict(networkx.bfs_predecessors(graph.subgraph(part), first))
        steps = {first: 0}
        for node, before in above.items():  # nearest first
            steps[node] = steps[before] + 1
        ends = [node for node in steps if graph.has_edge(node, first)]
        if ends:
            cycle = [min(ends, key=lambda node: steps[node])]
            while cycle[-1] != first:
                cycle.append(above[cycle[-1]])
            found.append(cycle[::-1])
    return sorted(found)


def included(kb: Records[Any]) -> networkx.DiGraph[str]:
    """Return the graph of includes: each method that can be read, with an edge to every method that it includes."""
    graph: networkx.DiGraph[str] = networkx.DiGraph()
    for key in kb:
        graph.add_node(key)
        try:
            graph.add_edges_from((key, include.method) for include in kb[key].entry.includes)
        except PeftonomyError:  # reported in its own file
            continue
    return graph


class Graph:
    """The graph of a knowledge base, and queries on it."""

    def __init__(self, kb: Records[Any]):
        self.kb = kb

    @cached_property
    def nx(self) -> networkx.MultiDiGraph[str]:
        """The complete graph."""
        kb = self.kb
        graph: networkx.MultiDiGraph[str] = networkx.MultiDiGraph()
        taxonomy = kb.taxonomy
        for key, node in taxonomy.categories.items():
            graph.add_node(f"category:{key}", kind="category", label=node.name)
            if key.rpartition(".")[0] in taxonomy.categories:  # `check` reports the others
                graph.add_edge(f"category:{key}", f"category:{key.rpartition('.')[0]}", type="within")
        for key in kb:
            entry = kb[key].entry
            graph.add_node(f"method:{key}", kind="method", label=entry.name, year=entry.year)
        for key in kb:
            entry = kb[key].entry
            if entry.category in taxonomy.categories:  # `check` reports the others
                graph.add_edge(f"method:{key}", f"category:{entry.category}", type="belongs_to")
            for cited in sorted(entry.cited - {"editors"}):
                graph.add_node(f"paper:{cited}", kind="paper", label=cited)
                introduced = cited == entry.source.partition("#")[0]
                graph.add_edge(f"method:{key}", f"paper:{cited}", type="introduced_in" if introduced else "cites")
            for relation in entry.relations:
                if f"method:{relation.target}" in graph:
                    graph.add_edge(f"method:{key}", f"method:{relation.target}", type=relation.type, note=relation.note)
        return graph

    @cached_property
    def _lineage(self) -> networkx.DiGraph[str]:
        """The graph of methods only, joined by the relation types that count as descent."""
        counting = {name for name, spec in self.kb.taxonomy.relations.items() if spec.lineage}
        graph: networkx.DiGraph[str] = networkx.DiGraph()
        graph.add_nodes_from(node for node, data in self.nx.nodes(data=True) if data["kind"] == "method")
        graph.add_edges_from((a, b) for a, b, data in self.nx.edges(data=True) if data["type"] in counting)
        return graph

    def _node(self, method: str) -> str:
        node = f"method:{method}" if isinstance(cast(object, method), str) else None
        if node is None or node not in self._lineage:
            raise UnknownName("method", method, [n.removeprefix("method:") for n in self._lineage])
        return node

    def _by_year(self, nodes: Any) -> list[str]:
        years = self.nx.nodes
        return [n.removeprefix("method:") for n in sorted(nodes, key=lambda n: (years[n].get("year", 0), n))]

    def parents(self, method: str) -> list[str]:
        """Return the methods that it descends from directly, oldest first."""
        return self._by_year(self._lineage.successors(self._node(method)))

    def children(self, method: str) -> list[str]:
        """Return the methods that descend from it directly, oldest first."""
        return self._by_year(self._lineage.predecessors(self._node(method)))

    def ancestors(self, method: str) -> list[str]:
        """Return every method that it descends from, oldest first."""
        return self._by_year(networkx.descendants(self._lineage, self._node(method)))

    def descendants(self, method: str) -> list[str]:
        """Return every method that descends from it, oldest first."""
        return self._by_year(networkx.ancestors(self._lineage, self._node(method)))

    def roots(self, method: str) -> list[str]:
        """Return its ancestors without ancestors of their own; the method itself if it has none."""
        family = {self._node(method), *networkx.descendants(self._lineage, self._node(method))}
        return self._by_year(n for n in family if not self._lineage.out_degree(n))

    def siblings(self, method: str) -> list[str]:
        """Return the other methods of its category."""
        node = self._node(method)
        category = next(b for _, b, data in self.nx.out_edges(node, data=True) if data["type"] == "belongs_to")
        inside = {a for a, _, data in self.nx.in_edges(category, data=True) if data["type"] == "belongs_to"}
        return self._by_year(inside - {node})

    def lineage(self, method: str) -> list[str]:
        """Return its ancestors, itself and its descendants, oldest first."""
        node = self._node(method)
        return self._by_year(
            {node} | networkx.ancestors(self._lineage, node) | networkx.descendants(self._lineage, node)
        )

    def cycles(self) -> list[list[str]]:
        """Return one cycle for each group of methods that descend from each other. A valid knowledge base has none."""
        return [[node.removeprefix("method:") for node in cycle] for cycle in shortest_cycles(self._lineage)]

    def related(self, method: str) -> list[dict[str, str]]:
        """Return every relation of a method in both directions: type, name in that direction, method, note, source."""
        self._node(method)
        types = self.kb.taxonomy.relations
        found = []

        def told(relation: Relation, name: str, other: str) -> dict[str, str]:
            known = {"type": relation.type, "name": name, "method": other}
            return known | {"note": relation.note, "source": relation.source}

        def kind(relation: Relation) -> RelationType:
            return chosen("relation type", relation.type, types)

        if method in self.kb:
            found += [told(r, kind(r).name, r.target) for r in self.kb[method].entry.relations]
        found += [told(r, kind(r).inverse, other) for other, r in self._inverse.get(method, [])]
        return found

    @cached_property
    def _inverse(self) -> dict[str, list[tuple[str, Relation]]]:
        """Each target of a relation -> the methods with a relation to it, and the relation."""
        found: dict[str, list[tuple[str, Relation]]] = {}
        for method in self.kb.values():
            for relation in method.entry.relations:
                found.setdefault(relation.target, []).append((method.id, relation))
        return found

    def export(self, form: str) -> str:
        """Return the graph as text: json (node-link), graphml, dot or mermaid. Raises UnknownName."""
        text: str = getattr(self, f"_{chosen('format', form, {name: name for name in FORMATS})}")()
        return text

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: `nodes` and `edges`, each sorted."""
        nodes = [{"id": n, **self.nx.nodes[n]} for n in sorted(self.nx)]
        edges: list[dict[str, Any]] = [{"source": a, "target": b, **data} for a, b, data in self.nx.edges(data=True)]
        return {"nodes": nodes, "edges": sorted(edges, key=lambda e: (e["source"], e["target"], e["type"]))}

    def _json(self) -> str:
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False)

    def _graphml(self) -> str:
        stream = BytesIO()
        networkx.write_graphml(self.nx, stream)
        return stream.getvalue().decode()

    def _dot(self) -> str:
        data = self.to_dict()
        lines = [
            f"  {_quoted(n['id'])} [label={_quoted(n['label'])}, class={_quoted(n['kind'])}];" for n in data["nodes"]
        ]
        lines += [
            f"  {_quoted(e['source'])} -> {_quoted(e['target'])} [label={_quoted(e['type'])}];" for e in data["edges"]
        ]
        return "\n".join(["digraph peftonomy {", "  rankdir=RL;", *lines, "}"])

    def _mermaid(self) -> str:
        data = self.to_dict()
        ids = {n["id"]: f"n{i}" for i, n in enumerate(data["nodes"])}
        lines = [f"  {ids[n['id']]}[{_quoted(n['label'], '#quot;')}]" for n in data["nodes"]]
        lines += [f"  {ids[e['source']]} -->|{e['type']}| {ids[e['target']]}" for e in data["edges"]]
        return "\n".join(["graph RL", *lines])


def _quoted(text: str, quote: str = '\\"') -> str:
    cleaned = " ".join(text.replace("\\", "").split()).replace('"', quote)
    return f'"{cleaned}"'
