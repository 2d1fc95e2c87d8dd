"""Scripts that measure what the README claims; each records its numbers under results/."""
