"""A page to speak into, in which an exported model runs, and the server that gives it out."""
