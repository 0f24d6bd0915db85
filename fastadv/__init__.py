"""fastadv."""
