"""Draw report.png: the verdict of the report that the commands of docs/report.md write, in Chromium.

python docs/figures/report.py
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageChops
from PIL.PngImagePlugin import PngInfo

from fastadv.card import about, telling

HERE = Path(__file__).parent
WIDE, TALL, SCALE, MARGIN = 800, 2000, 1.5, 24  # in pixels of CSS, but the margin
ALONE = "<style>nav, footer, section:not(#verdict) { display: none }</style></head>"
CHROMIUM = (
    "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
    f"--window-size={WIDE},{TALL}", f"--force-device-scale-factor={SCALE}",
)  # fmt: skip


def commands() -> list[str]:
    """Return the commands of the page."""
    block = re.findall(r"```sh\n(.*?)```", (HERE.parent / "report.md").read_text(), re.DOTALL)[0]
    return str(block).replace("\\\n", "").strip().splitlines()


def cropped(picture: Image.Image) -> Image.Image:
    """Return it without what is empty below."""
    empty = Image.new("RGB", picture.size, picture.getpixel((0, 0)))
    _, _, _, bottom = ImageChops.difference(picture, empty).getbbox()
    return picture.crop((0, 0, picture.width, bottom + MARGIN))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for command in commands():
            subprocess.run([sys.executable, "-m", *command.split()], cwd=folder, check=True)
        page = Path(folder, "report.html")
        page.write_text(page.read_text().replace("</head>", ALONE, 1))
        seen = Path(folder, "seen.png")
        subprocess.run([*CHROMIUM, f"--screenshot={seen}", page.as_uri()], check=True)
        picture = cropped(Image.open(seen).convert("RGB"))
    told = PngInfo()
    with telling(command="python docs/figures/report.py", seed=0):
        for name, text in about().items():
            told.add_itxt(name, str(text))
    picture.save(HERE / "report.png", pnginfo=told)


if __name__ == "__main__":
    main()
