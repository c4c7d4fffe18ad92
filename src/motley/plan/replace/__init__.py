"""Which weaker chips reach what a strong one does."""
