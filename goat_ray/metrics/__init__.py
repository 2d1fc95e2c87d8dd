"""Label maps measured and scored: lesions, surfaces, and the rules of each challenge as data."""
