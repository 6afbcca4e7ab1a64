"""What runs achieved: read back, compared, drawn, and made into pages to look at and listen to."""
