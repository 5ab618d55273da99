"""The machine below us: its meters, and the small files in which something outlives us."""
