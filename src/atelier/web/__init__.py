"""Pages about trainings and generators: files and servers on this machine."""
