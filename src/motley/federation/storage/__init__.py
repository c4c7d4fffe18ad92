"""The object store that all parties reach, and bulk bytes in it."""
