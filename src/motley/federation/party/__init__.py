"""One party at work: it trains, publishes, helps to seal, and takes in what was sealed."""
