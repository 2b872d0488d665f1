"""The names that people give to the gland and to its zones, where a mask's file or its data set names its values."""

from __future__ import annotations

import re

GLAND = re.compile(
    r"prostat|gland|(?<![a-z])(pz|tz|cz|cg|wg|afs)(?![a-z])|peripheral|transition|central|zone|stroma",
    re.IGNORECASE,
)
"""What such a name contains."""
