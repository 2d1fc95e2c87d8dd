"""The embedded phantom cohort and ensemble: what `goat-ray demo` and the tests run on."""
