"""Triton device code with thin launchers, installed as `dexar_fast.kernels`; reached through `dexar_fast.ops`."""
