"""What anybody who reads the store finds there: the chain of seals, the open round, the ledger."""
