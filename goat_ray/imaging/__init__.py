"""Reading, checking and writing of medical images; no torch, no Ray."""
