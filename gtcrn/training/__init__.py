"""Lightning modules that train any architecture, and the callbacks around them."""
