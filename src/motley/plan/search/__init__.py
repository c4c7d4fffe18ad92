"""Finds the best plan: chips into units, units into replicas, each priced by the evaluator."""
