"""The server's pages: ask and watch the search, look into stores; `shell` is what all of them stand in."""
