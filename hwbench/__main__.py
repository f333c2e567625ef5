"""``python -m hwbench``."""

from hwbench.cli import main

if __name__ == "__main__":
    main()
