"""The command line's verbs: one file is one verb.

A verb's module has a `TEXT` (one sentence), `add_options(parser)` and `run(options)`. Names are
checked before anything imports torch, which takes seconds.
"""
