"""One small file per family: a tiny random model and a real processor. `test_families.py` runs every test on each."""
