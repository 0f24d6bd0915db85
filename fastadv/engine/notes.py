"""The notes that a frozen model and its search twin share."""

import logging

log = logging.getLogger("fastadv")


class Notes:
    """Texts for `Frozen.notes`."""

    def __init__(self, texts: tuple[str, ...] = ()) -> None:
        self.texts = texts

    def add(self, note: str) -> None:
        """Take a note, once."""
        if note not in self.texts:
            self.texts = (*self.texts, note)

    def warn(self, note: str, instead_of: str = "") -> None:
        """Take a note that the user should see; `instead_of` is one that no longer holds."""
        self.texts = (*(text for text in self.texts if text != instead_of), note)
        log.warning("freeze: %s", note)
