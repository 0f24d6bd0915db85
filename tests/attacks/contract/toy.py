"""The attacks of the tutorial: the contract runs over them as it stands on the page."""

import re
from pathlib import Path
from types import ModuleType
from typing import Any

PAGE = Path(__file__).parents[3] / "docs" / "own_attack.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
*DEFINITIONS, USE = BLOCKS


def tutorial() -> dict[str, Any]:
    module = ModuleType("own_attack")
    exec("\n".join(DEFINITIONS), vars(module))
    return vars(module)


TOYS = {f"toy {name}": card for name, card in tutorial()["CARDS"].items()}
