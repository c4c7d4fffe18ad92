"""Who a party is, what it signs, and what only its readers can open."""
