"""What the files of the knowledge base may declare: methods, model families, libraries, the taxonomy.

This room may import: errors, files, formula.
"""
