"""The conformance suite: an implementation of a method is run, and held to the method's entry.

It needs the `torch` extra. `tiny` has the models, `trial` one method on one of them, `checks` what must hold of every
method, and `golden` compares an implementation with numbers that were recorded from the authors' own code.

This room may import: every room but site and cli.
"""
