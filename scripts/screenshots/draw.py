#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""
Draws the screenshots of the README, from the made pictures of the tests: SVG, by Rich.

tests/unit/test_console.py tells when they are out of date. Example: .venv/bin/python scripts/screenshots/draw.py
"""

import io
import re
import sys
from pathlib import Path

from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.made_pictures import picture
from tracer.views.console.screen import render

SIZE = (120, 32)


def main() -> None:
    for page in ("overview", "connections"):
        console = Console(record=True, width=SIZE[0], file=io.StringIO(), force_terminal=True, color_system="truecolor", highlight=False)
        console.print(render(picture(page), *SIZE), no_wrap=True, crop=True)
        svg = console.export_svg(title="sudo tcptrace", unique_id=page)
        # The fonts of the reader will do; a picture fetches nothing.
        svg = re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL).replace("Fira Code, monospace", "monospace")
        file = Path(__file__).with_name(f"{page}.svg")
        file.write_text(re.sub(r"\s*<!--.*?-->", "", svg))
        print(file)


if __name__ == "__main__":
    main()
