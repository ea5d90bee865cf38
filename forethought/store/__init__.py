"""The flywheel's memory: traces appended, found again, exported.

    store/
      shards/*.parquet    immutable, zstd; the truth
      catalogue.sqlite    where each trace lies; built again from the shards whenever it is missing

`schema` turns traces into columns and back, `shards` writes and reads files, `catalogue` is the index,
`writer` appends, `memory` is the store that holds them together.
"""

from forethought.store.catalogue import Entry, Run, Where
from forethought.store.memory import Store, Summary, find_store, open_store
from forethought.store.writer import Writer

__all__ = ["Entry", "Run", "Store", "Summary", "Where", "Writer", "find_store", "open_store"]
