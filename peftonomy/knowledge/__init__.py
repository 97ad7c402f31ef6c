"""The knowledge base for users, and everything that covers all entries: queries, the graph, claims, evidence and
rules.

This room may import: every room but conformance, site and cli.
"""
