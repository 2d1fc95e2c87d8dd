"""The cohort pipeline. The only package that uses Ray."""
