"""Lightning modules that know no architecture, and the callbacks around them."""
