"""Helpers of tests: tiny projects, processes, servers, images and golden files."""
