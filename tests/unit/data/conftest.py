"""Makes the helper module importable by name, which spawned worker processes need as well."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
