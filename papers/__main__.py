"""Say what can be run."""

from importlib import import_module

for name in ("goodfellow2014", "ilyas2019", "schott2018", "smoothing", "training"):
    about = (import_module(f"papers.{name}").__doc__ or "").partition("\n")[0]
    print(f"python -m papers.{name:<15} {about.partition(': `')[0]}")
