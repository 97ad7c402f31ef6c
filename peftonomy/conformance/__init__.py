"""The conformance suite: run an implementation of a method and compare it with the method's entry.

It needs the `torch` extra. `tiny` has the models, `trial` one method on one of them, and `checks` the properties that
every method must have. `golden` compares an implementation with values recorded from the authors' own code.

This room may import: every room but site and cli.
"""
