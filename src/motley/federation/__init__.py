"""Several parties train one model over an append-only log in an object store (docs/protocol.md).

From the bottom up: `keys` and `codec` know nothing of the rest, `storage` has the store, `charter`
the terms and messages, `log` what follows from them, `state` the mathematics that all repeat, and
`party` a party at work. On top stand the verbs for a whole federation.
"""
