"""Training UMCI (`clipsam/umci.py`) on cached features of a frozen tower: pictures, cache, loss, loop."""
