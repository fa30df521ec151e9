"""The sandbox: a provider without models and without a key, for demonstrations and for proving the ledger.

It speaks OpenAI's chat completions, prices what it answers by a table of its own, fails when it is told to, and keeps
an exact bill on disk, attempt by attempt. It is a stranger to the gateway: a process of its own that imports nothing
of ours outside this package, so that its bill can bear witness against the gateway's ledger. `docs/sandbox.md` is its
manual; `__main__.py` starts it.
"""
