"""One minimal PyTorch module per method, acting on live Hugging Face `transformers` models.

Each module has `apply(model, *, <hyperparameters as in methods/<id>.yaml>)`, and where the entry promises them
`merge(model)` (fold into the weights) or `finish(model)` (drop what only training needs).
"""
