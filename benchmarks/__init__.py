"""Timings and memory, measured side by side in one run. `make bench` runs them; tests never time anything."""
