"""``python -m thalweg``, and what the command ``thalweg`` calls first."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command; where what it needs is not installed, say so."""
    try:
        from thalweg.cli import main as run
    except ModuleNotFoundError as error:
        sys.stderr.write(f"thalweg: {error}\n")
        sys.exit(2)
    run()


if __name__ == "__main__":
    main()
