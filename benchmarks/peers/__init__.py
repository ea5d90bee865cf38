"""One driver a contestant of `search_vs_peers.py`: started as `python -m peers.with_NAME`, each in its own venv."""
