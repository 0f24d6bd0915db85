"""Record terminal.svg: a network that is trained and evaluated on the command line.

python docs/figures/terminal.py
"""

import os
import shlex
import subprocess
import sys
import tempfile
from html import escape
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from fastadv.card import about, telling

WIDTH = 110  # columns
MODEL = "-m small_cnn -o width=8"
SESSION = (
    f"fastadv train {MODEL} --data digits --recipe pgd --norm l2 --radius 0.5 --epochs 6"
    " --batch-size 64 --learning-rate 0.1 --validation 100 --run-dir runs/robust",
    f"fastadv evaluate {MODEL} -w runs/robust/best.safetensors --data digits"
    " --samples 100 --norm l2 --radius 0.5 -a pgd -a autoattack:version=quick --report report.html",
)
# background and text, then the eight colors, of which the session uses the green alone
THEME = TerminalTheme(
    (27, 31, 38),
    (222, 226, 232),
    [(27, 31, 38), (224, 108, 117), (126, 198, 153), (229, 192, 123), (97, 175, 239), (198, 120, 221),
     (86, 182, 194), (222, 226, 232)],
)  # fmt: skip
FONTS = 'ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace'
# rich's own picture asks another server for its font
PICTURE = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" role="img">
<desc>TOLD</desc>
<style>
.{unique_id}-matrix {{ font: {char_height}px/{line_height}px FONTS }}
.{unique_id}-title {{ font: bold 16px sans-serif }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}<g class="{unique_id}-matrix">{matrix}</g>
</g>
</svg>
""".replace("FONTS", FONTS)


def output(command: str, folder: str) -> str:
    """Run the command in the folder; return its results, which are on stdout, as on a terminal."""
    run = [sys.executable, "-m", *shlex.split(command)]
    environment = os.environ | {"FORCE_COLOR": "1", "TERM": "xterm-256color"}
    done = subprocess.run(run, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout.rstrip()


def typed(command: str) -> Text:
    """Return the command behind a prompt, broken between options where the line ends."""
    lines, line = [], "$"
    for word in command.replace(" -", "\n-").split("\n"):
        if len(line) + len(word) + 3 > WIDTH:
            lines.append(f"{line} \\")
            line = "   "
        line += f" {word}"
    return Text("\n".join([*lines, line]), style="bold green")


def main() -> None:
    screen = Console(record=True, file=StringIO(), width=WIDTH, force_terminal=True)
    with tempfile.TemporaryDirectory() as folder:
        for command in SESSION:
            screen.print(typed(command))
            screen.print(Text.from_ansi(output(command, folder)), end="\n\n")
    with telling(command="python docs/figures/terminal.py", seed=0):
        told = "; ".join(f"{name}: {value}" for name, value in about().items())
    picture = PICTURE.replace("TOLD", escape(told).replace("{", "{{").replace("}", "}}"))
    screen.save_svg(
        str(Path(__file__).with_suffix(".svg")), title="fastadv", theme=THEME, code_format=picture,
        unique_id="terminal",
    )  # fmt: skip


if __name__ == "__main__":
    main()
