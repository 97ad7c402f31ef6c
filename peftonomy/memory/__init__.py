"""The memory of a training step, from lists of operations: what a model computes, and what autograd keeps of it.

`language` reads the lists and `rules` the table of operations; `program` puts a method into a model; `step` (with
`machine` and `caller`) runs a step of it on tensors that have only sizes; `optimizer` updates; `answer` adds all up. It
may import what counts parameters (`_plan`, `_inventory`, `_family`, `_schema`), and nothing that asks it.
"""
