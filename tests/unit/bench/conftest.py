from __future__ import annotations

import sys
from pathlib import Path

# `memory_fakes` is a module of its own so that measuring processes can import it.
sys.path.insert(0, str(Path(__file__).parent))
