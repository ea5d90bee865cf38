"""What draws steps: an embedded engine (`local`), any OpenAI-compatible server (`http`), a test double (`scripted`).

`open.open_engine` turns a `--model` string into one of them.
"""
