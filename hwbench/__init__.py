"""hwbench: does a trained network still work, and fast enough, on misbehaving hardware?"""

__version__ = "0.1.0"
