"""The sections of a report, each from tables alone."""
