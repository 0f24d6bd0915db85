"""Papers run again by the public names of fastadv: `python -m papers` lists them."""
