"""Studies: train many methods under one protocol, and report which of them can be told apart.

`design` is the file that describes a study, `jobs` its runs, `records` the file of finished runs, `training` one run,
`pool` and `cluster` the workers, `runner` the loop, and `report` the result. Only `training`, `parts` and the workers
import torch.

This room may import: knowledge and the rooms below it.
"""
