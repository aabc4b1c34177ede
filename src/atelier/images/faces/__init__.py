"""The faces that the program draws itself."""
