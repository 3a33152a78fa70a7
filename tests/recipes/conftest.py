"""The recipes are scripts beside the package: the repository's root has to be importable to test them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
