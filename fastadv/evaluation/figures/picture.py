"""A figure that a notebook shows, whether or not pyplot was ever imported."""

import io

from matplotlib.figure import Figure


class Picture(Figure):
    """A matplotlib figure of no window and no global state."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=100, bbox_inches="tight", pad_inches=0.1)
        return file.getvalue()
