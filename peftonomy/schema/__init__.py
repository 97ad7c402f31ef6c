"""The schemas of the knowledge base's files: methods, model families, libraries, the taxonomy.

This room may import: errors, files, formula.
"""
