"""What a model costs, what runs achieved, and pictures of both."""
