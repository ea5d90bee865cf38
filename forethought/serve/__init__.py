"""An OpenAI-compatible server in front of a search: it thinks, hides the thought, and answers.

`app.create` makes the application; `forethought serve` runs it. Needs the extra `serve`.
"""
