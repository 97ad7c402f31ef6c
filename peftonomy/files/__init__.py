"""Read and write files: strict YAML with line numbers, BibTeX, tables for a terminal, whole files.

This room may import: errors.
"""
