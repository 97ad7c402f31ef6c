"""The knowledge base for users, with queries, the graph, claims, evidence and rules.

This room may import: every room but conformance, site and cli.
"""
