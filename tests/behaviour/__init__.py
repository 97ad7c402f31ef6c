"""One behaviour suite over all methods: every reference module must do, on real models, what its entry declares."""
