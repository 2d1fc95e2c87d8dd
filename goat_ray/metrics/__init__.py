"""Measurements on label maps: shapes and volumes of lesions."""
