"""Published trainings, row by row, turned into what the evaluator predicts."""
