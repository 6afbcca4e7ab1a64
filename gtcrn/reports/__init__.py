"""Reports of finished runs: reading their results back, comparing and plotting them, and pages to listen to them."""
