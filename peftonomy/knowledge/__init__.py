"""The facade that users see, and what is asked of all entries: queries, the graph, claims, evidence, rules.

This room may import: every room but conformance, site and cli.
"""
