"""What test modules share: tiny projects, processes, servers, pictures and golden files."""
