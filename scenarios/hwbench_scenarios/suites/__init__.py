"""Ready-made sweeps (YAML) for ``hwbench sweep SUITE`` and ``{suite: NAME}`` in a spec."""
