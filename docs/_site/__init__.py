"""What the site needs beyond Sphinx. All but `extension` and the events run without it."""
