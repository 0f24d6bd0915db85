"""Make pictures smaller: 256 colors of their own, and what they tell of themselves kept.

python docs/figures/small.py [PICTURES]
"""

import sys
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fastadv.files import atomic_write


def small(path: Path) -> None:
    """Write it with a palette, unless it has one."""
    with Image.open(path) as picture:
        if picture.mode == "P":
            return
        told, size = PngInfo(), picture.info.get("dpi")
        for name, text in picture.info.items():
            if isinstance(text, str):
                told.add_itxt(name, text)
        flat = Image.new("RGB", picture.size, "white")
        flat.paste(picture, mask=picture.getchannel("A") if picture.mode == "RGBA" else None)
    # of Pillow's ways the one whose largest error is smallest: thin colored lines stay what they are
    drawn = flat.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)
    with atomic_write(path) as part:
        drawn.save(part, format="PNG", optimize=True, pnginfo=told, **({"dpi": size} if size else {}))


def main() -> None:
    for path in map(Path, sys.argv[1:]) if sys.argv[1:] else sorted(Path(__file__).parent.glob("*.png")):
        small(path)


if __name__ == "__main__":
    main()
