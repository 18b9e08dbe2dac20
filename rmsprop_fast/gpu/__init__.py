"""CuPy's arrays: a whole step as a few launches. Imported when the first one comes."""
