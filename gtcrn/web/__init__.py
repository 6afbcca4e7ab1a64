"""A page that runs exported models on recordings and the microphone, and the server of that page."""
